"""What a held-out answer that is not the composed one is instead: another pair's answer, the exception's, or half of the rule's."""

import numpy as np

from anchorbench.task import NO_ANSWER, Task

SAMPLED = 4000
"""Sequences from which a task's offsets are read."""
COMPOSED, ELSE = "composed", "another answer"
MOST_NAMES = 3


def deviation_names(task: Task) -> dict[int, str]:
    """Deviation of a held-out answer from the composed one -> what it is, where that is the same in all held-out groups.

    `composed` for 0; `as the exception` for its trained answer; `(4,4) said instead` for the answer of a trained group, such as the
    pair of an anchor with itself; `the key itself` and `the value after first anchor` for intermediate values of the rule.
    """
    if "ood" not in task.splits:
        return {}
    held_out, trained = task.sample("ood", SAMPLED, seed=0), task.sample("train", SAMPLED, seed=0)
    composed = held_out.foils["inferential"]
    found: dict[int, list[str]] = {0: [COMPOSED]}

    def name(differences: np.ndarray, words: str) -> None:
        """Names the deviation if it is the same for every sequence."""
        values = np.unique(differences)
        if len(values) == 1 and words not in found.setdefault(int(values[0]), []):
            found[int(values[0])].append(words)

    for foil, answer in held_out.foils.items():
        if foil != "inferential" and (asked := answer != NO_ANSWER).any():
            name((answer - composed)[asked], "as the exception" if foil == "symmetric" else foil)
    said: dict[int, list[str]] = {}
    for number, group in enumerate(task.groups):
        offsets = np.unique((trained.label - trained.key)[trained.group == number])
        asked = np.unique(composed - held_out.key)
        if len(offsets) == 1 and len(asked) == 1 and (held_out.key != NO_ANSWER).all():
            said.setdefault(int(offsets[0] - asked[0]), []).append(group.name)
    for deviation, groups in said.items():
        if deviation not in found:
            more = ", ..." if len(groups) > MOST_NAMES else ""
            found[deviation] = [f"{' or '.join(groups[:MOST_NAMES])}{more} said instead"]
    for value, numbers in task.trace(held_out.tokens).items():
        deviation = np.unique(numbers - composed)
        if (numbers != NO_ANSWER).all() and len(deviation) == 1:
            words = value.replace("_", " ")
            found.setdefault(int(deviation[0]), ["the key itself" if value == "key" else f"the value {words}"])
    return {deviation: " or ".join(words) for deviation, words in found.items()}
