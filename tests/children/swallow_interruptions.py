"""A program whose main function goes on whatever interrupts it."""

import signal
import sys

from anchorbench import __main__ as program
from anchorbench.cli import main as cli


def main():
    sys.stderr.write(".")
    sys.stderr.flush()
    while True:
        try:  # noqa: SIM105 - the next Ctrl-C must not come between
            signal.pause()
        except KeyboardInterrupt:
            pass


cli.main, program.GRACE = main, 1
program.main()
