"""Claims whose arms are sweeps: every arm is a recipe trained with the same seeds, and a claim reads the finished runs."""

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from anchorbench.claim import Claim, Curve, Experiment, Findings, Measure, Panel
from anchorbench.parts import MAX_STEPS, estimators
from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.train.execution import Execution

Read = Callable[[Run], float]
"""A number computed from a finished run."""
Found = tuple[Mapping[str, Measure], Sequence[Panel]]
"""A claim's measures and plots."""


class Arms(Experiment):
    """A recipe, and what each arm changes in it."""

    base: dict[str, Any]
    """Fields of a recipe."""
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=200)]
    """Label of each arm -> the recipe's fields, by dotted paths, that it replaces."""
    keep_steps: Annotated[list[Annotated[int, Field(ge=1, le=MAX_STEPS)]], Field(max_length=100)] = []
    """Intermediate steps at which weights are kept."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Arms":
        for label in self.arms:
            self.recipe(label)
        if len({file_name(label) for label in self.arms}) < len(self.arms):
            raise ValueError(f"arms are {list(self.arms)}; allowed: labels whose letters and digits differ")
        return self

    def recipe(self, label: str) -> Recipe:
        """An arm's recipe, at the first seed."""
        try:
            return parse_recipe(self.base).override(self.arms[label])
        except ValueError as problem:
            raise ValueError(f"arm {label!r}: {problem}") from None


class ClaimOnArms(Claim):
    """A claim that trains `Arms` and reads the runs."""

    first_seed: ClassVar[int] = 0
    settings: Arms

    @classmethod
    def recipes(cls, settings: Any) -> list[Recipe]:
        """One per arm."""
        return [settings.recipe(label) for label in settings.arms]

    @abstractmethod
    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """Measures and plots, from each arm's runs in the order of seeds."""

    def run(self) -> Findings:
        """Trains what is missing in the folder of runs. Raises ValueError as `run_sweep` does, if another process trains there,
        and if the runs that are there were trained by several versions or, within an arm, on several gradient paths.
        """
        with tempfile.TemporaryDirectory() as temporary:
            sweeps = {label: self._sweep(label) for label in self.settings.arms}
            folders = {label: (self.runs or Path(temporary)) / file_name(label) for label in sweeps}
            earlier = sum(seconds_before(sweep, folders[label]) for label, sweep in sweeps.items())
            runs = {label: train_sweep(sweep, folders[label], self.settings.keep_steps) for label, sweep in sweeps.items()}
            require_alike(runs)
            measures, panels = self.read(runs)
        every = [run for arm in runs.values() for run in arm]
        return Findings(
            measures,
            panels,
            passes=sum(passes(run.recipe) for run in every),
            data=data_of([arm[0].recipe for arm in runs.values()]),
            gradient=", ".join(sorted({run.result.machines[-1][1].gradient for run in every})),
            earlier=earlier,
        )

    def _sweep(self, label: str) -> Sweep:
        seeds = range(self.first_seed, self.first_seed + self.settings.seeds)
        return Sweep(self.settings.recipe(label), {"seed": tuple(seeds)})


def seconds_before(sweep: Sweep, folder: Path) -> float:
    """Training time of the existing runs."""
    return sum(run.result.seconds for run in SweepFolder(folder, sweep).finished(sweep.runs())[0])


def train_sweep(sweep: Sweep, folder: Path, keep_steps: Sequence[int] = ()) -> list[Run]:
    """All runs of the sweep; what is missing in the folder is trained. Raises ValueError, instead of waiting, if another process
    trains there.
    """

    def fail(progress: Progress) -> None:
        if progress.message is not None and progress.message.startswith("waiting"):
            raise ValueError(f"another process trains in {folder}; allowed: one at a time in a folder")

    return list(run_sweep(sweep, SweepFolder(folder, sweep), fail, Execution(keep_steps=keep_steps)))


def file_name(label: str) -> str:
    """The label, with all but letters and digits replaced."""
    return "".join(letter if letter.isalnum() else "-" for letter in label)


def passes(recipe: Recipe) -> int:
    """Forward-backward passes over a batch per run."""
    return round(recipe.steps * estimators[recipe.estimator.kind].passes_of(recipe.estimator) * recipe.passes)


def data_of(recipes: Iterable[Recipe]) -> dict[str, str]:
    """Task and variant -> fingerprint of their data, without what a recipe changes: that is among the settings."""
    loaded = [recipe.override({"task_config": {}}).load_task() for recipe in recipes]
    return {f"{task.name}/{task.variant}": task.fingerprint for task in loaded}


def require_alike(runs: Mapping[str, Sequence[Run]]) -> None:
    """Raises ValueError if the runs are of several versions of anchorbench or, within an arm, on several gradient paths."""
    for label, arm in runs.items():
        if len(paths := {machine.gradient.partition(" ")[0] for run in arm for _, machine in run.result.machines}) > 1:
            raise ValueError(f"runs of {label!r} are trained by {' and '.join(sorted(paths))}; allowed: one gradient path (--runs)")
    versions = {machine.anchorbench for arm in runs.values() for run in arm for _, machine in run.result.machines}
    if len(versions) > 1:
        raise ValueError(f"runs are of anchorbench {' and '.join(sorted(versions))}; allowed: one version (--runs)")


# ------------------------------------------------------------------------------------------------ what a run gives


def accuracy(run: Run) -> float:
    """Accuracy at unseen keys and positions, at the end of training."""
    return run.result.accuracy_iid.value


def accuracy_train(run: Run) -> float:
    """Share right on training examples, at the end of training."""
    return run.result.accuracy_train.value


def composed(run: Run) -> float:
    """Share of held-out answers composed, at the end of training."""
    return run.result.inferential or 0.0


def of_group(*names: str) -> Read:
    """Accuracy over all of these groups, at the end of training."""

    def read(run: Run) -> float:
        shares = [run.result.groups[name] for name in names]
        return sum(share.hits for share in shares) / sum(share.n for share in shares)

    return read


def highest(field: str) -> Read:
    """The largest value of a field of the trajectory, as papers report it."""
    return lambda run: max(point[field] or 0.0 for point in run.trajectory())


def crossing(x: Sequence[float], y: Sequence[float], level: float = 0.5) -> float:
    """Where y first reaches the level, interpolated in the logarithm of x; the last x if it never does."""
    for at, value in enumerate(y):
        if value >= level:
            if at == 0:
                return float(x[0])
            share = (level - y[at - 1]) / (value - y[at - 1])
            return float(x[at - 1] * (x[at] / x[at - 1]) ** share)
    return float(x[-1])


def first_step(field: str, bound: float, *, falls: bool = False) -> Read:
    """The step at which a field of the trajectory is first at least `bound` (at most, if it falls), interpolated between
    evaluations as by `crossing`; the last step if it never is.
    """
    sign = -1 if falls else 1

    def read(run: Run) -> float:
        points = [(point["step"], sign * point[field]) for point in run.trajectory() if point[field] is not None]
        return crossing([step for step, _ in points], [value for _, value in points], sign * bound)

    return read


def per_seed(runs: Iterable[Run], read: Read) -> np.ndarray:
    """The number for each run, `[seeds]`."""
    return np.array([read(run) for run in runs])


def measure(runs: Iterable[Run], read: Read) -> Measure:
    """The mean over seeds with its interval."""
    return Measure.of(per_seed(runs, read))


def over_arms(
    label: str, x: Sequence[float], runs: Sequence[Sequence[Run]], read: Read, *, share: bool = True, dashed: bool = False
) -> Curve:
    """A curve of a number over arms, each with its place on x."""
    rows = np.stack([per_seed(arm, read) for arm in runs], 1)
    return Curve.over_units(label, x, rows, share=share, dashed=dashed)


def over_steps(label: str, runs: Sequence[Run], field: str, *, share: bool = True, dashed: bool = False) -> Curve:
    """A curve of a field of the trajectory over steps; of a group's accuracy by the field `groups.NAME`."""
    name, _, group = field.partition(".")
    trajectories = [run.trajectory() for run in runs]
    rows = np.array([[point[name][group] if group else point[name] for point in points] for points in trajectories], float)
    return Curve.over_units(label, [point["step"] for point in trajectories[0]], rows, share=share, dashed=dashed)
