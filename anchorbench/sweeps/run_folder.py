"""A run folder: written atomically, and either read completely or rejected.

    <run_id>/recipe.json  trajectory.jsonl  weights.safetensors  result.json  digests.json

`digests.json` holds the digests of the other files, so that damage is detected. Nothing is ever unpickled.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from anchorbench.files import (
    Plain,
    new_folder,
    open_plain,
    parse_json,
    read_bytes,
    read_json,
    require_plain,
    write_atomically,
)
from anchorbench.recipe import Recipe, flatten, parse_recipe
from anchorbench.task import Offset, first_sentence
from anchorbench.train.trajectory import Machines, Rate, Step, TrajectoryPoint, Verdict, Word
from anchorbench.verdict import Behaviour, Count, Counts

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_TRAJECTORY_BYTES = 2**24
MAX_TABLE_BYTES = 2**31
FORECAST = "forecast.json"
"""Written into the run folder when the probes have read the model; not covered by the digests."""
_FILES = ("recipe.json", "trajectory.jsonl", "weights.safetensors", "result.json")


class DamagedRunError(ValueError):
    """A run folder that is incomplete, altered or unreadable."""


class Result(Plain):
    """The results of a finished run. Shares are (hits, n)."""

    schema_version: Literal[2] = 2
    run_id: Word
    task: Word
    variant: Word
    task_fingerprint: Word
    seconds: float = Field(ge=0, le=1e9)
    """Training time: the stack's time divided by its number of members."""
    accuracy_train: Counts
    accuracy_seen: Counts | None = None
    """None in results of version 0.1.0, whose verdicts are derived again from accuracy_train."""
    accuracy_iid: Counts
    composes: Counts | None
    ordered: Counts | None
    symmetric: Counts | None
    commutes: Counts | None
    groups: dict[str, Counts]
    deviations: dict[Offset, Count]
    """Answer minus composed answer -> count, over the held-out examples."""
    inferential: Rate | None
    verdict: Verdict
    composition: Verdict
    exception: Verdict
    phase: Word | None
    diverged_at: Step | None
    steps_trained: Step
    kept_steps: Annotated[list[Step], Field(max_length=10_000)]
    """Intermediate steps whose weights and optimizer state the folder also holds."""
    initial: dict[str, str]
    """Parameter -> SHA-256 of its initial weights."""
    machines: Machines
    """Machines that trained the run, each with the step after which it took over; more than one if training moved."""

    def up_to_date(self) -> "Result":
        """The result with today's verdicts, which are read from accuracy_seen."""
        if self.accuracy_seen is not None:
            return self
        shares: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Behaviour)}
        shares["accuracy_seen"] = self.accuracy_train
        behaviour = Behaviour(**shares)
        return self.model_copy(update={name: getattr(behaviour, name) for name in ("verdict", "composition", "exception", "phase")})


class Reading(Plain):
    """The forecast of a run's model, stored in its own file: the name, the share of held-out answers, and its 90% interval."""

    forecast: Word | None
    forecast_share: float | None = Field(ge=0, le=1)
    forecast_low: float | None = Field(ge=0, le=1)
    forecast_high: float | None = Field(ge=0, le=1)


TRAJECTORY = TypeAdapter(Annotated[list[TrajectoryPoint], Field(min_length=1)])


class Run(BaseModel):
    """A finished run as read from its folder."""

    model_config = ConfigDict(frozen=True)

    path: Path
    recipe: Recipe
    result: Result

    def row(self) -> dict[str, Any]:
        """The run as a flat row of `results.jsonl`; every share comes with its number of examples."""
        recipe, result = self.recipe, self.result
        shares = {
            "accuracy_train": result.accuracy_train,
            "accuracy_seen": result.accuracy_seen or result.accuracy_train,
            "accuracy_iid": result.accuracy_iid,
            "inferential": result.composes or result.ordered,
            "symmetric": result.symmetric,
            "ordered": result.ordered,
            "commutes": result.commutes,
        }
        measured: dict[str, float | int | None] = {}
        for name, share in shares.items():
            measured |= {name: share.value if share else None, f"{name}_n": share.n if share else None}
        return {
            "run_id": result.run_id,
            "task": result.task,
            "variant": result.variant,
            "norm": recipe.model.norm,
            "gamma": recipe.init.gamma,
            "lr": recipe.optimizer.lr,
            "weight_decay": recipe.optimizer.weight_decay,
            "seed": recipe.seed,
            "steps": recipe.steps,
            "seconds": round(result.seconds, 3),
            **measured,
            "verdict": result.verdict,
            "exception": result.exception,
            "phase": result.phase,
            "diverged_at": result.diverged_at,
            "machines": len(result.machines),
            **{f"machine.{name}": value for name, value in result.machines[-1][1].model_dump().items()},
        }

    @property
    def forecast_path(self) -> Path:
        """Where `record_forecast` stores what the probes have read."""
        return self.path / FORECAST

    def forecast(self) -> dict[str, Any]:
        """The fields of `Reading`, if `classify` has read them; else None."""
        try:
            found = Reading.model_validate(read_json(self.forecast_path))
        except ValueError:  # not yet read, or damaged
            found = Reading(forecast=None, forecast_share=None, forecast_low=None, forecast_high=None)
        return found.model_dump()

    def trajectory(self) -> list[dict[str, Any]]:
        """The evaluations during training, one dictionary per step. Raises DamagedRunError if the file does not hold them."""
        path = self.path / "trajectory.jsonl"
        require_whole(self.path, path.name)
        try:
            lines = read_bytes(path, most=MAX_TRAJECTORY_BYTES).splitlines()
            content = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
            return [point.model_dump() for point in TRAJECTORY.validate_python(content)]
        except ValidationError as error:
            raise DamagedRunError(f"{path} is damaged: {first_sentence(error)}") from None
        except ValueError as error:
            raise DamagedRunError(str(error)) from None

    def weights(self, step: int | None = None) -> dict[str, Any]:
        """Name -> tensor, without the member axis; at an intermediate step if given. Raises ValueError if it was not kept."""
        return self._tensors("weights.safetensors" if step is None else kept_name(self._kept(step)))

    def state(self, step: int) -> dict[str, Any]:
        """The training state at an intermediate step: `optimizer.exp_avg`, ... -> row. Raises as `weights` does."""
        return self._tensors(state_name(self._kept(step)))

    def _tensors(self, name: str) -> dict[str, Any]:
        require_whole(self.path, name)
        return load_weights(self.path / name)

    def _kept(self, step: int) -> int:
        if step not in self.result.kept_steps:
            kept = ", ".join(map(str, self.result.kept_steps)) or "none"
            raise ValueError(f"step is {step}; the run kept these intermediate steps: {kept}")
        return step


def kept_name(step: int) -> str:
    """File name of the weights at an intermediate step."""
    return f"weights-{step}.safetensors"


def state_name(step: int) -> str:
    """File name of the optimizer state at an intermediate step."""
    return f"state-{step}.safetensors"


def load_weights(path: Path) -> dict[str, Any]:
    """Loads the tensors of a safetensors file. Raises DamagedRunError for a file that is truncated or in another format."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_plain(path)
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedRunError(f"{path} is not a complete safetensors file ({error})") from None
    except ValueError as error:
        raise DamagedRunError(str(error)) from None


def result_of(member: Any) -> Result:
    """The result of a trained member (`anchorbench.train.stack.Member`)."""
    behaviour, recipe = member.behaviour, member.recipe
    return Result(
        run_id=recipe.run_id,
        task=recipe.task,
        variant=member.task.variant,
        task_fingerprint=member.task.fingerprint,
        seconds=member.seconds,
        diverged_at=member.diverged_at,
        steps_trained=member.steps_trained,
        kept_steps=sorted(member.kept),
        initial=member.initial,
        machines=member.machines,
        **{name: getattr(behaviour, name) for name in Result.model_fields if hasattr(behaviour, name)},
    )


def write_run(folder: Path, member: Any, confirm: Callable[[], None] = lambda: None) -> None:
    """Writes a trained member (`anchorbench.train.stack.Member`) to `folder`, replacing what was there.

    `confirm` is called when all is ready, just before it takes its place; if it raises an error, nothing is left behind.
    """
    from safetensors.torch import save

    files = {
        "recipe.json": as_json(member.recipe.model_dump(mode="json")),
        "trajectory.jsonl": b"".join(as_json(asdict(point)) for point in member.trajectory),
        "weights.safetensors": save(member.weights),
        **{kept_name(step): save(weights) for step, weights in member.kept.items()},
        **{state_name(step): save(state) for step, state in member.states.items()},
    }
    files["result.json"] = as_json(result_of(member).model_dump(mode="json"))
    files["digests.json"] = as_json({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    with new_folder(folder, marker="digests.json", replace=True) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        confirm()


def read_run(folder: Path) -> Run:
    """Reads the run in `folder`, or, if there is no such folder, the run of this id that is stored with its stack.

    Raises DamagedRunError with one sentence if anything is missing, altered or unreadable.
    """
    try:
        return _read_run(folder)
    except DamagedRunError:
        raise
    except ValueError as error:
        raise DamagedRunError(str(error)) from None


def is_run(folder: Path) -> bool:
    """Whether `read_run` is to read this: a run folder, or the place of one in a sweep whose runs are stored by stack."""
    return (folder / "digests.json").exists() or _may_be_stored(folder)


def _may_be_stored(folder: Path) -> bool:
    return not folder.exists() and folder.parent.name == "runs" and (folder.parent.parent / "stacks").is_dir()


def _read_run(folder: Path) -> Run:
    if _may_be_stored(folder):
        from anchorbench.sweeps.store import Store  # which reads runs as this module does

        store = Store(folder.parent.parent)
        store.refresh()
        if (stored := store.run(folder.name)) is not None:
            return stored
    if folder.exists() and not folder.is_dir():
        raise DamagedRunError(f"{folder} is not a folder; allowed: the folder of a finished run")
    if missing := [name for name in ("digests.json", *_FILES) if not (folder / name).exists()]:
        raise DamagedRunError(f"{folder} is incomplete: {missing[0]} is missing")
    digests = read_json(folder / "digests.json")
    try:
        result = Result.model_validate(read_json(folder / "result.json")).up_to_date()
    except ValidationError as error:
        raise DamagedRunError(f"{folder / 'result.json'} is damaged: {first_sentence(error)}") from None
    for name in (*_FILES, *(of(step) for step in result.kept_steps for of in (kept_name, state_name))):
        _require_digest(folder, name, digests)
    try:
        recipe = parse_recipe(read_json(folder / "recipe.json"))
    except ValueError as error:  # intact, but written by a version with other fields
        raise DamagedRunError(f"{folder / 'recipe.json'} is damaged: {error}") from None
    return Run(path=folder, recipe=recipe, result=result)


def require_whole(folder: Path, name: str) -> None:
    """Raises DamagedRunError if a file of a run does not have the digest recorded when it was written."""
    try:
        _require_digest(folder, name, read_json(folder / "digests.json"))
    except DamagedRunError:
        raise
    except ValueError as error:
        raise DamagedRunError(str(error)) from None


def _require_digest(folder: Path, name: str, digests: Any) -> None:
    with open_plain(folder / name) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not isinstance(digests, dict) or digests.get(name) != digest:
        raise DamagedRunError(f"{folder / name} is damaged: its digest is not the one recorded when it was written")


NAMED_FIELDS = {
    "task": "task",
    "variant": "variant",
    "model.norm": "norm",
    "init.gamma": "gamma",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "seed": "seed",
    "steps": "steps",
}
"""Recipe fields that appear in every row -> their column names."""


def write_tables(out: Path, runs: Iterable[Run]) -> None:
    """Writes `results.jsonl` and `results.csv` from run folders: one row per run, with every field in which recipes differ."""
    runs = list(runs)
    recipes = [flatten(run.recipe.model_dump(mode="json")) for run in runs]
    paths = dict.fromkeys(path for recipe in recipes for path in recipe if path not in NAMED_FIELDS)
    varying = [path for path in paths if len({json.dumps(recipe.get(path)) for recipe in recipes}) > 1]
    _write_rows(
        out,
        [
            run.row() | run.forecast() | {path: recipe.get(path) for path in varying}
            for run, recipe in zip(runs, recipes, strict=True)
        ],
    )


def _write_rows(out: Path, rows: list[dict[str, Any]]) -> None:
    write_atomically(out / "results.jsonl", b"".join(as_json(row) for row in rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["run_id"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / "results.csv", text.getvalue().encode())


def record_forecast(run: Run, found: Reading) -> None:
    """Stores the forecast in the run folder, and in the tables of its sweep if these are writable."""
    with suppress(OSError, ValueError):
        run.forecast_path.parent.mkdir(exist_ok=True)
        write_atomically(run.forecast_path, as_json(found.model_dump()))
        out = run.path.parent.parent
        rows = _read_rows(out)
        mine = [row for row in rows if row.get("run_id") == run.result.run_id]
        for row in mine:
            row.update(found.model_dump())
        if mine:
            _write_rows(out, rows)


def _read_rows(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    lines = read_bytes(path, most=MAX_TABLE_BYTES).splitlines()
    rows = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is damaged: a line is not a row")
    return rows


def load_results(out: Path | str) -> "DataFrame":
    """Loads the results in a sweep's folder as a pandas DataFrame: one row per run, with the columns of `results.csv`.

        runs = anchorbench.load_results("anchorbench-out/composite-heldout-both-laptop")
        runs.groupby("gamma").inferential.mean()

    Raises ValueError with one sentence if the folder holds no results.
    """
    import pandas as pd

    stored = None
    if (Path(out) / "stacks").is_dir():
        from anchorbench.sweeps.store import Store

        stored = Store(Path(out)).frame()
    try:
        if stored is not None and not (Path(out) / "results.jsonl").exists():
            return stored
        rows = pd.DataFrame(_read_rows(Path(out)))
        return rows if stored is None else pd.concat([stored, rows]).drop_duplicates("run_id", keep="last", ignore_index=True)
    except ValueError as error:
        raise ValueError(f"{out} holds no results of a sweep: {error}") from None


def as_json(value: Any) -> bytes:
    """A line of JSON, in which NaN and infinities are null."""
    try:
        return (json.dumps(value, allow_nan=False) + "\n").encode()
    except ValueError:
        return (json.dumps(_finite(value), allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON lacks, replaced by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
