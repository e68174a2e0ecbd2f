"""The program `anchorbench`: whenever it is interrupted, it ends with one sentence and exit code 130.

Commands clean up behind themselves when KeyboardInterrupt is raised in them; before and after, and at a second Ctrl-C, the process
ends at once, which costs nothing that a kill would not cost.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

INTERRUPTED = 130
GRACE = 10
"""Seconds after which an interrupted command that has not ended is left: a library may swallow the interruption."""
SENTENCE = "anchorbench: interrupted; finished runs are kept, and the same command resumes the rest\n"
SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar hides it."""


def main() -> None:
    """Runs the command line."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored, as for a job in the background: so it stays
        signal.signal(signal.SIGINT, _leave)
    _prepare_streams()
    sys.unraisablehook = _unraisable
    from anchorbench.cli.main import main as run_command

    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        run_command()
    except SystemExit as done:
        if done.code == INTERRUPTED:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(INTERRUPTED)  # libraries that were interrupted while they were imported do not end well
        raise
    except BaseException:
        if signal.getsignal(signal.SIGINT) is _leave:  # the interruption came out as another error
            _leave()
        raise


def _interrupt(*_: Any) -> NoReturn:
    signal.signal(signal.SIGINT, _leave)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _leave)
        signal.alarm(GRACE)
    raise KeyboardInterrupt


def _leave(*_: Any) -> NoReturn:
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    os.write(2, SENTENCE.encode())
    os._exit(INTERRUPTED)


def _unraisable(problem: Any) -> None:
    """Python would print and forget an interruption in a destructor or callback."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(problem)


def _prepare_streams() -> None:
    """A closed stream takes everything, and one that cannot show a character shows another."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
