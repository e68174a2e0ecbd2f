"""Sweeps from Python, in one call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from anchorbench.presets import AXES, PRESETS
from anchorbench.sweeps.folder import FinishedRuns, SweepFolder
from anchorbench.sweeps.grid import MAX_RUNS, Sweep
from anchorbench.sweeps.run_folder import Run, load_results
from anchorbench.sweeps.runner import Progress, run_sweep
from anchorbench.sweeps.summary import clearest
from anchorbench.train.execution import Execution

if TYPE_CHECKING:
    from pandas import DataFrame

PRECISIONS = ("auto", "fp32", "bf16", "tf32")


class Runs(Sequence[Run]):
    """The finished runs of a sweep, in its order; those that are stored by stack are read when they are asked for."""

    def __init__(self, runs: Sequence[Run], out: Path) -> None:
        self._runs = runs
        self.out = out
        """The sweep's folder."""

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Run]: ...
    def __getitem__(self, at: int | slice) -> Run | Sequence[Run]:
        return self._runs[at]

    @property
    def ids(self) -> list[str]:
        """The runs' ids, which are known without reading them."""
        return list(self._runs.ids) if isinstance(self._runs, FinishedRuns) else [run.result.run_id for run in self._runs]

    def frame(self) -> "DataFrame":
        """One row per run, as `anchorbench.load_results`."""
        frame = load_results(self.out).set_index("run_id", drop=False)
        return frame.loc[self.ids].reset_index(drop=True)

    def clearest(self) -> list[Run]:
        """The clearest inferential run and the clearest memorizing one, of those that are not underfit."""
        return clearest(self)


def make_sweep(
    task: str = "composite",
    *,
    variant: str | None = None,
    preset: str = "laptop",
    gamma: Sequence[float] | None = None,
    norm: Sequence[str] | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    weight_decay: float | None = None,
    precision: str | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
) -> Sweep:
    """A preset's sweep with other values. Raises ValueError with one sentence for an invalid value."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; allowed: {', '.join(PRESETS)}")
    base = PRESETS[preset]
    fields: dict[str, object] = {"task": task}
    if task != base.task:
        fields |= {"task_config": {}, "variant": None}
    if variant is not None:
        fields["variant"] = variant
    if steps is not None:
        fields["steps"] = steps
        fields["optimizer.warmup"] = min(base.optimizer.warmup, steps // 4) if steps > 0 else 0
    if precision is None:
        precision = "auto" if preset == "laptop" else base.precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    base = base.override(fields)
    if precision == "auto":
        from anchorbench.train.gradients.choice import auto_precision

        precision = auto_precision(base.override({"precision": "fp32"}))
    base = base.override({"precision": precision})
    base = base.override({"variant": base.load_task().variant})
    chosen: dict[str, tuple[Any, ...]] = {}
    if norm is not None:
        chosen["model.norm"] = tuple(norm)
    if weight_decay is not None:
        chosen["optimizer.weight_decay"] = (weight_decay,)
    if gamma is not None:
        chosen["init.gamma"] = tuple(gamma)
    if seeds is not None:
        if not 1 <= seeds <= MAX_RUNS:
            raise ValueError(f"seeds is {seeds}; allowed: 1 to {MAX_RUNS}")
        chosen["seed"] = tuple(range(seeds))
    for path, values in (axes or {}).items():
        if path in chosen:
            raise ValueError(f"axis {path} is given twice; allowed: once")
        chosen[path] = tuple(values)
    swept = {"model.norm": (base.model.norm,), **AXES[preset], **chosen}
    order = sorted(swept, key=lambda path: (path == "seed", path == "init.gamma"))  # gamma and seed vary fastest
    made = Sweep(base, {path: swept[path] for path in order})
    made.numbers()
    return made


def sweep(
    task: str | Sweep = "composite",
    *,
    out: Path | str | None = None,
    keep_steps: Sequence[int] = (),
    memory: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    **options: Any,
) -> Runs:
    """Trains the missing runs of a sweep in the folder `out`, and returns all its runs.

        runs = anchorbench.sweep(task="composite", gamma=[0.5, 0.7], seeds=4)
        runs.frame().groupby("gamma").inferential.mean()

    `options` are those of `make_sweep`: `variant`, `preset`, `gamma`, `norm`, `seeds`, `steps`, `weight_decay`, `precision`, and
    `axes`, a mapping from recipe fields to values; instead of a task name, a complete `Sweep` may be given. `out` defaults to
    `anchorbench-out/TASK-VARIANT-PRESET`; `memory` is in bytes; `report` is called with progress events. Raises ValueError with
    one sentence for an invalid value, or a folder of another sweep.
    """
    made = task if isinstance(task, Sweep) else make_sweep(task, **options)
    if isinstance(task, Sweep) and options:
        raise ValueError(f"{', '.join(options)} given with a complete sweep; allowed: one or the other")
    if out is None:
        out = default_folder(made, options.get("preset", "laptop"))
    folder = SweepFolder(Path(out), made)
    return Runs(run_sweep(made, folder, report, Execution(memory=memory, keep_steps=keep_steps)), folder.out)


def default_folder(made: Sweep, preset: str) -> Path:
    """The default output folder of a preset's sweep."""
    return Path("anchorbench-out") / f"{made.base.load_task().full_name}-{preset}"
