"""How training is carried out, as opposed to what is trained: a run's weights do not depend on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

CHECKPOINT_SECONDS = 15.0


@dataclass(frozen=True)
class Execution:
    """How to carry out a sweep; device and number of threads are those of the process."""

    memory: float | None = None
    """Bytes that a stack may use (default: 60% of free memory)."""
    keep_steps: Sequence[int] = ()
    """Intermediate steps at which weights and optimizer state are kept."""
    strict_bits: bool = False
    """Whether training restarts, rather than resumes, on a machine where its bits may differ."""
    fail_fast: bool = False
    """Whether a sweep ends with the first stack that fails, rather than train the others first."""
    checkpoint_seconds: float = field(default_factory=lambda: CHECKPOINT_SECONDS)
    """Time between two checkpoints of a stack."""


class PausedError(Exception):
    """Raised by the `progress` of `train` to stop training, which resumes from here: the state is saved before it is passed on."""
