"""Weights & Biases: project `anchorbench`, the sweep as the group. Login, server and offline mode are those of its environment."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb


def start(name: str, recipe: dict[str, Any], out: Path) -> "wandb.Run":
    """Starts a run beside those that other members of the stack have started."""
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    return wandb.init(project="anchorbench", group=out.name, name=name, config=recipe, dir=out, reinit="create_new", settings=quiet)
