"""Stacks that failed: one small file each in `failed/`, removed when the stack is finished after all."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from anchorbench.files import MAX_SENTENCE, Plain, read_json, remove, visible, write_atomically
from anchorbench.sweeps.run_folder import Run
from anchorbench.train.trajectory import Word


class Failure(Plain):
    """Why a stack failed, where and when."""

    reason: Annotated[str, Field(max_length=2 * MAX_SENTENCE)]
    machine: Annotated[str, Field(max_length=1000)]
    at: datetime
    runs: list[Word]


class FailedStacksError(ValueError):
    """Some stacks of a sweep failed, and all others are finished."""

    def __init__(self, reasons: Sequence[str], missing: int, runs: Sequence[Run]) -> None:
        """`runs` are those that are finished."""
        stacks = f"{len(reasons)} stack{'s' * (len(reasons) != 1)}"
        super().__init__(f"{stacks} failed, and {missing} run{'s are' if missing != 1 else ' is'} missing: {reasons[0]}")
        self.runs = runs


def in_words(error: Exception) -> str:
    """One sentence about an error."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{visible(error.filename)}: {error.strerror or error}"
    return visible(str(error).strip() or type(error).__name__)


def record(out: Path, name: str, runs: Sequence[str], reason: str) -> None:
    """Records the failure of a stack, if the folder can be written."""
    failure = Failure(reason=reason, machine=socket.gethostname(), at=datetime.now(UTC), runs=list(runs))
    with suppress(OSError):
        (out / "failed").mkdir(exist_ok=True)
        write_atomically(_path(out, name), (failure.model_dump_json() + "\n").encode())


def forget(out: Path, name: str) -> None:
    """Removes the record of a failure, if there is one."""
    remove(_path(out, name))


def has_failed(out: Path, name: str) -> bool:
    """Whether a failure of the stack is recorded."""
    return _path(out, name).exists()


def failures(out: Path) -> dict[str, Failure]:
    """The failures in an output folder, by the name of the stack; damaged records are left out."""
    return dict(_read(out))


def _read(out: Path) -> Iterator[tuple[str, Failure]]:
    for path in sorted((out / "failed").glob("[!.]*.json")):
        with suppress(ValueError):
            yield path.stem, Failure.model_validate(read_json(path))


def _path(out: Path, name: str) -> Path:
    return out / "failed" / f"{name}.json"
