"""Records of a member's training, as read back from disk."""

from typing import Annotated

from pydantic import ConfigDict, Field

from anchorbench.files import Plain
from anchorbench.machine import Machine
from anchorbench.parts import MAX_STEPS
from anchorbench.verdict import OfToday

Step = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Rate = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")]
Verdict = Annotated[Word | None, OfToday]
"""ASCII only, as it is printed on terminals."""


Machines = Annotated[list[tuple[Step, Machine]], Field(min_length=1, max_length=10_000)]


class TrajectoryPoint(Plain):
    """A line of trajectory.jsonl: the fields of `anchorbench.train.evaluation.Point`, and any that other versions add."""

    model_config = ConfigDict(extra="allow")

    step: int = Field(ge=1, le=MAX_STEPS)
    loss: float | None = Field(ge=-1e300, le=1e300)
    verdict: Verdict
    accuracy_train: Rate
    accuracy_iid: Rate
    inferential: Rate | None
    symmetric: Rate | None
    groups: dict[str, Rate]
