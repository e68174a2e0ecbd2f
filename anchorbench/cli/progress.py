"""Progress of a sweep in lines, where there is no terminal for a bar: one a minute."""

import time
from collections.abc import Callable
from pathlib import Path

from anchorbench.cli.plan import duration
from anchorbench.show.source import checkpoints
from anchorbench.sweeps.runner import Progress

EVERY = 60.0
"""Seconds between two lines."""


class ProgressLines:
    """Says every minute how far a sweep is: steps, loss, speed and the time left."""

    def __init__(self, say: Callable[[str], None], out: Path, steps: int) -> None:
        """`steps` is the total over all runs that are missing."""
        self._say, self._out, self._steps = say, out, steps
        self._start = self._said = time.monotonic()
        self._done = self._before = self._current = 0
        self._begun = False

    def report(self, event: Progress) -> None:
        """Takes in an event; says a line if a minute has passed since the last one."""
        if event.message is not None:
            return
        now, steps = time.monotonic(), len(event.recipes) * event.step
        if event.finished is not None:
            self._done, self._current = self._done + len(event.recipes) * event.recipes[0].steps, 0
        else:
            self._current = steps
        if not self._begun and event.step:  # what earlier calls trained says nothing about the speed
            self._begun, self._start, self._before = True, now, self._done + self._current
        if event.finished is None and event.step and now - self._said >= EVERY:
            self._said = now
            self._say(self._line(event, now))

    def _line(self, event: Progress, now: float) -> str:
        trained = self._done + self._current
        speed = (trained - self._before) / max(now - self._start, 1e-9)
        runs = f"{len(event.recipes)} run{'s' * (len(event.recipes) != 1)}"
        words = [f"step {event.step} of {event.recipes[0].steps} of {runs}"]
        words += [f"loss {loss:.3g}"] if (loss := self._loss({recipe.run_id for recipe in event.recipes})) is not None else []
        if speed > 0:
            words += [f"{speed:.3g} steps/s over all runs", f"about {duration((self._steps - trained) / speed)} left"]
        return ", ".join(words)

    def _loss(self, run_ids: set[str]) -> float | None:
        """Mean loss of these runs at the last evaluation that a checkpoint has; None before the first."""
        lines = [line for state in checkpoints(self._out) if run_ids & set(state.run_ids) for line in state.trajectories]
        known = [line[-1].loss for line in lines if line and line[-1].loss is not None]
        return sum(known) / len(known) if known else None
