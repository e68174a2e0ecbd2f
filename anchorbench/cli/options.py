"""Options shared by several commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from anchorbench.train.execution import Execution

KeepSteps = Annotated[
    str | None, typer.Option(help="Steps at which weights and optimizer state are kept, separated by commas; default: none.")
]
StrictBits = Annotated[
    bool,
    typer.Option(
        "--strict-bits", help="Restart rather than resume training on a machine where results may differ in the last bits."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, or cuda:N; default: the first GPU if there is one, else the CPU.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Members trained in parallel, or threads per operation; default: all usable cores."),
]
Memory = Annotated[float | None, typer.Option(help="GiB that training may use; default: 60% of free memory.")]
Formats = Annotated[str, typer.Option("--figures", help="Formats of the figures, separated by commas: pdf, svg, png.")]
Columns = Annotated[
    int, typer.Option(min=1, max=2, help="Width of the figures, in columns of a paper: 1 (3.4 inches) or 2 (6.9 inches).")
]
Track = Annotated[
    str | None,
    typer.Option(help="Tracker that shows runs while they train: tensorboard, trackio or wandb, each an extra; default: none."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print runs, stacks, memory and an estimate of the time; train nothing.")]
ModelName = Annotated[str, typer.Argument(help="A run folder, a checkpoint folder or a Hub id.", metavar="DIR|HF_ID")]
TaskName = Annotated[str | None, typer.Option(help="TASK or TASK-VARIANT; default: what the model records.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
FigureFile = Annotated[Path | None, typer.Option("--figures", help="File to draw to: .pdf, .svg or .png; default: none.")]


def use(threads: int | None, device: str | None = None) -> None:
    """Sets device and threads of this process. Raises ValueError with one sentence for a device that does not exist."""
    import torch

    from anchorbench.machine import use_device
    from anchorbench.train.memory import usable_cores

    use_device(device)
    torch.set_num_threads(threads or usable_cores())


def execution(memory: float | None, keep_steps: str | None, *, strict_bits: bool, fail_fast: bool = False) -> "Execution":
    """How a sweep is trained. Raises ValueError with one sentence for an invalid value."""
    from anchorbench.train.execution import Execution

    return Execution(memory=in_bytes(memory), keep_steps=steps_of(keep_steps), strict_bits=strict_bits, fail_fast=fail_fast)


def in_bytes(gib: float | None) -> float | None:
    """Converts GiB to bytes. Raises ValueError if the number is not positive."""
    if gib is not None and not gib > 0:
        raise ValueError(f"memory is {gib}; allowed: a positive number of GiB")
    return None if gib is None else gib * 2**30


def steps_of(text: str | None) -> list[int]:
    """Steps separated by commas. Raises ValueError with one sentence for anything else."""
    try:
        return [] if text is None else [int(step) for step in text.split(",")]
    except ValueError:
        raise ValueError(f"keep-steps is {text!r}; allowed: whole numbers separated by commas") from None
