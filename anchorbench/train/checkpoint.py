"""A stack's state on disk: everything that further training depends on, so that a resumed run ends with the same bits."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from torch import Tensor

from anchorbench.files import Plain, parse_json, require_plain, write_atomically
from anchorbench.recipe import Recipe
from anchorbench.train.evaluation import Point
from anchorbench.train.gradients.choice import continued_path
from anchorbench.train.stack import Stack
from anchorbench.train.trajectory import Machines, Step, TrajectoryPoint, Word

MAX_STATE_BYTES = 2**25


class CheckpointState(Plain):
    """The metadata of a stack's checkpoint; other versions may add to it."""

    model_config = ConfigDict(extra="allow")

    run_ids: Annotated[list[Word], Field(min_length=1)]
    step: Step
    seconds: list[Annotated[float, Field(ge=0, le=1e9)]]
    diverged_at: list[Step | None]
    initial: list[dict[str, str]]
    machines: Machines
    trajectories: list[list[TrajectoryPoint]]

    @classmethod
    def read(cls, about: str, path: Path) -> "CheckpointState":
        """From the metadata of the file `path`. Raises ValueError with one sentence, also if members lack something."""
        try:
            if len(about) > MAX_STATE_BYTES:
                raise ValueError
            content = parse_json(about.encode(), str(path))
            state = cls.model_validate({**content, **content.pop("seen")})
            if {len(state.diverged_at), len(state.trajectories), len(state.initial)} != {len(state.seconds)}:
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"checkpoint {path} is damaged") from None
        return state


def save(stack: Stack, path: Path) -> None:
    """Writes a checkpoint atomically. Raises OSError that names `path`."""
    from safetensors.torch import save as as_bytes

    seen = stack.seen() | {"trajectories": [[asdict(point) for point in points] for points in stack.trajectories]}
    machines = [(step, machine.model_dump()) for step, machine in stack.machines]
    about = json.dumps({"run_ids": stack.run_ids, "step": stack.step, "machines": machines, "seen": seen})
    state = {name: tensor.cpu() for name, tensor in stack.saved().items()}
    write_atomically(path, as_bytes(state, {"anchorbench": about, "digest": _digest(about, state)}))


def resume(recipes: Sequence[Recipe], path: Path) -> Stack:
    """The stack saved at `path`, which must hold these recipes in this order. Its last machine is the current one.

    Raises ValueError with one sentence if the file is damaged or another stack's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        require_plain(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        if metadata["digest"] != _digest(metadata["anchorbench"], state):
            raise KeyError("digest")
        about = CheckpointState.read(metadata["anchorbench"], path)
        stack = Stack(recipes, path=continued_path(about.machines[-1][1].gradient, recipes[0]))
        if about.run_ids != stack.run_ids:
            raise ValueError(f"checkpoint {path} belongs to another stack")
        if len(about.seconds) != len(stack.seconds) or about.step > recipes[0].steps:
            raise KeyError("shape")
        points = [[Point(**point.model_dump()) for point in points] for points in about.trajectories]
        seen = {"seconds": about.seconds, "diverged_at": about.diverged_at, "initial": about.initial, "trajectories": points}
        stack.restore(state, seen, about.step)
        [(_, here)] = stack.machines
        stack.machines = about.machines
        if stack.machines[-1][1].differences(here):
            stack.machines.append((stack.step, here))
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError):
        raise ValueError(f"checkpoint {path} is damaged") from None
    return stack


def _digest(about: str, state: dict[str, Tensor]) -> str:
    """A digest of everything in a checkpoint: safetensors itself would not notice a changed step, name, dtype or number."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
