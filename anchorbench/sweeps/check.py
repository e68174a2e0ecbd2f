"""Verifies that a finished run follows from its recipe: redraws its initial weights, retrains its steps, and reevaluates it.

The comparison is bitwise, so there is no tolerance to choose. A difference is conclusive only on a machine like the one that
trained the run (`anchorbench.machine`); on any other, the finding is reported as inconclusive.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run
from anchorbench.train.gradients.choice import Path as GradientPath
from anchorbench.train.gradients.choice import continued_path, gradient_path
from anchorbench.train.stack import Stack, digests

WORDS = {True: "holds", False: "FAILS", None: "unknown"}


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    holds: bool | None
    """None if the check is inconclusive here."""
    why: str


def check(folder: Path, steps: int) -> list[Finding]:
    """Checks the run in `folder`, retraining at most `steps` steps.

    Raises DamagedRunError if the run cannot be read, ValueError for negative `steps`.
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}; allowed: at least 0")
    run = read_run(folder)
    found = [Finding("files", True, "every file has the digest recorded when the run was written"), _identity(run)]
    with _threads(run.result.machines[-1][1].threads):
        stack = Stack([run.recipe], path=_path(run))
        found.append(_initial(run, stack))
        found += _trained_again(run, stack, steps)
        found.append(_answers(run, stack))
    return found


def _identity(run: Run) -> Finding:
    recipe, result = run.recipe, run.result
    task = recipe.load_task()
    same = (recipe.run_id, task.name, task.variant, task.fingerprint) == (
        result.run_id,
        result.task,
        result.variant,
        result.task_fingerprint,
    )
    why = (
        "run id and data follow from the recipe"
        if same
        else f"the recipe's run id is {recipe.run_id}, the result's {result.run_id}"
    )
    return Finding("recipe", same, why if same or recipe.run_id != result.run_id else "the result was obtained on other task data")


def _initial(run: Run, stack: Stack) -> Finding:
    drawn, recorded = stack.initial[0], run.result.initial
    different = [name for name in drawn if drawn[name] != recorded.get(name)] or sorted(recorded.keys() - drawn.keys())
    if not different:
        return Finding("initial weights", True, f"all {len(drawn)} redrawn parameters match step 0")
    return _differs(run, stack, 0, 0, "initial weights", f"{different[0]}, redrawn, does not match step 0")


def _trained_again(run: Run, stack: Stack, steps: int) -> Iterator[Finding]:
    """Retrains the segments between kept steps, the shortest first, as far as `steps` allows; `stack` is at step 0."""
    first = stack.named(0), stack.state_of(0)
    parts = sorted(pairwise([0, *run.result.kept_steps, run.result.steps_trained]), key=lambda part: part[1] - part[0])
    left = steps
    for start, end in parts:
        if end - start > left:
            more = f"--steps {steps - left + end - start} would include them; --keep-steps during training gives shorter segments"
            yield Finding("training", None, f"steps {start} to {end} were not retrained: {more}")
            continue
        left -= end - start
        weights, state = (run.weights(start), run.state(start)) if start else first
        try:
            stack.load(start, weights, state)
        except (KeyError, RuntimeError):
            raise DamagedRunError(f"{run.path} keeps weights at step {start} that do not fit its recipe") from None
        while stack.step < end:
            stack.advance(end)
        reached = digests(stack.named(0))
        expected = digests(run.weights(None if end == run.result.steps_trained else end))
        different = [name for name in reached if reached[name] != expected.get(name)]
        if different:
            yield _differs(
                run, stack, start, end, "training", f"steps {start} to {end}, retrained, end with a different {different[0]}"
            )
        else:
            yield Finding("training", True, f"steps {start} to {end}, retrained, end with the same bits")


def _answers(run: Run, stack: Stack) -> Finding:
    last = run.result.steps_trained
    try:
        stack.load(last, run.weights(), None)
    except (KeyError, RuntimeError):
        raise DamagedRunError(f"{run.path} holds weights that do not fit its recipe") from None
    [behaviour] = [member.behaviour for member in stack.members()]
    shares = ("accuracy_train", "accuracy_seen", "accuracy_iid", "composes", "ordered", "symmetric", "commutes")
    names = (*shares, "groups", "deviations", "verdict")
    if run.result.accuracy_seen is None:  # version 0.1.0, whose verdicts were others
        names = tuple(name for name in names if name not in ("accuracy_seen", "verdict"))
    different = [name for name in names if getattr(behaviour, name) != getattr(run.result, name)]
    if different:
        claimed, asked = getattr(run.result, different[0]), getattr(behaviour, different[0])
        return _differs(run, stack, last, last, "answers", f"evaluated again, {different[0]} is {asked}, not {claimed}")
    return Finding("answers", True, "accuracies, held-out answers and verdict match when evaluated again")


def _differs(run: Run, stack: Stack, start: int, end: int, what: str, why: str) -> Finding:
    """A failed finding if the run was trained on a machine like this one from `start` to `end`, else an inconclusive one."""
    machines = run.result.machines
    begun = next((machine for step, machine in reversed(machines) if step <= start), machines[0][1])
    if any(start < step < end for step, _ in machines):
        return Finding(what, None, f"{why}; inconclusive, as training moved to another machine in between")
    if difference := begun.differences(stack.machines[0][1]):
        return Finding(what, None, f"{why}; inconclusive, as results may differ in the last bits here ({difference})")
    return Finding(what, False, why)


def _path(run: Run) -> GradientPath:
    """The gradient path that trained the run; this machine's own, where that is not available."""
    try:
        return continued_path(run.result.machines[-1][1].gradient, run.recipe)
    except ValueError:
        return gradient_path(run.recipe)


@contextmanager
def _threads(count: int) -> Generator[None]:
    """Sets the number of intra-op threads to that of the run, if there are that many cores: the bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
