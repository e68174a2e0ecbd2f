"""Several processes train one sweep on this machine, where that is faster than one with several threads.

Threads share the small operations of a small model badly: two processes of one thread were 1.4 times as fast as one process of two
threads on Zen 3, and as fast on Zen 1. The compiled step has threads of its own and needs no other processes.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anchorbench.recipe import Recipe

SMALL = 1e9
"""Matmul MACs of a member's step below which operations run on one thread."""
WORTH = 3e10
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
    """Processes that train stacks of a sweep beside this one until none is free. They end with this process, whatever ends it."""

    def __init__(self, count: int, out: Path, order: Mapping[str, Any], told: Callable[[list[str], int, bool], None]) -> None:
        """`order` is what `anchorbench.sweeps.helper` takes; `told` is called with the run ids of a stack, its step, and whether it
        has ended.
        """
        self._out, self._tell = out, told
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listeners: list[threading.Thread] = []
        self._processes = [self._start(json.dumps(order)) for _ in range(count)]

    def _start(self, order: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "anchorbench.sweeps.helper", str(self._out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what fails there fails here too, with a sentence
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
                self._lines.put(line)

    def tell(self) -> None:
        """Tells what the processes have done since."""
        with suppress(queue.Empty):
            while True:
                self._tell(*json.loads(self._lines.get_nowait()))

    @property
    def busy(self) -> bool:
        """Whether any is still there."""
        return any(process.poll() is None for process in self._processes)

    def end(self) -> None:
        """Ends those that are still there."""
        for process in self._processes:
            process.terminate()
            process.wait()
        for listener in self._listeners:
            listener.join()
