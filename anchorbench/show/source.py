"""What a sweep's folder holds at the moment: finished runs, and the trajectories of those in training."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anchorbench.files import require_plain
from anchorbench.recipe import Recipe
from anchorbench.sweeps.index import Index
from anchorbench.sweeps.plan import read_plan
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run
from anchorbench.sweeps.store import Store
from anchorbench.train.checkpoint import CheckpointState
from anchorbench.train.trajectory import TrajectoryPoint

SAMPLE = 2_000
"""Most runs of a sweep stored by stack that are read."""


@dataclass(frozen=True)
class Training:
    """A run that is not finished, as its stack's last checkpoint has it."""

    run_id: str
    recipe: Recipe | None
    """None where no plan tells."""
    step: int
    trajectory: list[TrajectoryPoint]


@dataclass(frozen=True)
class Gathered:
    """All runs of a sweep's folder."""

    finished: list[Run]
    training: list[Training]
    planned: int | None
    """Number of runs of the sweep; None where no plan tells."""
    problems: list[str]
    """One message per damaged run, which is left out."""


def gather(folder: Path) -> Gathered:
    """Reads the folder of a sweep, also while it trains. Raises ValueError if it is none."""
    index = Index(folder)
    index.refresh()
    finished: list[Run] = []
    problems: list[str] = []
    for path in sorted((folder / "runs").glob("[!.]*")):
        try:
            finished.append(index.run(path.name) or read_run(path))
        except DamagedRunError as problem:
            problems.append(str(problem))
    store = Store(folder)
    problems += store.refresh()
    stored = sorted(store.ids())
    if len(stored) > SAMPLE:
        problems.append(f"{SAMPLE:,} of {len(stored):,} runs are shown, chosen by their ids")
    for run_id in stored[:SAMPLE]:  # ids are hashes: the first are a random sample
        try:
            run = store.run(run_id)
        except DamagedRunError as problem:
            problems.append(str(problem))
        else:
            finished += [] if run is None else [run]
    if not finished and not (folder / "sweep.json").exists():
        raise ValueError(f"{folder} holds no sweep; allowed: the output folder of a sweep")
    recipes: dict[str, Recipe] = {}
    with suppress(ValueError):  # there is no plan
        recipes = {recipe.run_id: recipe for recipe in read_plan(folder).sweep().runs()}
    done = {run.result.run_id for run in finished}
    training = [
        Training(run_id, recipes.get(run_id), state.step, points)
        for state in checkpoints(folder)
        for run_id, points in zip(state.run_ids, state.trajectories, strict=False)  # a lone member is padded
        if run_id not in done
    ]
    return Gathered(finished, training, len(recipes.keys() | done) if recipes else None, problems)


def checkpoints(folder: Path) -> list[CheckpointState]:
    """The states in the folder's checkpoints that can be read."""
    from safetensors import SafetensorError, safe_open

    found: list[CheckpointState] = []
    for path in sorted((folder / "checkpoints").glob("*.safetensors")):
        with suppress(SafetensorError, OSError, ValueError, KeyError, TypeError):  # removed meanwhile, or damaged
            require_plain(path)
            with safe_open(path, "np") as file:
                found.append(CheckpointState.read(file.metadata()["anchorbench"], path))
    return found
