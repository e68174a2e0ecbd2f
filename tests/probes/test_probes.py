"""Attention flow against shares worked out by hand, and against a slow loop."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from conftest import FakeModel, patterns_of, random_gpt

from anchorbench import load_task
from anchorbench.inspect.open_model import Activations, OpenModel, open_model
from anchorbench.probes import attention_flow
from anchorbench.sweeps.run_folder import Run

TASK = load_task("composite")
MODEL = random_gpt(n_layer=3, n_head=2, d_model=8, d_head=4, d_ff=16)


def fixed(patterns: list[np.ndarray]) -> OpenModel:
    """A model whose attention is `patterns` (each `[head, query, key]`) for every sequence, and whose untrained twin is uniform."""

    def with_patterns(arrays: list[np.ndarray], untrained: OpenModel | None) -> OpenModel:
        def see(tokens: torch.Tensor) -> Activations:
            given = [torch.from_numpy(array).expand(1, tokens.shape[1], *array.shape) for array in arrays]
            return Activations(torch.zeros(1, tokens.shape[1], 120), given, [], [])

        return FakeModel(see, untrained=untrained)

    causal = np.tril(np.ones((9, 9)))
    uniform = [np.tile(causal / causal.sum(1, keepdims=True), (len(pattern), 1, 1)) for pattern in patterns]
    return with_patterns(patterns, with_patterns(uniform, None))


def shifted(by: int) -> np.ndarray:
    """Every position reads the one `by` before it; the first ones read position 0."""
    pattern = np.zeros((1, 9, 9))
    pattern[0, np.arange(9), np.maximum(np.arange(9) - by, 0)] = 1
    return pattern


def test_shapes_and_names() -> None:
    flow = attention_flow(MODEL, TASK, n=50)
    assert flow.readers == ("first anchor", "second anchor", "last position")
    assert flow.sources == ("key", "first anchor", "second anchor", "filler")
    assert flow.share.shape == flow.half_width.shape == flow.control.shape == (3, 3, 4)
    assert "does not prove" in flow.does_not_show
    with pytest.raises(FrozenInstanceError):
        flow.share = flow.control  # type: ignore[misc]


def test_the_shares_of_a_reader_sum_to_one() -> None:
    flow = attention_flow(MODEL, TASK, n=50)
    np.testing.assert_allclose(flow.share.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(flow.control.sum(-1), 1, atol=1e-6)
    assert (flow.share >= -1e-6).all()  # filler is what is left
    assert (flow.half_width >= 0).all()


def test_nobody_reads_what_comes_later() -> None:
    flow = attention_flow(MODEL, TASK, n=50)
    first, second = flow.readers.index("first anchor"), flow.sources.index("second anchor")
    assert (flow.share[:, first, second] == 0).all()


def test_a_hand_made_pattern_gives_hand_made_shares() -> None:
    """Every position p reads 0.5 from itself and 0.5 from p - 1: in key, first, second anchor all is known but the end."""
    pattern = np.zeros((1, 9, 9))
    pattern[0, 0, 0] = 1
    for p in range(1, 9):
        pattern[0, p, [p - 1, p]] = 0.5
    first = np.zeros((1, 9, 9))
    first[0, :, 0] = 1
    flow = attention_flow(fixed([pattern, first]), TASK, n=400)
    np.testing.assert_allclose(flow.share[0, 0], [0.5, 0.5, 0, 0])  # the first anchor reads the key before it and itself
    np.testing.assert_allclose(flow.share[0, 1], [0, 0.5, 0.5, 0])
    # The last position reads 8 and 7: the key stands at 0..6, so that its anchors end at 7 (key 5) or 8 (key 6).
    at = TASK.sample("iid", 400, 0).position
    five, six = (at == 5).mean(), (at == 6).mean()
    assert five > 0
    assert six > 0
    expected = [0, six / 2, six / 2 + five / 2, 1 - six - five / 2]
    np.testing.assert_allclose(flow.share[0, 2], expected)
    # Layer 2: all read position 0, which is the key of some sequences and filler of the others.
    zero = (at == 0).mean()
    np.testing.assert_allclose(flow.share[1], np.tile([zero, 0, 0, 1 - zero], (3, 1)))
    # Uniform attention: the second anchor at p + 2 reads 1 / (p + 3) from each.
    each = (1 / (at + 3)).mean()
    np.testing.assert_allclose(flow.control[0, 1], [each, each, each, 1 - 3 * each])
    # Shares that are the same in all sequences have no width; others have the one of their mean.
    np.testing.assert_allclose(flow.half_width[0, :2], 0, atol=1e-12)
    width = 1.96 * np.sqrt(zero * (1 - zero) / 399)
    np.testing.assert_allclose(flow.half_width[1, 0], [width, 0, 0, width])


def test_heads_are_averaged() -> None:
    own, first = np.eye(9)[None], np.zeros((1, 9, 9))
    first[0, :, 0] = 1
    both = attention_flow(fixed([np.concatenate([own, first])]), TASK, n=60)
    apart = [attention_flow(fixed([pattern]), TASK, n=60).share for pattern in (own, first)]
    np.testing.assert_allclose(both.share, (apart[0] + apart[1]) / 2)


def test_it_agrees_with_a_loop_over_sequences() -> None:
    flow = attention_flow(MODEL, TASK, n=40, seed=3)
    examples = TASK.sample("iid", 40, 3)
    expected = np.zeros((40, 3, 3, 4))
    for row, tokens in enumerate(torch.from_numpy(examples.tokens)):
        key = int(examples.position[row])
        for layer, pattern in enumerate(patterns_of(MODEL, tokens[None, None])):
            for reader, at in enumerate((key + 1, key + 2, 8)):
                weights = pattern[0, 0, :, at].mean(0).numpy()
                named = [weights[key], weights[key + 1], weights[key + 2]]
                expected[row, layer, reader] = [*named, sum(weights[p] for p in range(9) if p not in (key, key + 1, key + 2))]
    np.testing.assert_allclose(flow.share, expected.mean(0), atol=1e-6)


def test_the_control_is_an_untrained_model() -> None:
    flow = attention_flow(MODEL, TASK, n=50, seed=1)
    untrained = attention_flow(open_model(MODEL).untrained(1), TASK, n=50, seed=1)
    np.testing.assert_allclose(flow.control, untrained.share)
    assert np.abs(flow.share - flow.control).max() > 0.01


def test_it_is_repeatable_and_depends_on_the_seed() -> None:
    first, again, other = (attention_flow(MODEL, TASK, n=30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.share, again.share)
    np.testing.assert_array_equal(first.control, again.control)
    assert np.abs(first.share - other.share).max() > 0


def test_it_reads_a_finished_run(run: Run) -> None:
    flow = attention_flow(run.path, run.recipe.load_task(), n=30)
    assert flow.share.shape == (2, 3, 4)
    assert np.isfinite(flow.share).all()


def test_a_task_with_only_a_key() -> None:
    flow = attention_flow(MODEL, load_task("identity", vocab_size=120), n=30)
    assert flow.readers[-1] == "last position"
    assert flow.sources[0] == "key"
    np.testing.assert_allclose(flow.share.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, -1])
def test_too_few_sequences_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        attention_flow(MODEL, TASK, n=n)


def test_scores_of_the_key_to_anchors_circuit() -> None:
    """Layer 1: the first anchor reads the key, the second reads the first; layer 2: the last position reads 7 and 6 by halves."""
    flow = attention_flow(fixed([shifted(1), (shifted(1) + shifted(2)) / 2]), TASK, n=400)
    at = TASK.sample("iid", 400, 0).position
    scores = flow.scores()
    assert scores["key_to_anchors"].value == pytest.approx(0.5)  # one anchor of two
    assert scores["key_to_last.0"].value == pytest.approx((at == 7).mean())
    assert scores["key_to_last.1"].value == pytest.approx((at == 6).mean() / 2)
    # Anchors at p + 1 and p + 2: with p = 4 they are 5 and 6, with p = 5 both, with p = 6 they are 7 and 8.
    assert scores["anchors_to_last.1"].value == pytest.approx(((at == 4) / 2 + (at == 5) + (at == 6) / 2).mean())
    assert scores["key_to_anchors"].control == pytest.approx(((1 / (at + 2) + 1 / (at + 3)) / 2).mean())
    assert "shift" not in scores


@pytest.mark.parametrize("variant", ["default", "reverse"])
def test_shift_and_broadcast(variant: str) -> None:
    """Anchor and key are neighbours; in layer 1 each position reads the one before it, in layer 2 the last one reads position 5."""
    task = load_task("identity", variant, vocab_size=120)
    broadcast = np.zeros((1, 9, 9))
    broadcast[0, :, 5] = 1
    scores = attention_flow(fixed([shifted(1), broadcast]), task, n=400).scores()
    marks = task.token_positions(task.sample("iid", 400, 0).tokens)
    assert scores["shift"].value == 1
    assert scores["broadcast"].value == pytest.approx((np.maximum(marks["key"], marks["anchor"]) == 5).mean())
    backwards = attention_flow(fixed([shifted(0), shifted(1)]), task, n=400).scores()
    assert backwards["shift"].value == 0


def test_a_task_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^probe attention_flow needs a task with a key; scan has none$"):
        attention_flow(MODEL, load_task("scan"))
