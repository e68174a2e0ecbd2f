"""Several processes train one sweep on this machine, where that is faster than one with several threads.

In torch, a step of a small model is a long sequence of small operations, which threads hardly speed up: two processes with one
thread each train 1.4 times as fast as one with two. The compiled step has threads of its own and needs no other processes.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchorbench.recipe import Recipe, parse_recipe
from anchorbench.train.execution import Execution

if TYPE_CHECKING:
    from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder

SMALL = 1e9
"""Matmul MACs of a member's step below which operations run on one thread."""
WORTH = 3e11
"""Remaining matmul MACs that justify another process: about as many as are trained while it starts."""


def one_thread(recipe: Recipe) -> bool:
    """Whether the recipe's operations run on one thread; depends on recipe and machine, as bits do, never on other runs."""
    import torch

    from anchorbench.train.gradients.choice import gradient_path

    return gradient_path(recipe) != "native" and not torch.cuda.is_available() and recipe.macs_per_step() < SMALL


@contextmanager
def threads_for(recipe: Recipe) -> Generator[None]:
    """Context with torch's number of threads set for a recipe's training."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if one_thread(recipe) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def useful_workers(missing: Sequence[Recipe]) -> int:
    """How many processes should train these recipes: one, or up to one per thread that torch has here."""
    import torch

    if not all(map(one_thread, missing)):
        return 1
    left = sum(recipe.steps * recipe.macs_per_step() for recipe in missing)
    return max(1, min(torch.get_num_threads(), len(missing), int(left / WORTH)))


class Helpers:
    """Processes that train stacks of a sweep alongside this one until none is left. They end with this process, however it ends."""

    def __init__(
        self,
        count: int,
        sweep: "Sweep",
        folder: "SweepFolder",
        missing: Sequence[Recipe],
        how: Execution,
        report: "Callable[[Progress], None]",
    ) -> None:
        self._folder, self._report = folder, report
        self._known = {recipe.run_id: recipe for recipe in missing}
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listeners: list[threading.Thread] = []
        order = {
            "base": sweep.base.model_dump(mode="json"),
            "axes": sweep.axes,
            "missing": list(self._known),
            "how": {**asdict(how), "keep_steps": list(how.keep_steps)},
        }
        self._processes = [self._start(json.dumps(order)) for _ in range(count)]

    def _start(self, order: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "anchorbench.sweeps.workers", str(self._folder.out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whatever fails there also fails here, with a sentence
            text=True,
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker
        with suppress(OSError):
            process.stdin.write(order)
            process.stdin.close()
        listener = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        listener.start()
        self._listeners.append(listener)
        return process

    def _listen(self, stream: Any) -> None:
        with stream as lines:
            for line in lines:
                self._told.put(line)

    def tell(self) -> None:
        """Reports the processes' progress since the last call."""
        from anchorbench.sweeps.runner import Progress

        with suppress(queue.Empty):
            while True:
                ids, step, ended = json.loads(self._told.get_nowait())
                recipes = [self._known[run_id] for run_id in ids]
                self._report(Progress(recipes, step, self._folder.finished(recipes)[0] if ended else None))

    @property
    def busy(self) -> bool:
        """Whether any process is still running."""
        return any(process.poll() is None for process in self._processes)

    def end(self) -> None:
        """Ends the processes that are still running."""
        for process in self._processes:
            process.terminate()
            process.wait()
        for listener in self._listeners:
            listener.join()


def help_sweep(out: Path, order: Any) -> None:
    """Entry point of a worker process."""
    import torch

    from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, train_free

    parent = os.getppid()
    torch.set_num_threads(1)
    sweep = Sweep(parse_recipe(order["base"]), {path: tuple(values) for path, values in order["axes"].items()})

    def tell(event: Progress) -> None:
        if os.getppid() != parent:  # it was killed; what is finished is written
            os._exit(1)
        if event.message is None:
            ids = [recipe.run_id for recipe in event.recipes]
            sys.stdout.write(json.dumps([ids, event.step, event.finished is not None]) + "\n")
            sys.stdout.flush()

    recipes = [recipe for recipe in sweep.runs() if recipe.run_id in order["missing"]]
    train_free(recipes, {}, SweepFolder(out, sweep), tell, Execution(**order["how"]), lambda sentence: None)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    help_sweep(Path(sys.argv[1]), json.loads(sys.stdin.read()))
