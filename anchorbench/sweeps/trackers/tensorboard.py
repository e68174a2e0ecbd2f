"""TensorBoard: event files in `OUT/tensorboard`, one folder per run."""

from pathlib import Path
from typing import Any


class EventFile:
    """The event file of one run."""

    def __init__(self, name: str, recipe: dict[str, Any], out: Path) -> None:
        from tensorboardX import SummaryWriter

        # A run that is resumed is written whole: purging hides what an interrupted process wrote.
        self._writer = SummaryWriter(str(out / "tensorboard" / name), purge_step=0)
        self._writer.add_text("recipe", "\n".join(f"    {field}: {value}" for field, value in recipe.items()))

    def log(self, values: dict[str, float], step: int) -> None:
        """Writes a value per chart, to be seen at once."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Closes the file."""
        self._writer.close()


start = EventFile
