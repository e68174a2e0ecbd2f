"""The mechanistic verdict: how a model computes, inferred from probes on trained pairs; no answer to a held-out pair is used.

Two features decide whether a model is inferential; one, on a trained exception (`conflict`), decides whether it reads the pair
in order. Each is a share or a difference of cosines, so it does not depend on the scale of the weights; a logistic regression
turns them into a probability. Its weights are in mechanism.json, written by `anchorbench probe fit`;
`anchorbench probe validate` measures how reliable the verdict is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, ValidationError, model_validator

from anchorbench.files import Plain, read_json
from anchorbench.inspect.open_model import OpenModel, open_one
from anchorbench.probes.fused_vector import mean_similarities
from anchorbench.probes.patching import carried, exception_in_order, followed, write_swaps
from anchorbench.task import Task, first_sentence
from anchorbench.verdict import FIT

WEIGHTS = Path(__file__).with_name("mechanism.json")
COMPOSITION = ("anchors_carry", "equal_minus_unequal")
"""Do the anchors' residual streams carry the answer (probes.patching), and do equal values have similar vectors
(probes.fused_vector)?
"""
EXCEPTION = ("exception_in_order",)
"""Does the answer to the exception depend on the order of its anchors (probes.patching)?"""
SURE = 0.9
"""Probabilities below this for both classes are undecided."""
PENALTY = 10.0
"""scikit-learn's C: a mild penalty, since the classes are almost separable; with C = 1, one run in ten is left undecided."""
SEQUENCES, BASES = 300, 8
"""Sequences and base sequences read by each probe."""

Verdict = Literal["inferential", "memorizing", "undecided"]
Exceptional = Literal["ordered", "symmetric", "undecided"]


Weight = Annotated[float, Field(ge=-1e9, le=1e9)]


class Logistic(Plain):
    """Weights of a logistic regression on standardized features."""

    features: tuple[str, ...]
    mean: tuple[Weight, ...]
    scale: tuple[Annotated[float, Field(gt=0, le=1e9)], ...]
    weight: tuple[Weight, ...]
    intercept: Weight
    runs: int = Field(ge=2, le=1_000_000)
    """Number of runs it was fitted on."""

    @model_validator(mode="after")
    def _one_of_each(self) -> "Logistic":
        if {len(self.mean), len(self.scale), len(self.weight)} != {len(self.features)}:
            raise ValueError("a feature needs one mean, one scale and one weight")
        return self

    def probability(self, features: dict[str, Float[np.ndarray, " n"]]) -> Float[np.ndarray, " n"]:
        """Probability of the positive class: inferential, or ordered."""
        x = (np.stack([features[name] for name in self.features], 1) - self.mean) / self.scale
        return 1 / (1 + np.exp(-(x @ np.array(self.weight) + self.intercept)))


class Classifier(Plain):
    """The content of mechanism.json."""

    composition: Logistic
    exception: Logistic | None


@dataclass(frozen=True)
class Mechanism:
    """How one model computes. Probabilities are None where they do not apply to the task or the model."""

    verdict: Verdict
    probability: float | None
    """Probability that the model is inferential."""
    exception: Exceptional | None
    """How a trained exception is read; None if the task has none."""
    exception_probability: float | None
    """Probability that the exception is read in order."""
    accuracy: float
    """Accuracy on the trained pairs that the probes read; below the fit threshold (0.9), there is no mechanism to name."""
    features: dict[str, float]


def mechanism(model: object, task: Task, seed: int = 0) -> Mechanism:
    """The mechanistic verdict on anything that `anchorbench.classify` accepts. Raises ValueError as it and the probes do."""
    opened, task = open_one(model, task)
    return mechanisms(opened, task, seed=seed)[0]


def mechanisms(opened: OpenModel, task: Task, classifier: Classifier | None = None, seed: int = 0) -> list[Mechanism]:
    """The verdict on each member of a stack."""
    classifier = classifier or load_classifier()
    found, accuracy = read_features(opened, task, seed)
    inferring = classifier.composition.probability(found)
    exceptional = classifier.exception if EXCEPTION[0] in found else None
    in_order = None if exceptional is None else exceptional.probability(found)
    verdicts: list[Mechanism] = []
    for member in range(opened.members):
        fit = bool(accuracy[member] >= FIT)
        p, q = float(inferring[member]), None if in_order is None else float(in_order[member])
        verdicts.append(
            Mechanism(
                verdict=_sure(p, "inferential", "memorizing") if fit else "undecided",
                probability=p if fit else None,
                exception=None if q is None else _sure(q, "ordered", "symmetric") if fit else "undecided",
                exception_probability=q if fit else None,
                accuracy=float(accuracy[member]),
                features={name: float(values[member]) for name, values in found.items()},
            )
        )
    return verdicts


def _sure(probability: float, likely: Any, unlikely: Any) -> Any:
    if probability >= SURE:
        return likely
    return unlikely if probability <= 1 - SURE else "undecided"


def read_features(
    opened: OpenModel, task: Task, seed: int = 0
) -> tuple[dict[str, Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]:
    """All deciding features of each member, and its accuracy on the trained sequences they are read on.

    Raises ValueError for a one-layer model, and for a task that the probes do not fit.
    """
    if opened.n_layer < 2:
        raise ValueError(f"a mechanism needs a model of two layers or more; this has {opened.n_layer}")
    swaps = write_swaps(task, SEQUENCES, seed)
    accuracy = (opened.answers(swaps.base) == swaps.label["base"]).mean(1)
    found = carried(followed(opened, swaps)) | mean_similarities(opened, task, BASES, seed)
    in_order = exception_in_order(opened, task, swaps, seed)
    return (found if in_order is None else found | carried({EXCEPTION[0]: in_order})), accuracy


def fit_logistic(features: Sequence[str], found: dict[str, Float[np.ndarray, " n"]], positive: Bool[np.ndarray, " n"]) -> Logistic:
    """Fits a logistic regression with balanced classes. Raises ValueError unless both classes are present."""
    from sklearn.linear_model import LogisticRegression

    if len(set(positive.tolist())) < 2:
        raise ValueError(f"all {len(positive)} runs behave alike; allowed: runs of both kinds")
    x = np.stack([found[name] for name in features], 1)
    mean, spread = x.mean(0), x.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    fitted = LogisticRegression(C=PENALTY, class_weight="balanced").fit((x - mean) / scale, positive)
    return Logistic(
        features=tuple(features),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weight=tuple(fitted.coef_[0].tolist()),
        intercept=float(fitted.intercept_[0]),
        runs=len(positive),
    )


def load_classifier(path: Path = WEIGHTS) -> Classifier:
    """Loads the fitted weights. Raises ValueError with one sentence if the file is not a classifier."""
    try:
        return Classifier.model_validate(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{path} holds no weights: {first_sentence(error)}") from None
