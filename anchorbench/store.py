"""A run folder: written whole or not at all, and read back whole or refused.

    <run_id>/recipe.json  trajectory.jsonl  weights.safetensors  result.json  digests.json

`digests.json` holds the digests of the others, so that a damaged folder is recognized. Nothing is ever unpickled.
"""

import csv
import hashlib
import io
import json
import math
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

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
from anchorbench.recipe import MAX_STEPS, Recipe, parse_recipe
from anchorbench.task import Offset, first_sentence
from anchorbench.verdict import Count, Counts, Share

MAX_TRAJECTORY_BYTES = 2**24
MAX_STATE_BYTES = 2**25
_FILES = ("recipe.json", "trajectory.jsonl", "weights.safetensors", "result.json")


Step = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Rate = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")]
"""Of ASCII: it is printed on terminals."""


class DamagedRunError(ValueError):
    """A run folder that is incomplete, altered or unreadable."""


class Result(Plain):
    """What a finished run is remembered by. Shares are (hits, n)."""

    schema_version: Literal[1] = 1
    run_id: Word
    task: Word
    variant: Word
    task_fingerprint: Word
    seconds: float = Field(ge=0, le=1e9)
    """Training time; a stack's time divided by its members."""
    accuracy_train: Counts
    accuracy_iid: Counts
    composes: Counts | None
    ordered: Counts | None
    symmetric: Counts | None
    commutes: Counts | None
    groups: dict[str, Counts]
    deviations: dict[Offset, Count]
    """Answer minus composed answer -> how often, over the held-out examples."""
    inferential: Rate | None
    verdict: Word | None
    composition: Word | None
    exception: Word | None
    phase: Word | None
    diverged_at: Step | None
    steps_trained: Step
    kept_steps: Annotated[list[Step], Field(max_length=10_000)]
    """Intermediate steps whose weights the folder holds as well."""
    environment: dict[str, str]


class TrajectoryPoint(Plain):
    """A line of trajectory.jsonl: the fields of `anchorbench.train.Point`, and whatever other versions add."""

    model_config = ConfigDict(extra="allow")

    step: int = Field(ge=1, le=MAX_STEPS)
    loss: float | None = Field(ge=-1e300, le=1e300)
    verdict: Word | None
    accuracy_train: Rate
    accuracy_iid: Rate
    inferential: Rate | None
    symmetric: Rate | None
    groups: dict[str, Rate]


class CheckpointState(Plain):
    """What a checkpoint of a stack says beside its tensors; other versions may add to it."""

    model_config = ConfigDict(extra="allow")

    run_ids: Annotated[list[Word], Field(min_length=1)]
    step: Step
    seconds: list[Annotated[float, Field(ge=0, le=1e9)]]
    diverged_at: list[Step | None]
    trajectories: list[list[TrajectoryPoint]]

    @classmethod
    def read(cls, about: str, path: Path) -> "CheckpointState":
        """From the metadata of the file `path`. Raises ValueError with one sentence, also if members lack something."""
        try:
            if len(about) > MAX_STATE_BYTES:
                raise ValueError
            content = parse_json(about.encode(), str(path))
            state = cls.model_validate({**content, **content.pop("seen")})
            if {len(state.seconds), len(state.diverged_at), len(state.trajectories)} != {len(state.seconds)}:
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"checkpoint {path} is damaged") from None
        return state


_TRAJECTORY = TypeAdapter(Annotated[list[TrajectoryPoint], Field(min_length=1)])


class Run(BaseModel):
    """A finished run as read from its folder."""

    model_config = ConfigDict(frozen=True)

    path: Path
    recipe: Recipe
    result: Result

    def row(self) -> dict[str, Any]:
        """The run as one flat row of `results.jsonl`."""
        recipe, result = self.recipe, self.result

        def value(share: Share | None) -> float | None:
            return None if share is None else share.value

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
            "accuracy_train": value(result.accuracy_train),
            "accuracy_iid": value(result.accuracy_iid),
            "inferential": result.inferential,
            "symmetric": value(result.symmetric),
            "ordered": value(result.ordered),
            "commutes": value(result.commutes),
            "verdict": result.verdict,
            "exception": result.exception,
            "phase": result.phase,
            "diverged_at": result.diverged_at,
        }

    def trajectory(self) -> list[dict[str, Any]]:
        """The evaluations during training, one dictionary per step. Raises DamagedRunError if they are no evaluations."""
        path = self.path / "trajectory.jsonl"
        try:
            lines = read_bytes(path, most=MAX_TRAJECTORY_BYTES).splitlines()
            content = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
            return [point.model_dump() for point in _TRAJECTORY.validate_python(content)]
        except ValidationError as error:
            raise DamagedRunError(f"{path} is damaged: {first_sentence(error)}") from None
        except ValueError as error:
            raise DamagedRunError(str(error)) from None

    def weights(self, step: int | None = None) -> dict[str, Any]:
        """Name -> tensor, without the member axis; of an intermediate step if given. Raises ValueError if it was not kept."""
        if step is not None and step not in self.result.kept_steps:
            kept = ", ".join(map(str, self.result.kept_steps)) or "none"
            raise ValueError(f"step is {step}; the run kept these intermediate steps: {kept}")
        return load_weights(self.path / ("weights.safetensors" if step is None else kept_name(step)))


def kept_name(step: int) -> str:
    """The file that holds the weights of an intermediate step."""
    return f"weights-{step}.safetensors"


def load_weights(path: Path) -> dict[str, Any]:
    """Tensors of a safetensors file. Raises DamagedRunError for a file that is truncated or of another format."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_plain(path)
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedRunError(f"{path} is not a complete safetensors file ({error})") from None
    except ValueError as error:
        raise DamagedRunError(str(error)) from None


def write_run(folder: Path, member: Any) -> None:
    """Writes a trained member (`anchorbench.train.Member`) to `folder`, replacing what was there."""
    from safetensors.torch import save

    behaviour, recipe = member.behaviour, member.recipe
    files = {
        "recipe.json": _json(recipe.model_dump(mode="json")),
        "trajectory.jsonl": b"".join(_json(asdict(point)) for point in member.trajectory),
        "weights.safetensors": save(member.weights),
        **{kept_name(step): save(weights) for step, weights in member.kept.items()},
    }
    result = Result(
        run_id=recipe.run_id,
        task=recipe.task,
        variant=member.task.variant,
        task_fingerprint=member.task.fingerprint,
        seconds=member.seconds,
        accuracy_train=behaviour.accuracy_train,
        accuracy_iid=behaviour.accuracy_iid,
        composes=behaviour.composes,
        ordered=behaviour.ordered,
        symmetric=behaviour.symmetric,
        commutes=behaviour.commutes,
        groups=behaviour.groups,
        deviations=behaviour.deviations,
        inferential=behaviour.inferential,
        verdict=behaviour.verdict,
        composition=behaviour.composition,
        exception=behaviour.exception,
        phase=behaviour.phase,
        diverged_at=member.diverged_at,
        steps_trained=member.steps_trained,
        kept_steps=sorted(member.kept),
        environment=environment(),
    )
    files["result.json"] = _json(result.model_dump(mode="json"))
    files["digests.json"] = _json({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    with new_folder(folder, marker="digests.json", replace=True) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises DamagedRunError with one sentence if anything is missing, altered or unreadable."""
    try:
        return _read_run(folder)
    except DamagedRunError:
        raise
    except ValueError as error:
        raise DamagedRunError(str(error)) from None


def _read_run(folder: Path) -> Run:
    if folder.exists() and not folder.is_dir():
        raise DamagedRunError(f"{folder} is not a folder; allowed: the folder of a finished run")
    if missing := [name for name in ("digests.json", *_FILES) if not (folder / name).exists()]:
        raise DamagedRunError(f"{folder} is incomplete: {missing[0]} is missing")
    digests = read_json(folder / "digests.json")
    try:
        result = Result.model_validate(read_json(folder / "result.json"))
    except ValidationError as error:
        raise DamagedRunError(f"{folder / 'result.json'} is damaged: {first_sentence(error)}") from None
    for name in (*_FILES, *(kept_name(step) for step in result.kept_steps)):
        with open_plain(folder / name) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not isinstance(digests, dict) or digests.get(name) != digest:
            raise DamagedRunError(f"{folder / name} is damaged: its digest is not the one recorded when it was written")
    try:
        recipe = parse_recipe(read_json(folder / "recipe.json"))
    except ValueError as error:  # whole, but of a version with other fields
        raise DamagedRunError(f"{folder / 'recipe.json'} is damaged: {error}") from None
    return Run(path=folder, recipe=recipe, result=result)


def write_tables(out: Path, runs: Iterable[Run]) -> None:
    """Derives `results.jsonl` and `results.csv` from run folders, a row per member."""
    rows = [run.row() for run in runs]
    write_atomically(out / "results.jsonl", b"".join(_json(row) for row in rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["run_id"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / "results.csv", text.getvalue().encode())


def environment() -> dict[str, str]:
    """Versions and hardware that a result depends on."""
    import torch

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **{package: version(package) for package in ("anchorbench", "torch", "numpy")},
    }


def _json(value: Any) -> bytes:
    return (json.dumps(_finite(value), allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
