"""Trackio: project `anchorbench`, the sweep as the group. Runs are stored on this machine, unless its environment says where."""

import io
from contextlib import redirect_stdout
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any


class TrackioRun:
    """One run, without what trackio prints about each."""

    def __init__(self, name: str, recipe: dict[str, Any], out: Path) -> None:
        trackio: Any = import_module("trackio")
        options = {"group": out.name, "config": recipe, "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(io.StringIO()):
            # In a context of its own: trackio ends the run that its context has.
            self._run = copy_context().run(trackio.init, "anchorbench", name, **options)

    def log(self, values: dict[str, float], step: int) -> None:
        """Sends the values."""
        self._run.log(values, step=step)

    def finish(self) -> None:
        """Waits until all is sent."""
        with redirect_stdout(io.StringIO()):
            self._run.finish()


start = TrackioRun
