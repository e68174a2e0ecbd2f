"""A program whose main function goes on whatever interrupts it."""

import select
import sys

from anchorbench import __main__ as program
from anchorbench.cli import main as cli


def main():
    sys.stderr.write(".")
    sys.stderr.flush()
    while True:
        try:  # noqa: SIM105 - the next Ctrl-C must not come between
            select.select([], [], [], 0.05)  # `signal.pause` would miss a signal that comes just before it
        except KeyboardInterrupt:
            pass


cli.main, program.GRACE = main, 1
program.main()
