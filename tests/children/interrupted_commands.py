"""One command, interrupted in each way that is asked for: in forks of this process, so that torch is imported once.

Prints the exit code of each.
"""

import json
import os
import signal
import sys
from pathlib import Path

import anchorbench.machine
from anchorbench import presets, recipe
from anchorbench.cli import main as cli
from anchorbench.cli import run  # noqa: F401 - here, so that it is imported once
from anchorbench.sweeps import folder

tiny, names, root, arguments = json.loads(sys.argv[1])
presets.PRESETS["laptop"] = recipe.parse_recipe(tiny)
anchorbench.machine.native_bf16 = lambda: False  # as in this process


def stop_at(module, name, call, number, first=True):
    """Sends the signal to this process at the call-th call of a function, before or after it does its work."""
    original, calls = getattr(module, name), iter(range(1, 1000))

    def stopping(*args, **kwargs):
        now = next(calls) == call
        if now and first:
            os.kill(os.getpid(), number)
        result = original(*args, **kwargs)
        if now and not first:
            os.kill(os.getpid(), number)
        return result

    setattr(module, name, stopping)


INJECT = {
    "killed with no marker": lambda: stop_at(os, "fsync", 1, signal.SIGKILL),
    "killed after one run": lambda: stop_at(folder, "write_run", 1, signal.SIGKILL, first=False),
    "killed while writing a run": lambda: stop_at(Path, "rename", 2, signal.SIGKILL),
    "killed before the tables": lambda: stop_at(folder, "write_tables", 1, signal.SIGKILL),
}
for name in names:
    child = os.fork()
    if child == 0:
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(root) / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
        INJECT[name]()
        sys.argv = ["anchorbench", *arguments, "--out", str(Path(root) / name)]
        try:
            cli.main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
