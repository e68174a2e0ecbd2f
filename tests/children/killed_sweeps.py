"""Sweeps that are killed at many moments, each in a fork of this process, so that torch is imported once.

Prints what became of each, as JSON.
"""

import json
import os
import random
import select
import signal
import sys
from pathlib import Path

from forks import die, fork, hook, root, sweep, wait

from anchorbench.sweeps import folder, plan
from anchorbench.sweeps import runner as sweeps
from anchorbench.train import checkpoint, evaluation, execution
from anchorbench.train import stack as train
from anchorbench.train.execution import Execution


def note(line):
    with (root / "log").open("a") as file:
        file.write(line + "\n")


def run(out, report=lambda event: None, keep_steps=()):
    return sweeps.run_sweep(sweep, sweeps.SweepFolder(root / out, sweep), report, Execution(keep_steps=keep_steps))


def at(n, act, chosen=lambda *args: True):
    """Acts at the n-th call with chosen arguments."""
    calls = iter(range(1, 100_000))
    return lambda *args: act() if chosen(*args) and next(calls) == n else None


def at_random(out, seed):
    """Lives of random lengths, in moments of every kind, until the sweep is done."""
    rng, kinds = random.Random(seed), []  # noqa: S311 - no secret
    while True:
        life = rng.randint(4, 24)

        def job(life=life):
            left = iter(range(life, -1, -1))

            def moment(kind):
                def strike(*args):
                    if next(left) == 0:
                        (root / f"{out}.kind").write_text(kind)
                        die()

                return strike

            hook(train.Stack, "advance", moment("before a step"))
            hook(Path, "replace", moment("before a file's new name"))
            hook(Path, "rename", moment("before a folder's new name"))
            hook(folder, "write_run", after=moment("after a run"))
            run(out, moment("in progress"))

        code = wait(fork(job))
        if code == 0:
            return kinds
        assert code == -signal.SIGKILL
        kinds.append((root / f"{out}.kind").read_text())


def once(out, *hooks, **constants):
    """One kill at a chosen moment; then the folder as it is left is listed."""

    def job():
        for name, value in constants.items():
            setattr(execution if name == "CHECKPOINT_SECONDS" else evaluation, name, value)
        for owner, name, before, after in hooks:
            hook(owner, name, before, after)
        run(out)

    code = wait(fork(job))
    left = sorted(str(path.relative_to(root / out)) for path in (root / out).rglob("*") if path.is_file())
    steps = {}
    for path in (root / out / "checkpoints").glob("*.safetensors"):
        run_ids = folder.checkpoint_runs(path)
        stack = [one for run_id in run_ids for one in sweep.runs() if one.run_id == run_id]
        steps[path.name] = checkpoint.resume(stack, path).step
    return code, left, steps


def nothing(*args):
    pass


def is_checkpoint(path, *args):
    return ".safetensors." in path.name


def after_one(out, **constants):
    killed = once(out, (Path, "rename", at(2, die), nothing), **constants)
    assert wait(fork(lambda: run(out) and 0)) == 0
    return killed


def while_saving(out, moment):
    def saves(handle):
        return is_checkpoint(Path(f"/proc/self/fd/{handle}").readlink())

    hooks = {
        "before the rename": (Path, "replace", at(5, die, is_checkpoint), nothing),
        "before all is on disk": (os, "fsync", at(5, die, saves), nothing),
    }
    killed = once(out, hooks[moment])
    assert wait(fork(lambda: run(out) and 0)) == 0
    return killed


def logged(name):
    hook(folder, "write_run", lambda _, member, confirm: note(f"{name} {member.recipe.run_id}"))


def at_once(out):
    """Two processes, each of which goes on from its first step only when the other has come to its own."""
    ends = {"one": os.pipe(), "other": os.pipe()}
    plan.STACK_MEMBERS = 2

    def job(name, other):
        logged(name)

        def meet():
            os.write(ends[name][1], b".")
            assert select.select([ends[other][0]], [], [], 30)[0], "the other process does not train"

        found = run(out, at(1, meet, lambda event: event.step == 1))
        (root / f"{out}.{name}").write_text(json.dumps([one.result.run_id for one in found]))

    pids = [fork(lambda: job("one", "other")), fork(lambda: job("other", "one"))]
    codes = [wait(pid) for pid in pids]
    plan.STACK_MEMBERS = 8
    return codes


def taken_over(out):
    """The first process stops at its fifth step, holding its locks; it is killed when the second has begun to wait for it."""
    reader, writer = os.pipe()

    def first():
        logged("first")

        def stop():
            os.write(writer, b".")
            signal.pause()

        run(out, at(5, stop, lambda event: event.step > 0))

    one = fork(first)
    os.close(writer)
    assert os.read(reader, 1), "the first process has ended"
    locks = sorted(path.name for path in (root / out / "locks").iterdir() if path.name != ".guard")

    def second():
        logged("second")
        begun = []

        def see(event):
            if event.message is not None and "waiting for" in event.message:
                os.kill(one, signal.SIGKILL)
            if event.step and event.recipes[0].model.norm == "pre" and not begun:
                begun.append(event.step)

        found = run(out, see)
        (root / f"{out}.second").write_text(json.dumps([[one.result.run_id for one in found], begun]))

    other = fork(second)
    return wait(other), wait(one), locks


run("plain")  # here, so that what is imported on the way is imported once
told = {}
for seed in range(2):
    told[f"random {seed}"] = at_random(f"random {seed}", seed)
told["after one"] = after_one("after one")
told["after one, no checkpoint"] = after_one("after one, no checkpoint", CHECKPOINT_SECONDS=1e9)
for moment in ("before the rename", "before all is on disk"):
    told[moment] = while_saving(moment, moment)
told["at once"] = at_once("at once")
told["taken over"] = taken_over("taken over")
sys.stdout.write(json.dumps(told))
