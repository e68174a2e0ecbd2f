"""Ray: one Ray Core task per stack of a plan. A task whose process or node is lost is submitted again, as the next attempt.

The attempt takes the stack's lock over at once from a process that Ray gave up, wherever that is, and fences it should it still
live. Ray sends only the folder and the numbers of stacks; what is trained is read from the plan, which all nodes must see.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from anchorbench.files import visible
from anchorbench.sweeps.failures import FailedStacksError
from anchorbench.sweeps.plan import read_plan
from anchorbench.sweeps.status import status
from anchorbench.sweeps.work import Worked, Worker

MAX_ATTEMPTS = 100
"""Attempts at one stack, after which it has failed: each one was lost with its process."""


def train_stack(out: str, number: int, attempt: int) -> Worked:
    """Trains one stack, in a process of Ray."""
    import torch

    from anchorbench.train.memory import usable_cores

    torch.set_num_threads(usable_cores())  # Ray sets OMP_NUM_THREADS to the task's share
    return Worker(Path(out), attempt=attempt).train(number)


def run(out: Path, address: str | None, tell: Callable[[str], None], cores: int = 1) -> None:
    """Trains the unfinished stacks of the plan in `out` on the Ray cluster at `address`, or on one that is started here.

    A task takes `cores` cores, and a GPU if the plan says so. `tell` is called with a sentence for each stack. Raises ValueError
    with one sentence without Ray, and FailedStacksError if stacks failed, once all others are finished.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise ValueError("ray is not installed; allowed: after pip install 'anchorbench[ray]'") from None
    plan = read_plan(out)
    left = [stack.number for stack in status(out).stacks if stack.state != "finished"]
    mine = not ray.is_initialized()
    if mine:
        options = {"address": address} if address else {"include_dashboard": False}
        ray.init(log_to_driver=False, configure_logging=False, **options)
    try:
        gpus = 1 if plan.cut.device == "cuda" else 0
        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=0)(train_stack)
        worked = _run(ray, task, str(out.resolve()), left, tell)
    finally:
        if mine:
            ray.shutdown()
    if worked.taken:
        tell(f"{len(worked.taken)} stacks are being trained by other processes")
    if worked.failed:
        missing = sum(stack.members - stack.finished for stack in status(out).stacks)
        raise FailedStacksError(list(worked.failed.values()), missing, [])


def _run(ray: Any, task: Any, out: str, stacks: list[int], tell: Callable[[str], None]) -> Worked:
    all_of = Worked()
    running = {task.remote(out, number, 0): (number, 0) for number in stacks}
    while running:
        [ready], _ = ray.wait(list(running), num_returns=1)
        number, attempt = running.pop(ready)
        try:
            worked: Worked = ray.get(ready)
        except ray.exceptions.RayTaskError as error:  # raised by the task itself
            worked = Worked(failed={number: visible(str(error.cause or error))})
        except ray.exceptions.RayError as error:  # its process or node is lost
            if attempt < MAX_ATTEMPTS:
                tell(f"stack {number}: attempt {attempt} was lost with its process; it resumes from its last checkpoint")
                running[task.remote(out, number, attempt + 1)] = (number, attempt + 1)
                continue
            worked = Worked(failed={number: visible(str(error))})
        all_of.finished += worked.finished
        all_of.taken += worked.taken
        all_of.failed |= worked.failed
        if worked.finished:
            tell(f"stack {number}: finished ({len(all_of.finished)} of {len(stacks)})")
        elif worked.failed:
            tell(f"stack {number} failed: {worked.failed[number]}")
    return all_of
