"""Workers of one plan that are killed, stopped and overtaken, each in a fork of this process, so that torch is imported once.

Prints what became of each, as JSON.
"""

import json
import os
import random
import signal
import sys

from forks import fork, root, sweep, wait

from anchorbench.sweeps import folder, runner
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.plan import Cut, write_plan
from anchorbench.sweeps.work import Worker

runner.LOOK_SECONDS = -1.0
CUT = Cut(workers=4, memory=2.0**40, device=None, keep_steps=[])


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
        done, _ = SweepFolder(out, sweep).ids()
        if codes[0] == 0 and done.issuperset(sweep.numbers()):
            assert wait(fork(lambda: as_worker(out))) == 0  # cleans up after the last kill
            return kills


def written(out):
    return {path: path.stat().st_mtime_ns for place in ("runs", "stacks") for path in (out / place).rglob("[!.]*")}


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
    before = written(out)
    assert before
    os.kill(pid, signal.SIGCONT)
    codes.append(wait(pid))
    assert written(out) == before
    as_worker(out)
    return codes


as_sweep(root / "plain")  # here, so that what is imported on the way is imported once
told = {"together": together(planned("together")), "comes back": comes_back(planned("comes back"))}
for seed in range(2):
    told[f"killed {seed}"] = killed(planned(f"killed {seed}"), seed)
folder.MAX_FOLDERS = 0  # now by stack
told["comes back, by stack"] = comes_back(planned("comes back, by stack"))
told["killed 2"] = killed(planned("killed 2"), 2)
sys.stdout.write(json.dumps(told))
