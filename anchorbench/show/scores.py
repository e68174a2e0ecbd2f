"""What each score of the built-in probes says, in a sentence, and which way it points."""

from typing import Literal, NamedTuple

from anchorbench.probes import Score

Direction = Literal["inference", "memory", "neither"]
ARROWS: dict[Direction, str] = {
    "inference": "higher: as inference predicts",
    "memory": "higher: as a table predicts",
    "neither": "",
}


class Meaning(NamedTuple):
    """A score in a sentence, and what a higher value is evidence for in the papers' account, which one score never settles."""

    sentence: str
    direction: Direction

    @property
    def words(self) -> str:
        return f"{self.sentence} ({ARROWS[self.direction]})" if ARROWS[self.direction] else self.sentence


MEANINGS = {
    "attention_flow": {
        "key_to_last": Meaning("Attention from the last position to the key", "memory"),
        "key_to_anchors": Meaning("Attention from the anchors to the key in the first layer", "inference"),
        "anchors_to_last": Meaning("Attention from the last position to the anchors", "neither"),
        "shift": Meaning("Attention in the first layer from the later of key and anchor to the earlier", "inference"),
        "broadcast": Meaning("Attention in the last layer from the last position to where key and anchor were merged", "inference"),
    },
    "fused_vector": {
        "equal_value": Meaning("Cosine between last-position vectors of different keys and pairs with equal answers", "inference"),
        "unequal_value": Meaning("The same with different answers: the baseline of equal_value", "neither"),
        "equal_minus_unequal": Meaning("How much more alike vectors are when the answers are equal", "inference"),
        "mirrored": Meaning("Cosine between vectors of a pair and its mirror, with the same key", "neither"),
        "other_pairs": Meaning("Cosine between vectors of other pairs with the same key: the baseline of mirrored", "neither"),
        "mirrored_minus_others": Meaning("How much more alike a pair and its mirror are than other pairs", "neither"),
        "mirror_distance": Meaning(
            "Distance between a pair's code and its mirror's after the first layer's attention; 1: as far as other pairs",
            "inference",
        ),
    },
    "anchor_value": {
        "equal_g": Meaning("Cosine of value vectors at the first anchor where key plus first anchor is equal", "inference"),
        "unequal_g": Meaning("The same where it differs: the baseline of equal_g", "neither"),
        "equal_minus_unequal": Meaning("How much more alike the vectors are when key plus first anchor is equal", "inference"),
    },
    "condensation": {
        "directions": Meaning("Number of directions in which the neurons point; 1 if all are parallel", "memory"),
        "stable_rank": Meaning("Squared Frobenius norm over squared spectral norm of the weights", "memory"),
        "participation_ratio": Meaning("Effective number of singular values of the weights", "memory"),
    },
    "embedding_order": {
        "ridge_r2": Meaning("How well the embedding predicts the key's number, linearly; 1: exactly, 0: not at all", "inference"),
        "first_axis_order": Meaning("Rank correlation of the keys with their first principal axis", "inference"),
        "arithmetic_steps": Meaning("How much more alike keys are that differ by the difference of two anchors", "inference"),
        "dimensions": Meaning("Effective number of dimensions of the key embeddings", "memory"),
        "anchor_similarity": Meaning("Mean cosine of the anchors' embeddings", "neither"),
    },
    "commutativity": {
        "held_out": Meaning("Held-out pairs whose two orders get the same answer, right or wrong", "neither"),
        "trained": Meaning("The same for trained pairs, whose answers are equal", "neither"),
    },
    "patching": {
        "anchors_carry": Meaning("Answers that follow both anchors' states from another sequence", "inference"),
        "parts_carry": Meaning("Answers that follow two anchors' states that never met in training", "inference"),
        "key_at_anchors": Meaning("Answers that follow the anchors' states from a sequence with another key", "inference"),
        "key_at_key": Meaning("Answers that follow the key's own state from such a sequence", "memory"),
        "pair_at_last": Meaning("Answers that follow the last position's state from a sequence with another pair", "memory"),
        "exception_in_order": Meaning("How far the trained exception's answer depends on the order of its anchors", "neither"),
    },
}
"""Probe -> score, without its layer -> what it says."""


def meaning(probe: str, score: str) -> Meaning | None:
    """What a score says; None for those of other packages."""
    return MEANINGS.get(probe, {}).get(score.partition(".")[0])


def beyond_control(score: Score) -> str:
    """`above` or `below` if the whole 95% interval is on that side of the control, else nothing."""
    return "above" if score.low > score.control else "below" if score.high < score.control else ""
