"""How training is carried out, as opposed to what is trained: a run's weights do not depend on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class Execution:
    """What a sweep takes from its caller besides recipes; the device and the number of threads are the process's."""

    memory: float | None = None
    """Bytes that a stack may take; 60% of what is free if None."""
    keep_steps: Sequence[int] = ()
    """Intermediate steps whose weights and optimizer state are kept as well."""
    strict_bits: bool = False
    """Whether training restarts, rather than resumes, on a machine where its bits may differ."""
    workers: int = 1
    """Processes that train the sweep on this machine, between which its stacks are cut."""
    checkpoint_seconds: float = field(default_factory=lambda: CHECKPOINT_SECONDS)
    """Time between two checkpoints of a stack."""
