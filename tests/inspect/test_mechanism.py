"""The mechanistic verdict on models whose mechanism is known, and what it may look at."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_COMPOSITE, random_gpt
from hypothesis import given
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.hub.models import to_transformers
from anchorbench.inspect.mechanism import (
    COMPOSITION,
    EXCEPTION,
    Classifier,
    Logistic,
    fit_logistic,
    load_classifier,
    mechanism,
    mechanisms,
    read_features,
)
from anchorbench.inspect.open_model import StackModel, side_by_side
from anchorbench.inspect.planted import key_to_anchors, key_to_anchors_lookup, pair_lookup, rotated, with_noise
from anchorbench.task import SPLITS

TASK, CONFLICT = load_task("composite"), load_task("composite", "conflict")
SMALL, SMALL_CONFLICT = (load_task("composite", variant, **SMALL_COMPOSITE) for variant in ("heldout-both", "conflict"))


@pytest.mark.parametrize("norm", ["pre", "post"])
class TestPlanted:
    def test_the_papers_circuits_are_named(self, norm: str) -> None:
        for plant, truth in ((key_to_anchors, "inferential"), (pair_lookup, "memorizing")):
            found = mechanism(with_noise(rotated(plant(TASK, norm, 7), 7), 0.03, 7), TASK)
            assert found.verdict == truth
            assert found.probability is not None
            assert (found.probability > 0.9) == (truth == "inferential")

    def test_too_much_noise_is_undecided_not_wrong(self, norm: str) -> None:
        for plant in (key_to_anchors, pair_lookup):
            found = mechanism(with_noise(plant(SMALL, norm, 3), 0.8, 3), SMALL)
            assert (found.verdict, found.probability) == ("undecided", None)
            assert found.accuracy < 0.9

    def test_attention_alone_does_not_make_it_inferential(self, norm: str) -> None:
        """The rule's attention in front of a table: fused vectors give it away, though patching does not."""
        assert mechanism(key_to_anchors_lookup(SMALL, norm, 1), SMALL).verdict != "inferential"

    def test_a_table_reads_a_trained_exception_symmetrically(self, norm: str) -> None:
        found = mechanism(pair_lookup(SMALL_CONFLICT, norm, 1), SMALL_CONFLICT)
        assert (found.verdict, found.exception) == ("memorizing", "symmetric")

    def test_an_exported_model_gets_the_same_verdict(self, norm: str) -> None:
        model = pair_lookup(SMALL, norm, 2)
        ours, theirs = mechanism(model, SMALL), mechanism(to_transformers(model), SMALL)
        assert ours.verdict == theirs.verdict
        assert theirs.features == pytest.approx(ours.features, abs=1e-3)


def test_an_untrained_model_is_undecided() -> None:
    assert mechanism(random_gpt(), TASK).verdict == "undecided"


@pytest.mark.parametrize("task", [TASK, CONFLICT, load_task("composite", "conflict-control")], ids=str)
def test_no_held_out_sequence_is_ever_read(task: object) -> None:
    """Every sequence that reaches the model is of a trained group."""
    seen: list[torch.Tensor] = []

    class Watched(StackModel):
        def _fitting(self, tokens: torch.Tensor) -> torch.Tensor:
            seen.append(tokens)
            return super()._fitting(tokens)

    read_features(Watched(random_gpt()), task)  # pyright: ignore[reportArgumentType]
    read = torch.cat(seen).numpy()
    assert len(read) > 3000
    found = task.answer(read)  # pyright: ignore[reportAttributeAccessIssue]
    assert found.valid.all()
    assert (found.split != SPLITS.index("ood")).all()
    held_out = [number for number, group in enumerate(task.groups) if group.role in ("held_out", "mirror")]  # pyright: ignore
    assert not np.isin(found.group, held_out).any()


def test_members_are_judged_as_if_alone() -> None:
    models = [key_to_anchors(SMALL, "pre", 4), pair_lookup(SMALL, "pre", 5)]
    together = mechanisms(side_by_side(models), SMALL)
    for model, found in zip(models, together, strict=True):
        alone = mechanism(model, SMALL)
        assert (found.verdict, found.features) == (alone.verdict, pytest.approx(alone.features, abs=1e-4))


def test_a_probability_by_hand() -> None:
    """x = (3 - 1) / 2 = 1, y = (5 - 5) / 1 = 0; 2 * 1 - 7 * 0 - 1 = 1; 1 / (1 + 1/e)."""
    logistic = Logistic(features=("x", "y"), mean=(1, 5), scale=(2, 1), weight=(2, -7), intercept=-1, runs=3)
    found = logistic.probability({"y": np.array([5.0]), "x": np.array([3.0]), "z": np.array([9.0])})
    assert found.tolist() == pytest.approx([1 / (1 + math.exp(-1))])


@given(shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_a_fit_does_not_depend_on_units(shift: float, scale: float) -> None:
    x = np.array([0.1, 0.2, 0.5, 0.4, 0.8, 0.9])
    positive = np.array([False, False, False, True, True, True])
    plain = fit_logistic(("x",), {"x": x}, positive).probability({"x": x})
    moved = fit_logistic(("x",), {"x": x * scale + shift}, positive).probability({"x": x * scale + shift})
    assert moved == pytest.approx(plain, abs=1e-3)
    assert (np.diff(plain[np.argsort(x)]) > 0).all()


def test_a_feature_that_never_varies_says_nothing() -> None:
    positive = np.array([False, True, False, True])
    found = {"x": np.array([0.0, 1.0, 0.1, 0.9]), "same": np.ones(4)}
    fitted = fit_logistic(("x", "same"), found, positive)
    assert fitted.weight[1] == pytest.approx(0)
    assert (fitted.probability(found) > 0.5).tolist() == positive.tolist()


def test_runs_of_one_kind_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match=r"^all 3 runs behave alike; allowed: runs of both kinds$"):
        fit_logistic(("x",), {"x": np.arange(3.0)}, np.array([True] * 3))


def test_the_shipped_weights() -> None:
    classifier = load_classifier()
    assert classifier.composition.features == COMPOSITION
    assert classifier.composition.runs >= 100
    assert min(classifier.composition.weight) > 0, "both features speak for inferring"
    assert classifier.exception is not None
    assert classifier.exception.features == EXCEPTION
    assert classifier.exception.weight[0] > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b"{}", "composition"),
        (json.dumps({"composition": {"features": ["x"]}, "exception": None}).encode(), "mean"),
    ],
)
def test_other_files_are_no_weights(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "weights.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.json (holds no weights|is not)") as caught:
        load_classifier(tmp_path / "weights.json")
    assert said in str(caught.value)
    with pytest.raises(ValueError, match="is missing"):
        load_classifier(tmp_path / "none.json")


def test_weights_that_do_not_match_their_features_are_refused() -> None:
    good = {"features": ("x",), "mean": (0.0,), "scale": (1.0,), "weight": (1.0,), "intercept": 0.0, "runs": 2}
    assert Classifier.model_validate({"composition": good, "exception": None}).exception is None
    with pytest.raises(ValueError, match="one mean, one scale and one weight"):
        Logistic.model_validate(good | {"weight": (1.0, 2.0)})
