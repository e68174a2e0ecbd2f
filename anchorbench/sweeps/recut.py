"""Stacks that are cut in two while they are trained: an idle worker asks for half of the largest one, and its owner gives it.

The owner saves its state, writes a checkpoint for each half, and then `recut/<name>.json`, which names the runs of the halves: from
then on the stack is trained as its halves, by anyone. Members are independent, so that their bits do not depend on the cut.
"""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

from anchorbench.files import remove, write_atomically
from anchorbench.recipe import Recipe
from anchorbench.sweeps.folder import SweepFolder, checkpoint_runs, cuts
from anchorbench.sweeps.lock import is_held, living
from anchorbench.train.execution import PausedError

ANSWER_SECONDS = 60.0
"""How long to wait for half of a stack: its owner looks every second or step, and saves its state."""
POLL_SECONDS = 0.5


class AskedError(PausedError):
    """Somebody asks for half of the stack in training."""


def asked(lock: Path) -> Path:
    """The file that asks the owner of a lock for half of its stack."""
    return lock.with_name(f".asked-{lock.name}")


def ask(out: Path) -> bool:
    """Asks for half of the largest stack in training that nobody asks for, and waits; whether it was given, or is free."""
    locks = out / "locks"
    owners = {name: owner for name, owner in living(locks).items() if len(owner.runs) > 1 and not asked(locks / name).exists()}
    if not owners:
        return False
    name = max(owners, key=lambda name: len(owners[name].runs))
    asked(locks / name).touch()
    end = time.monotonic() + ANSWER_SECONDS
    try:
        while time.monotonic() < end:
            if not is_held(locks / name):
                return True
            if not asked(locks / name).exists():
                return False
            time.sleep(POLL_SECONDS)
        return False
    finally:
        remove(asked(locks / name))


def cut_in_two(stack: Sequence[Recipe], folder: SweepFolder, checkpoint: Path) -> list[list[Recipe]]:
    """The halves of the stack in a checkpoint, which it is trained as from now on; none if there is no sound checkpoint of two."""
    from anchorbench.train.checkpoint import resume, save

    known = {recipe.run_id: recipe for recipe in stack}
    held = [known[run_id] for run_id in checkpoint_runs(checkpoint) if run_id in known]
    middle = len(held) // 2
    halves = [list(range(middle)), list(range(middle, len(held)))]
    if not middle:
        return []
    try:
        trained = resume(held, checkpoint)
        for half in halves:
            save(trained.subset(half), folder.checkpoint([held[member] for member in half]))
        found = [[held[member] for member in half] for half in halves]
        (folder.out / "recut").mkdir(exist_ok=True)
        content = [[recipe.run_id for recipe in half] for half in found]
        write_atomically(folder.out / "recut" / f"{checkpoint.stem}.json", (json.dumps(content) + "\n").encode())
    except (OSError, ValueError):
        return []
    remove(checkpoint)
    return found


def parts(stack: Sequence[Recipe], folder: SweepFolder) -> list[tuple[list[Recipe], Path]]:
    """A planned stack as it is to be trained, each part with its checkpoint.

    It is the halves, if the stack was cut, or what its checkpoint holds, without members that ended early; and the rest.
    """
    known = {recipe.run_id: recipe for recipe in stack}
    checkpoint = folder.checkpoint(stack)
    found: list[tuple[list[Recipe], Path]] = []
    for _, halves in cuts(folder.out, checkpoint.stem):
        runs = list(itertools.chain(*halves))
        if len(set(runs)) == len(runs) and known.keys() >= set(runs):
            found = [part for half in halves for part in parts([known[run_id] for run_id in half], folder)]
    if not found and checkpoint.exists() and known.keys() > (held := set(checkpoint_runs(checkpoint))) and held:
        found = [([recipe for recipe in stack if recipe.run_id in held], checkpoint)]
    covered = {recipe.run_id for part, _ in found for recipe in part}
    rest = [recipe for recipe in stack if recipe.run_id not in covered]
    return [*found, (rest, folder.checkpoint(rest))] if rest else found
