"""Experiment trackers (`--track`): every run of a sweep is a run there, with its recipe, and its trajectory as it is evaluated."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from anchorbench.recipe import Recipe, flatten
from anchorbench.sweeps.failures import in_words
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.runner import Progress

TRACKERS = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}
"""Each a module of `trackers`, and an extra of the package -> what it imports."""
MEASURED = ("loss", "accuracy_train", "accuracy_iid", "inferential", "symmetric")
"""The fields of a trajectory that are tracked, where they have a value."""


class Tracked(Protocol):
    """A run at a tracker."""

    def log(self, values: dict[str, float], step: int) -> object:
        """Adds values at a step."""
        ...

    def finish(self) -> object:
        """Ends the run."""
        ...


class Tracking:
    """Takes in the progress of a sweep, and tells a tracker. If that fails, training goes on without it, with one warning."""

    def __init__(self, tracker: str, sweep: Sweep, out: Path, warn: Callable[[str], None]) -> None:
        """Raises ValueError with one sentence for an unknown tracker, or one whose package cannot be imported."""
        if tracker not in TRACKERS:
            raise ValueError(f"--track is {tracker[:50]!r}; allowed: {', '.join(TRACKERS)}")
        try:
            import_module(TRACKERS[tracker])
        except ImportError as error:
            raise ValueError(f"{tracker} cannot be used ({error}); allowed: after pip install 'anchorbench[{tracker}]'") from None
        module = import_module(f"anchorbench.sweeps.trackers.{tracker}")
        self._start: Callable[[str, dict[str, Any], Path], Tracked] = module.start
        self._tracker, self._fields, self._out, self._warn = tracker, sweep.fields, out, warn
        self._runs: dict[str, Tracked] = {}
        self._logged: dict[str, int] = {}
        self._failed = False

    def report(self, event: Progress) -> None:
        """Logs what was evaluated since the last event; ends the runs of a stack that is finished."""
        self._try(lambda: self._log(event))

    def close(self) -> None:
        """Ends all runs."""
        self._try(lambda: self._finish(list(self._runs)))

    def _try(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            self._warn(f"{self._tracker} failed, and training goes on without it: {in_words(error)}")

    def _log(self, event: Progress) -> None:
        for recipe in event.recipes if event.trajectories else ():
            run_id = recipe.run_id
            points = event.trajectories.get(run_id, ())
            for point in points[self._logged.get(run_id, 0) :]:
                if run_id not in self._runs:
                    fields = flatten(recipe.model_dump(mode="json"))
                    self._runs[run_id] = self._start(self._name(recipe, fields), fields, self._out)
                values = {name: getattr(point, name) for name in MEASURED}
                self._runs[run_id].log({name: value for name, value in values.items() if value is not None}, step=point.step)
            self._logged[run_id] = len(points)
        if event.finished is not None:
            self._finish([recipe.run_id for recipe in event.recipes])

    def _name(self, recipe: Recipe, fields: dict[str, Any]) -> str:
        """What varies, and the run id; also the name of a folder."""
        varied = [f"{path.rpartition('.')[2]}={fields[path]}" for path in self._fields if path in fields]
        return re.sub(r"[^\w.=,-]", "_", ",".join([*varied, ""])[-100:]) + recipe.run_id

    def _finish(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            if (run := self._runs.pop(run_id, None)) is not None:
                run.finish()
