"""Trains recipes as one stack, from a checkpoint if there is one."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from anchorbench.recipe import Recipe
from anchorbench.train import checkpoint as checkpoints
from anchorbench.train.evaluation import Point, evaluation_steps
from anchorbench.train.execution import Execution, PausedError
from anchorbench.train.stack import Member, Stack


def train(
    recipes: Sequence[Recipe],
    progress: Callable[[int], None] = lambda step: None,
    checkpoint: Path | None = None,
    finished: Callable[[list[Member]], None] = lambda members: None,
    warn: Callable[[str], None] = lambda sentence: None,
    evaluated: Callable[[Mapping[str, Sequence[Point]]], None] = lambda trajectories: None,
    *,
    how: Execution | None = None,
) -> list[Member]:
    """Trains the recipes as one stack and returns its members in the same order.

    `progress` is called with the number of steps done, after every step or every few steps, `finished` with members as soon as they
    have ended; `progress` may raise PausedError. With `checkpoint`, the state is saved there regularly, and training resumes from
    it, unless it is damaged or lacks one of the steps to be kept. `warn` is called with a sentence about damage, a state that
    cannot be saved, and training resumed on a machine where its bits may differ. `evaluated` is called after each evaluation,
    before `progress`, with run id -> trajectory so far. Raises ValueError if the recipes differ in structure.
    """
    how = how or Execution()
    keep_steps = how.keep_steps
    stack = _resumed(recipes, checkpoint, how, warn) or Stack(recipes)
    done: dict[str, Member] = {}
    evaluate_at = evaluation_steps(recipes[0])
    stops = sorted(evaluate_at.union(keep_steps, [recipes[0].steps]))
    saved = time.perf_counter()

    def end(members: list[Member]) -> None:
        done.update({member.recipe.run_id: member for member in members})
        finished(members)

    def save() -> None:
        if checkpoint is not None:
            try:
                checkpoints.save(stack, checkpoint)
            except OSError as error:
                warn(f"training continues without checkpoints: {checkpoint.parent} cannot be written ({error.strerror or error})")

    while stack.step < recipes[0].steps:
        start = time.perf_counter()
        losses = stack.advance(next(step for step in stops if step > stack.step))
        if stack.step in keep_steps:
            stack.keep()
        if stack.step in evaluate_at:
            stack.evaluate(losses)
            evaluated({recipe.run_id: line for recipe, line in zip(stack.recipes, stack.trajectories, strict=True)})
        spent = (time.perf_counter() - start) / stack.requested
        stack.seconds = [seconds + spent for seconds in stack.seconds]
        try:
            progress(stack.step)
        except PausedError:
            save()
            raise
        if stack.step in evaluate_at and stack.step < recipes[0].steps:
            settled = [member for member in range(stack.requested) if stack.settled(member)]
            if settled:
                members = stack.members()
                end([members[member] for member in settled])
                left = [member for member in range(stack.requested) if member not in settled]
                if not left:
                    break
                stack = stack.subset(left)
        if checkpoint is not None and time.perf_counter() - saved > how.checkpoint_seconds:
            save()
            saved = time.perf_counter()
    else:
        end(stack.members())
    return [done[recipe.run_id] for recipe in recipes]


def _resumed(recipes: Sequence[Recipe], checkpoint: Path | None, how: Execution, warn: Callable[[str], None]) -> Stack | None:
    """The stack in a checkpoint, or None if there is no usable one."""
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        stack = checkpoints.resume(recipes, checkpoint)
    except ValueError as error:
        warn(f"starting over: {error}")
        return None
    if not {step for step in how.keep_steps if step <= stack.step} <= stack.kept.keys():
        return None
    if stack.machines[-1][0] == stack.step > 0 and len(stack.machines) > 1:
        difference = stack.machines[-2][1].differences(stack.machines[-1][1])
        if how.strict_bits:
            warn(f"restarting: the first {stack.step} steps were trained where results may differ in the last bits ({difference})")
            return None
        warn(f"resuming at step {stack.step} where results may differ in the last bits ({difference}); --strict-bits restarts")
    return stack
