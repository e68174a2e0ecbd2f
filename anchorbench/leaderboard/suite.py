"""The suite: the tasks that every entry is trained on, and the budgets of the tracks.

Suite           held-out data, which determine the verdict
    composite/heldout-both        ood: (3,4) and (4,3), both never trained
    composite/conflict-control    ood: an ordinary pair and its mirror, held out beside a trained exception and its mirror
    nine-anchors/heldout-both     ood: one pair of 81 and its mirror
    random-permutations/default   ood: 19 of 64 ordered pairs, which do not commute
    memory-reasoning/default      ood: one reasoning pair and its mirror, beside memorized pairs. 18 keys instead of the paper's
                                  100: the laptop track is too short for 10,000 random answers
    chain-search/single           iid: edges never trained. No group is held out; the training examples count as seen. One hop
                                  instead of two, so that two layers suffice
    scan/addprim-turn-left        ood: a verb in combinations (gpu track only)
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

    @property
    def name(self) -> str:
        return f"{self.task}/{self.variant}"

    @property
    def words(self) -> str:
        """The name, with any non-default settings."""
        special = [f"{key} {value}" for key, value in self.config.items()]
        return self.name + (f" ({', '.join(special)})" if special else "")


LAPTOP_SUITE = (
    SuiteTask("composite", "heldout-pairs", pairs=6),
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
