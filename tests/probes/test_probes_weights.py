"""The probes of weights: matrices of known rank, embeddings that are a number line, slow loops, and what must not matter."""

import numpy as np
import pytest
import torch
from conftest import FakeModel, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.inspect.open_model import OpenModel, open_model
from anchorbench.probes import condensation, condensation_over_training, embedding_order
from anchorbench.probes.condensation import MEASURES, groups, measures
from anchorbench.probes.embedding_order import (
    FARTHEST,
    FOLDS,
    arithmetic_steps,
    dimensions,
    first_axis_order,
    mean_similarity,
    ridge_r2,
    similarity_by_difference,
)
from anchorbench.probes.pair_grid import cosines

TASK = load_task("composite")
KEYS = np.arange(20, 100)
FOLD = np.arange(80) % FOLDS
MODEL = random_gpt(n_head=2, d_model=16, d_head=8, d_ff=32)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def with_weight(name: str, weight: np.ndarray) -> OpenModel:
    opened = open_model(MODEL)
    return FakeModel(opened.run, opened.weights | {name: torch.from_numpy(weight).float()[None]}, opened.untrained(0))


class TestMeasures:
    @pytest.mark.parametrize("rank", [1, 3, 4])
    def test_neurons_along_a_few_right_angles(self, rank: int) -> None:
        """Twelve neurons of equal length in so many directions, each as often: every measure counts the directions."""
        weight = torch.eye(8)[:, torch.arange(12) % rank]
        np.testing.assert_allclose(measures(weight), [rank] * 3)

    def test_worked_by_hand(self) -> None:
        """Neurons (3, 0), (0, 4): at right angles, with singular values 4 and 3."""
        weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        np.testing.assert_allclose(measures(weight), [2, 25 / 16, 49 / 25])

    def test_opposite_neurons_are_one_direction(self) -> None:
        weight = torch.tensor([1.0, 2.0])[:, None] * torch.tensor([1.0, -2.0, 0.5])
        np.testing.assert_allclose(measures(weight), [1, 1, 1])

    def test_they_agree_with_loops_member_by_member(self) -> None:
        weight = noise(2, 5, 7)
        fast = measures(torch.from_numpy(weight))
        for member in range(2):
            columns = [weight[member, :, i] for i in range(7)]
            squares = [float((a @ b) ** 2 / ((a @ a) * (b @ b))) for a in columns for b in columns]
            s = np.sqrt(np.maximum(np.linalg.eigvalsh(weight[member] @ weight[member].T), 0))
            expected = [49 / sum(squares), (s**2).sum() / s.max() ** 2, s.sum() ** 2 / (s**2).sum()]
            np.testing.assert_allclose(fast[member], expected)

    @given(st.integers(0, 1000), st.integers(3, 8), st.integers(3, 8), st.floats(0.001, 1000))
    @settings(max_examples=30)
    def test_basis_scale_and_order_of_neurons_do_not_matter(self, seed: int, d_in: int, neurons: int, scale: float) -> None:
        weight = noise(d_in, neurons, seed=seed)
        turn, _ = np.linalg.qr(noise(d_in, d_in, seed=seed + 1))
        changed = scale * turn @ weight[:, np.random.default_rng(seed).permutation(neurons)]
        found = measures(torch.from_numpy(weight))
        np.testing.assert_allclose(measures(torch.from_numpy(changed)), found, rtol=1e-6)
        directions, stable_rank, participation = found
        assert 1 - 1e-9 <= stable_rank <= participation + 1e-9 <= min(d_in, neurons) + 2e-9
        assert 1 - 1e-9 <= directions <= min(d_in, neurons) + 1e-9


class TestGroups:
    def test_worked_by_hand(self) -> None:
        """At 0, 30, 60, 90 and 180 degrees: 0 takes 30 (cos .87), but not 60 (.5), which takes 90."""
        angle = np.radians([0, 30, 60, 90, 180])
        assert groups(cosines(np.stack([np.cos(angle), np.sin(angle)], 1))).tolist() == [0, 0, 1, 1, 2]

    def test_zero_neurons_stand_alone(self) -> None:
        assert groups(cosines(np.array([[0.0, 0], [1, 0], [0, 0], [2, 0]]))).tolist() == [0, 1, 2, 1]

    @given(st.integers(0, 1000), st.integers(1, 12))
    @settings(max_examples=30)
    def test_they_agree_with_a_loop(self, seed: int, neurons: int) -> None:
        cosine = cosines(noise(neurons, 2, seed=seed))
        expected: dict[int, int] = {}
        for founder in range(neurons):
            if founder in expected:
                continue
            number = len(set(expected.values()))
            for other in range(founder, neurons):
                if other not in expected and (other == founder or cosine[founder, other] > 0.7):
                    expected[other] = number
        assert groups(cosine).tolist() == [expected[i] for i in range(neurons)]


class TestCondensation:
    def test_a_condensed_matrix(self) -> None:
        weight = np.outer(noise(16), np.sign(noise(16, seed=1))) + 0.001 * noise(16, 16, seed=2)
        seen = condensation(with_weight("query.0", weight), TASK)
        scores = seen.scores()
        assert tuple(scores) == MEASURES
        assert scores["directions"].value == pytest.approx(1, abs=0.01)
        assert scores["stable_rank"].value == pytest.approx(1, abs=0.01)
        assert scores["directions"].high < 1.1 < scores["directions"].control
        assert seen.group.max() == 1  # one direction and its opposite
        assert seen.spectrum[0] > 100 * seen.spectrum[1]

    def test_random_weights_are_like_the_random_matrix_and_the_untrained_model(self) -> None:
        seen = condensation(with_weight("query.0", noise(16, 16)), TASK)
        for name, score in seen.scores().items():
            assert score.low < score.value < score.high
            assert seen.random[name] == pytest.approx(score.value, rel=0.25)
            assert score.control == pytest.approx(score.value, rel=0.25)

    def test_another_matrix(self) -> None:
        seen = condensation(MODEL, TASK, matrix="ff_in.1")
        assert seen.cosine.shape == (32, 32)
        assert seen.spectrum.shape == (16,)
        np.testing.assert_allclose([score.value for score in seen.scores().values()], measures(MODEL.layers[1].ff_in.weight)[0])

    def test_a_matrix_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match=r"^the model has no matrix 'query\.9'; allowed: embedding, unembedding, query\.0, "):
            condensation(MODEL, TASK, matrix="query.9")

    def test_too_few_neurons(self) -> None:
        with pytest.raises(ValueError, match=r"^matrix query\.0 has 2 neurons; allowed: at least 3"):
            condensation(with_weight("query.0", noise(16, 2)), TASK)

    def test_over_training(self) -> None:
        early, late = np.eye(16), np.outer(noise(16), noise(16, seed=1))
        seen = condensation_over_training({30: with_weight("query.0", late), 10: with_weight("query.0", early)})
        assert seen.steps.tolist() == [10, 30]
        assert seen.spectra.shape == (2, 1, 16)
        np.testing.assert_allclose(seen.measures[:, 0], [[16] * 3, [1] * 3], rtol=1e-4)


class TestNumberLine:
    LINE = 3 + KEYS[:, None] * noise(1, 8)

    def test_an_embedding_that_is_the_number_line(self) -> None:
        assert ridge_r2(self.LINE, KEYS, FOLD) > 0.999
        assert first_axis_order(self.LINE, KEYS) == pytest.approx(1)
        assert dimensions(self.LINE) == pytest.approx(1)

    def test_shuffled_keys(self) -> None:
        found = [ridge_r2(self.LINE[np.random.default_rng(seed).permutation(80)], KEYS, FOLD) for seed in range(20)]
        assert abs(np.mean(found)) < 0.1
        assert max(found) < 0.3

    def test_equal_embeddings_tell_nothing(self) -> None:
        flat = np.ones((80, 4))
        assert ridge_r2(flat, KEYS, FOLD) == 0
        assert first_axis_order(flat, KEYS) == 0
        assert dimensions(flat) == 0

    def test_ridge_agrees_with_the_normal_equations_key_by_key(self) -> None:
        x = noise(80, 6) + 0.05 * KEYS[:, None]
        error = total = 0.0
        for left_out in range(80):
            rows = [key for key in range(80) if key % FOLDS != left_out % FOLDS]
            mean_x, mean_y = x[rows].mean(0), KEYS[rows].mean()
            penalty = np.mean([(x[row] - mean_x) @ (x[row] - mean_x) for row in rows])
            gram = sum(np.outer(x[row] - mean_x, x[row] - mean_x) for row in rows) + penalty * np.eye(6)
            weights = np.linalg.solve(gram, sum((x[row] - mean_x) * (KEYS[row] - mean_y) for row in rows))
            error += (KEYS[left_out] - mean_y - (x[left_out] - mean_x) @ weights) ** 2
            total += (KEYS[left_out] - mean_y) ** 2
        assert ridge_r2(x, KEYS, FOLD) == pytest.approx(1 - error / total)

    @given(st.integers(0, 1000), st.floats(0.01, 100))
    @settings(max_examples=20)
    def test_basis_scale_and_origin_do_not_matter(self, seed: int, scale: float) -> None:
        x = noise(80, 5, seed=seed) + 0.02 * KEYS[:, None]
        turn, _ = np.linalg.qr(noise(5, 5, seed=seed + 1))
        moved = scale * x @ turn + noise(5, seed=seed + 2)
        assert ridge_r2(moved, KEYS, FOLD) == pytest.approx(ridge_r2(x, KEYS, FOLD))
        assert first_axis_order(moved, KEYS) == pytest.approx(first_axis_order(x, KEYS))
        assert dimensions(moved) == pytest.approx(dimensions(x))
        np.testing.assert_allclose(similarity_by_difference(moved, KEYS), similarity_by_difference(x, KEYS), atol=1e-9)
        assert ridge_r2(x, KEYS, FOLD) <= 1

    def test_two_axes_of_equal_variance_are_two_dimensions(self) -> None:
        assert dimensions(np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])) == pytest.approx(2)


class TestSteps:
    def test_a_smooth_line_has_none(self) -> None:
        distance = np.arange(1, FARTHEST + 1)
        assert arithmetic_steps(1 - 0.03 * distance + 0.001 * distance**2, np.array([3, 4, 9])) == pytest.approx(0, abs=1e-9)

    def test_spikes_at_the_steps_on_any_parabola(self) -> None:
        distance = np.arange(1, FARTHEST + 1)
        spikes = np.isin(distance, [3, 4, 9]) * 0.2
        found = arithmetic_steps(spikes, np.array([3, 4, 9]))
        assert 0.1 < found <= 0.2 + 1e-9
        assert arithmetic_steps(spikes + 0.5 - 0.04 * distance + 0.002 * distance**2, np.array([3, 4, 9])) == pytest.approx(found)
        assert arithmetic_steps(spikes, np.array([2, 5, 10])) < 0

    def test_keys_on_a_circle_of_three(self) -> None:
        """A key is like those at distance 3, 6, ... and at 120 degrees from the others."""
        angle = 2 * np.pi * KEYS[:78] / 3
        similarity = similarity_by_difference(np.stack([np.cos(angle), np.sin(angle)], 1), KEYS[:78])
        np.testing.assert_allclose(similarity, np.where(np.arange(1, FARTHEST + 1) % 3 == 0, 1, -0.5), atol=1e-9)

    def test_similarity_agrees_with_a_loop(self) -> None:
        keys, x = np.array([1, 2, 4, 7]), noise(4, 3)
        x0 = x - x.mean(0)
        cosine = {
            (a, b): float(x0[a] @ x0[b] / np.linalg.norm(x0[a]) / np.linalg.norm(x0[b])) for a in range(4) for b in range(a + 1, 4)
        }
        found = similarity_by_difference(x, keys)
        for difference in range(1, FARTHEST + 1):
            wanted = [value for (a, b), value in cosine.items() if keys[b] - keys[a] == difference]
            assert found[difference - 1] == pytest.approx(np.mean(wanted)) if wanted else np.isnan(found[difference - 1])


class TestEmbeddingOrder:
    def test_a_model_whose_embedding_is_the_number_line(self) -> None:
        embedding = noise(120, 16) * 0.01
        embedding[KEYS] += KEYS[:, None] * np.eye(16)[0]
        embedding[1:5] = [np.eye(16)[1]] * 4
        seen = embedding_order(with_weight("embedding", embedding), TASK)
        scores = seen.scores()
        assert set(scores) == {"ridge_r2", "first_axis_order", "arithmetic_steps", "dimensions", "anchor_similarity"}
        assert scores["ridge_r2"].low > 0.99
        assert scores["first_axis_order"].value == pytest.approx(1)
        assert abs(scores["arithmetic_steps"].value) < 0.01
        assert scores["dimensions"].value == pytest.approx(1, abs=0.01)
        assert scores["anchor_similarity"].value == pytest.approx(1)
        assert abs(scores["ridge_r2"].control) < 0.1
        assert scores["first_axis_order"].control < 0.2
        assert abs(scores["anchor_similarity"].control) < 0.3
        assert seen.values.tolist() == KEYS.tolist()
        assert seen.anchors.tolist() == [1, 2, 3, 4]
        assert seen.steps.tolist() == [3, 4, 6, 7, 9, 13]  # what +5, +1, -2, -8 differ by
        assert seen.explained[0] > 0.99

    def test_a_random_embedding_orders_nothing(self) -> None:
        scores = embedding_order(with_weight("embedding", noise(120, 16)), TASK).scores()
        assert scores["ridge_r2"].value < 0.2
        assert abs(scores["arithmetic_steps"].value) < 0.05
        assert scores["dimensions"].value > 10
        assert abs(scores["anchor_similarity"].value) < 0.3

    def test_anchors_that_do_not_add_have_no_steps(self) -> None:
        task = load_task("random-permutations")
        model = random_gpt(vocab_size=task.vocab_size, seq_len=task.seq_len, n_head=1, d_model=8, d_head=8, d_ff=16)
        seen = embedding_order(model, task)
        assert "arithmetic_steps" not in seen.scores()
        assert len(seen.steps) == 0

    def test_mean_similarity_worked_by_hand(self) -> None:
        assert mean_similarity(np.array([[1.0, 0], [0, 2], [3, 3]])) == pytest.approx(np.sqrt(2) / 3)

    def test_a_task_without_a_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^probe embedding_order needs a task with a key; scan has none$"):
            embedding_order(MODEL, load_task("scan"))

    def test_a_vocabulary_that_is_too_small_is_refused(self) -> None:
        small = random_gpt(vocab_size=60, n_head=1, d_model=8, d_head=8, d_ff=16)
        with pytest.raises(ValueError, match=r"^the model's vocabulary is 0\.\.59, but task composite also uses 50 ids"):
            embedding_order(small, TASK)
