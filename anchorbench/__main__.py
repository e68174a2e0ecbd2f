"""The `anchorbench` program: whenever it is interrupted, it exits with one sentence and code 130.

Commands clean up when KeyboardInterrupt is raised in them. Before and after a command, and on a second Ctrl-C, the process exits
immediately, which loses nothing that a kill would not lose.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

from anchorbench.cli.interruption import INTERRUPTED, SENTENCE

GRACE = 10
"""Seconds after which an interrupted command that is still running is abandoned: a library may have swallowed the interrupt."""
SHOW_CURSOR = b"\x1b[?25h"
"""Restores the cursor, which a progress bar hides."""


def main() -> None:
    """Runs the command line."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # if ignored, as for a background job, keep it ignored
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
            os._exit(INTERRUPTED)  # libraries interrupted during import do not shut down cleanly
        raise
    except BaseException:
        if signal.getsignal(signal.SIGINT) is _leave:  # the interrupt surfaced as another error
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
    """Handles an interrupt in a destructor or callback, which Python would only print."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(problem)


def _prepare_streams() -> None:
    """Makes a closed stream discard output, and a stream that cannot encode a character substitute another."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
