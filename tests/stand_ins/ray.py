"""Ray as far as the engine uses it; tasks run in this process when they are submitted. The first one is lost with its process."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause: Exception | None = None


exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
state: dict[str, Any] = {"initialized": False, "tasks": []}


def is_initialized() -> bool:
    return state["initialized"]


def init(**options: Any) -> None:
    state["initialized"] = True


def shutdown() -> None:
    state["initialized"] = False


def remote(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    assert options == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0}

    def submit(train: Callable[..., Any], *arguments: Any) -> int:
        first = not state["tasks"]
        state["tasks"].append(RayError("the process was lost") if first else train(*arguments))
        return len(state["tasks"]) - 1

    return lambda train: SimpleNamespace(remote=lambda *arguments: submit(train, *arguments))


def wait(tasks: list[int], num_returns: int) -> tuple[list[int], list[int]]:
    return tasks[:num_returns], tasks[num_returns:]


def get(task: int) -> Any:
    found = state["tasks"][task]
    if isinstance(found, Exception):
        raise found
    return found
