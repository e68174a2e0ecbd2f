"""anchorbench: did this transformer solve the task by inferring the rule, or by memorizing the table?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorbench import probes as probes
    from anchorbench.inspect.classify import classify
    from anchorbench.inspect.forecast import forecast
    from anchorbench.show.figures import plot_phase
    from anchorbench.show.flow import plot_flow
    from anchorbench.sweeps.make import sweep
    from anchorbench.sweeps.run_folder import load_results
    from anchorbench.task import Answers, Examples, Task, list_tasks, load_task
    from anchorbench.task import register as register_task

__all__ = [
    "Answers",
    "Examples",
    "Task",
    "classify",
    "forecast",
    "list_tasks",
    "load_results",
    "load_task",
    "plot_flow",
    "plot_phase",
    "register_task",
    "sweep",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that the command line starts quickly."""
    if name not in (*__all__, "probes"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name == "probes":
        return import_module("anchorbench.probes")
    if name == "register_task":
        name = "register"
    homes = {
        "classify": "anchorbench.inspect.classify",
        "forecast": "anchorbench.inspect.forecast",
        "load_results": "anchorbench.sweeps.run_folder",
        "plot_flow": "anchorbench.show.flow",
        "plot_phase": "anchorbench.show.figures",
        "sweep": "anchorbench.sweeps.make",
    }
    return getattr(import_module(homes.get(name, "anchorbench.task")), name)
