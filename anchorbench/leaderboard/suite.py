"""The suite: the tasks that every entry is trained on, and the budgets of the tracks.

Suite           held-out data (split `ood`), which determine the verdict
    composite/heldout-pairs         one pair of different anchors and its mirror, each of the six in turn
    near-synonym/add-doubled        (4,9) and (9,4); anchor 9 is trained with 1, 2 and itself (2401.08309)
    random-permutations/default     19 of 64 ordered pairs, which do not commute; it takes more steps (2605.04396)
    ten-anchors/intervals           each of ten anchors with a tenth of the keys
    two-anchors/odd-even            each of two anchors with the keys of the other's parity
    variable-composition/123-to-4   four operations, where one to three are trained
    scan/addprim-turn-left          a verb in combinations (gpu track only)

Those of the laptop track were chosen by a study of candidates: `anchorbench.leaderboard.study`, docs/suite.md.
"""

from typing import Any, NamedTuple

SEEDS = 6
"""Members per task."""


class SuiteTask(NamedTuple):
    """A task of the suite: held-out data, split `ood`, determine the verdict."""

    task: str
    variant: str
    config: dict[str, Any] = {}
    pairs: int = 1
    """Number of pairs that the variant holds out in turn, by seed modulo this number."""
    times: int = 1
    """Its runs take so many times the recipe's steps."""
    most_data: int | None = None
    """Most training examples; None: as many as the recipe says."""

    @property
    def name(self) -> str:
        return f"{self.task}/{self.variant}"

    @property
    def words(self) -> str:
        """The name, with any non-default settings."""
        special = [f"{key} {value}" for key, value in self.config.items()]
        special += [f"{self.times} times the steps"] if self.times > 1 else []
        special += [f"at most {self.most_data} training examples"] if self.most_data is not None else []
        return self.name + (f" ({', '.join(special)})" if special else "")


LAPTOP_SUITE = (
    SuiteTask("composite", "heldout-pairs", pairs=6),
    SuiteTask("near-synonym", "add-doubled"),
    SuiteTask("random-permutations", "default", times=6, most_data=720),
    SuiteTask("ten-anchors", "intervals"),
    SuiteTask("two-anchors", "odd-even"),
    SuiteTask("variable-composition", "123-to-4"),
)


class Track(NamedTuple):
    """A suite, and the budget of a recipe on it."""

    suite: tuple[SuiteTask, ...]
    parameters: int
    products: float
    """Multiply-accumulates (MACs) in the matmuls of all runs, forward and backward."""
    layers: int
    heads: int
    steps: int
    """Layers, heads and steps bound costs that MACs do not count: elementwise operations, softmax, and fixed costs per step."""
    data_size: int


TRACKS = {
    "laptop": Track(LAPTOP_SUITE, 1_000_000, 5e13, 12, 16, 20_000, 200_000),
    "gpu": Track((*LAPTOP_SUITE, SuiteTask("scan", "addprim-turn-left")), 100_000_000, 2e19, 24, 32, 200_000, 1_000_000),
}
