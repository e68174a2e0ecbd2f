"""Workers of one plan that are killed, stopped and overtaken, each in a fork of this process, so that torch is imported once.

Prints what became of each, as JSON.
"""

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

from anchorbench.recipe import parse_recipe
from anchorbench.sweeps import folder, runner
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.plan import Cut, read_plan, write_plan
from anchorbench.sweeps.work import Worker
from anchorbench.train import evaluation, execution
from anchorbench.train import stack as train

root, base, axes, quick = Path(sys.argv[1]), *json.loads(sys.argv[2])
sweep = Sweep(parse_recipe(base), {path: tuple(values) for path, values in axes.items()})
train.CALL_SECONDS = 0.0
for name, value in quick.items():
    setattr(execution if name == "CHECKPOINT_SECONDS" else evaluation, name, value)
runner.POLL_SECONDS = 0.01
runner.LOOK_SECONDS = -1.0
CUT = Cut(workers=4, memory=2.0**40, device=None, keep_steps=[])


def fork(job):
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
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def planned(name):
    out = root / name
    write_plan(sweep, SweepFolder(out, sweep), CUT)
    return out


def as_sweep(out, report=lambda event: None):
    runner.run_sweep(sweep, SweepFolder(out, sweep), report)


def as_worker(out, report=lambda number, event: None):
    assert Worker(out, report).train_free().failed == {}


def logging(name):
    real = folder.write_run

    def write(path, member, confirm):
        real(path, member, confirm)
        with (root / "log").open("a") as file:
            file.write(f"{name} {member.recipe.run_id}\n")

    folder.write_run = write


def together(out):
    """A sweep cut by another plan in memory, and two workers of this one: all at once."""

    def job(name, work):
        logging(f"{out.name}.{name}")
        work(out)

    return [wait(pid) for pid in [fork(lambda w=w, n=n: job(n, w)) for n, w in enumerate((as_sweep, as_worker, as_worker))]]


def killed(out, seed):
    """Two workers or sweeps at a time, each killed after a random number of events, until all is trained."""
    rng, kills = random.Random(seed), 0  # noqa: S311 - no secret

    def job(work, life):
        left = iter(range(life, -1, -1))

        def strike(*args):
            if next(left, 1) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        work(out, strike)

    while True:
        lives = [rng.randint(2, 12) for _ in range(2)]
        pids = [
            fork(lambda w=w, n=n: job(w, n)) for w, n in zip((as_worker, rng.choice((as_worker, as_sweep))), lives, strict=True)
        ]
        codes = [wait(pid) for pid in pids]
        assert set(codes) <= {0, -signal.SIGKILL}, codes
        kills += codes.count(-signal.SIGKILL)
        if codes[0] == 0 and all((out / "runs" / run).exists() for stack in read_plan(out).stacks for run in stack.runs):
            assert wait(fork(lambda: as_worker(out))) == 0  # cleans up after the last kill
            return kills


def comes_back(out):
    """A worker is stopped at a step; another attempt ends the stack; the first one is woken up."""

    def first():
        def report(number, event):
            if event.step == 5:
                os.kill(os.getpid(), signal.SIGSTOP)

        worked = Worker(out, report, attempt=0).train(0)
        return 75 if worked.taken == [0] else 1

    pid = fork(first)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    codes = [wait(fork(lambda: 75 if Worker(out, attempt=0).train(0).taken == [0] else 1))]  # it holds its lock while stopped
    codes.append(wait(fork(lambda: 0 if Worker(out, attempt=1).train(0).finished == [0] else 1)))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    os.kill(pid, signal.SIGCONT)
    codes.append(wait(pid))
    assert {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == before
    as_worker(out)
    return codes


as_sweep(root / "plain")  # here, so that what is imported on the way is imported once
told = {"together": together(planned("together")), "comes back": comes_back(planned("comes back"))}
for seed in range(3):
    told[f"killed {seed}"] = killed(planned(f"killed {seed}"), seed)
sys.stdout.write(json.dumps(told))
