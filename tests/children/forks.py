"""What programs that kill their forks share: the sweep given on the command line, and lives in forks of this process."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from anchorbench.recipe import parse_recipe
from anchorbench.sweeps import runner
from anchorbench.sweeps.grid import Sweep
from anchorbench.train import evaluation, execution
from anchorbench.train import stack as train

root, base, axes, quick = Path(sys.argv[1]), *json.loads(sys.argv[2])
sweep = Sweep(parse_recipe(base), {path: tuple(values) for path, values in axes.items()})
train.CALL_SECONDS = 0.0
for name, value in quick.items():
    setattr(execution if name == "CHECKPOINT_SECONDS" else evaluation, name, value)
runner.POLL_SECONDS = 0.01


def fork(job):
    """Runs a job in a fork, which exits with what it returns; gives its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = job() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid):
    """The exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hook(owner, name, before=lambda *args: None, after=lambda *args: None):
    """Has a function call others before and after it does its work."""
    original = getattr(owner, name)

    def hooked(*args, **kwargs):
        before(*args)
        result = original(*args, **kwargs)
        after(*args)
        return result

    setattr(owner, name, hooked)
