"""Trains recipes as one stack, from a checkpoint if there is one."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from anchorbench.recipe import Recipe
from anchorbench.train import checkpoint as checkpoints
from anchorbench.train.evaluation import evaluation_steps
from anchorbench.train.stack import Member, Stack

CHECKPOINT_SECONDS = 15.0


def train(
    recipes: Sequence[Recipe],
    progress: Callable[[int], None] = lambda step: None,
    checkpoint: Path | None = None,
    keep_steps: Sequence[int] = (),
    finished: Callable[[Member], None] = lambda member: None,
    warn: Callable[[str], None] = lambda sentence: None,
    *,
    strict_bits: bool = False,
) -> list[Member]:
    """Trains the recipes as one stack and returns its members in the same order.

    `progress` is called with the number of steps done, after every step or a few, `finished` with each member as soon as it has
    ended. With `checkpoint`, the state is saved there every 15 seconds, and training goes on from what is found there; one that
    is damaged or lacks one of `keep_steps`, the steps whose weights are kept as well, is not used. `warn` is told of damage, of a
    state that cannot be saved, and of training resumed on a machine where its bits may differ; with `strict_bits` it is restarted
    instead. Raises ValueError if the recipes differ in structure.
    """
    stack = _resumed(recipes, checkpoint, keep_steps, warn, strict_bits=strict_bits) or Stack(recipes)
    done: dict[str, Member] = {}
    evaluate_at = evaluation_steps(recipes[0])
    stops = sorted(evaluate_at.union(keep_steps, [recipes[0].steps]))
    saved = time.perf_counter()

    def end(members: list[Member]) -> None:
        for member in members:
            done[member.recipe.run_id] = member
            finished(member)

    while stack.step < recipes[0].steps:
        start = time.perf_counter()
        losses = stack.advance(next(step for step in stops if step > stack.step))
        if stack.step in keep_steps:
            stack.keep()
        if stack.step in evaluate_at:
            stack.evaluate(losses)
        spent = (time.perf_counter() - start) / stack.requested
        stack.seconds = [seconds + spent for seconds in stack.seconds]
        progress(stack.step)
        if stack.step in evaluate_at and stack.step < recipes[0].steps:
            settled = [member for member in range(stack.requested) if stack.settled(member)]
            if settled:
                members = stack.members()
                end([members[member] for member in settled])
                left = [member for member in range(stack.requested) if member not in settled]
                if not left:
                    break
                stack = stack.subset(left)
        if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            try:
                checkpoints.save(stack, checkpoint)
            except OSError as error:
                warn(f"training continues without checkpoints: {checkpoint.parent} cannot be written ({error.strerror or error})")
            saved = time.perf_counter()
    else:
        end(stack.members())
    return [done[recipe.run_id] for recipe in recipes]


def _resumed(
    recipes: Sequence[Recipe], checkpoint: Path | None, keep_steps: Sequence[int], warn: Callable[[str], None], *, strict_bits: bool
) -> Stack | None:
    """The stack that a checkpoint holds, or None if there is none, or none that will do."""
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        stack = checkpoints.resume(recipes, checkpoint)
    except ValueError as error:
        warn(f"starting over: {error}")
        return None
    if not {step for step in keep_steps if step <= stack.step} <= stack.kept.keys():
        return None
    if stack.machines[-1][0] == stack.step > 0 and len(stack.machines) > 1:
        difference = stack.machines[-2][1].differences(stack.machines[-1][1])
        if strict_bits:
            warn(f"restarting: the first {stack.step} steps were trained where results may differ in the last bits ({difference})")
            return None
        warn(f"resuming at step {stack.step} where results may differ in the last bits ({difference}); --strict-bits restarts")
    return stack
