"""The probes of weights and loss: planted neurons, losses with known Hessians, slow oracles, and what could fool the controls."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_COMPOSITE, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.inspect.open_model import StackModel
from anchorbench.model.gpt import GPT
from anchorbench.probes import complexity, effective_width, flatness, gradient_noise
from anchorbench.probes import loss as shared
from anchorbench.probes.complexity import (
    DRAWS,
    LOG_SIGMAS,
    RISE,
    crossing,
    matrices_of,
    norm_21,
    paths,
    randomized,
    rises,
    spectral,
)
from anchorbench.probes.effective_width import Neurons, answers, at_random, founders, merge, width
from anchorbench.probes.flatness import curvatures, hessian, lanczos, noise_of_gradient
from anchorbench.probes.gradient_noise import BATCHES, grams, noise_to_signal
from anchorbench.probes.loss import Sequences, copy_of, generator, in_one_vector, loss_of, training_sequences
from anchorbench.probes.score import BLOCKS

TASK = load_task("composite", **SMALL_COMPOSITE)
EVERYONE = np.arange(BLOCKS)


def small_gpt(seed: int = 0, **shape: Any) -> GPT:
    """At most a thousand weights."""
    sizes = {"n_layer": 1, "n_head": 2, "d_model": 6, "d_head": 3, "d_ff": 8} | shape
    return random_gpt(seed, vocab_size=32, seq_len=TASK.seq_len, **sizes)


SMALL = small_gpt()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


class TestLoss:
    def test_it_is_the_cross_entropy_of_the_model_and_has_its_gradient(self) -> None:
        data = training_sequences(TASK, 7, 0)
        model = copy_of(StackModel(SMALL)).requires_grad_()
        rows = model(data.tokens[None])[0].log_softmax(-1)
        expected = -sum(rows[row, data.labels[row]] for row in range(7)) / 7
        expected.backward()
        loss, weights = loss_of(model), in_one_vector(model)
        assert float(loss(weights, data)) == pytest.approx(expected.item())
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(torch.func.grad(loss)(weights, data), gradient)

    def test_the_opened_model_is_left_as_it_was(self) -> None:
        model = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        task = load_task("composite")
        effective_width(model, task, n=20)
        complexity(model, task, n=5)
        gradient_noise(model, task, batch=2)
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, before[name])

    def test_a_diverged_model_is_refused(self) -> None:
        model = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16)
        model.unembedding.weight[0, 0, 0] = float("nan")
        for probe in (flatness, gradient_noise, complexity):
            with pytest.raises(ValueError, match=r"^the model's output is not finite"):
                probe(model, load_task("composite"))

    def test_a_large_model_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared, "MOST_WEIGHTS", 100)
        for probe in (flatness, gradient_noise):
            with pytest.raises(ValueError, match=r"^probe \w+ keeps dozens of gradients at once; the model has \d+ weights"):
                probe(SMALL, TASK)


def quadratic(curvature: torch.Tensor, directions: torch.Tensor) -> Callable[[torch.Tensor, Sequences], torch.Tensor]:
    """Its Hessian is diagonal, times the mean label / 2; a sequence's gradient noise is its token's direction."""

    def loss(weights: torch.Tensor, data: Sequences) -> torch.Tensor:
        slope = directions[data.tokens[:, 0]].mean(0)
        return data.labels.double().mean() / 4 * (curvature * weights.square()).sum() + slope @ weights

    return loss


def labelled(tokens: np.ndarray, labels: np.ndarray | None = None) -> Sequences:
    labels = np.full(len(tokens), 2) if labels is None else labels
    return Sequences(torch.from_numpy(tokens)[:, None], torch.from_numpy(labels))


class TestLanczos:
    def test_a_known_spectrum(self) -> None:
        spectrum = torch.tensor([5.0, -9.0, 2.0, 0.0, 0.5], dtype=torch.float64)
        values, top = lanczos(lambda v: spectrum * v, torch.ones(5, dtype=torch.float64))
        assert float(values[-1]) == pytest.approx(5, abs=1e-3)
        assert abs(float(top[0])) == pytest.approx(1, abs=1e-3)  # not the one of the largest modulus

    @given(st.integers(0, 1000), st.integers(1, 30))
    @settings(max_examples=30)
    def test_it_agrees_with_the_dense_solver(self, seed: int, size: int) -> None:
        square = noise(size, size, seed=seed)
        matrix = torch.from_numpy(square + square.T)
        values, top = lanczos(lambda v: matrix @ v, torch.from_numpy(noise(size, seed=seed + 1)))
        exact = torch.linalg.eigvalsh(matrix)
        assert float(values[-1]) == pytest.approx(float(exact[-1]), abs=0.01 * float(exact.abs().max()))
        assert float(values[-1]) <= float(exact[-1]) + 1e-9
        assert float(top.norm()) == pytest.approx(1)
        assert float(top @ matrix @ top) == pytest.approx(float(values[-1]))

    @pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
    def test_a_multiple_of_the_identity_ends_at_once(self, value: float) -> None:
        values, _ = lanczos(lambda v: value * v, torch.ones(50, dtype=torch.float64))
        assert values.tolist() == pytest.approx([value])

    def test_a_thousand_clustered_eigenvalues_stay_apart_from_the_largest(self) -> None:
        """Without reorthogonalization the largest would be found again and again."""
        spectrum = torch.cat([torch.tensor([100.0]), torch.linspace(0, 1, 999)]).double()
        calls: list[int] = []
        values, _ = lanczos(lambda v: calls.append(1) or spectrum * v, torch.from_numpy(noise(1000)))
        assert float(values[-1]) == pytest.approx(100, abs=1e-3)
        assert float(values[:-1].max()) <= 1 + 1e-9
        assert len(calls) < 10


class TestFlatness:
    CURVATURE = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0], dtype=torch.float64)

    def measured(self, directions: torch.Tensor, data: Sequences) -> dict[str, float]:
        loss, weights = quadratic(self.CURVATURE, directions), torch.zeros(5, dtype=torch.float64)
        others = labelled(np.random.default_rng(1).integers(len(directions), size=40 * BLOCKS))
        _, top = lanczos(hessian(loss, weights, data), torch.ones(5, dtype=torch.float64))
        spread = noise_of_gradient(loss, weights, others, BLOCKS)
        return curvatures(loss, weights, data, top, spread, generator(0)).scores(EVERYONE)

    @pytest.mark.parametrize("axis", range(5))
    def test_a_quadratic_whose_noise_lies_along_one_axis(self, axis: int) -> None:
        """Hutchinson's estimator with signs is exact for a diagonal matrix."""
        directions = torch.eye(5, dtype=torch.float64)[axis] * torch.tensor([[1.0], [-2.0], [4.0]])
        found = self.measured(directions, labelled(np.zeros(BLOCKS, int)))
        assert found["largest_eigenvalue"] == pytest.approx(8, abs=1e-3)
        assert found["trace"] == pytest.approx(16)
        assert found["noise_curvature"] == pytest.approx(float(self.CURVATURE[axis]))

    def test_noise_without_direction_has_the_curvature_of_the_control(self) -> None:
        """Large noise alone must not look aligned: 500 tokens whose gradients point anywhere."""
        found = self.measured(100 * torch.from_numpy(noise(500, 5)), labelled(np.zeros(BLOCKS, int)))
        assert found["noise_curvature"] == pytest.approx(16 / 5, rel=0.25)

    def test_blocks_of_other_curvature_average_to_that_of_all(self) -> None:
        labels = np.arange(2 * BLOCKS) % 5
        found = self.measured(torch.from_numpy(noise(9, 5)), labelled(np.zeros(2 * BLOCKS, int), labels))
        assert found["trace"] == pytest.approx(16 * labels.mean() / 2)
        assert found["largest_eigenvalue"] == pytest.approx(8 * labels.mean() / 2, abs=1e-2)

    def test_the_noise_of_the_gradient_has_twice_its_covariance(self) -> None:
        """Batches of 4 of tokens with gradients (+-1, 0): the variance of a batch's is 1/4, that of a difference 1/2."""
        directions = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        loss = quadratic(torch.zeros(2, dtype=torch.float64), directions)
        tokens = np.random.default_rng(0).integers(2, size=8 * 1000)
        found = noise_of_gradient(loss, torch.zeros(2, dtype=torch.float64), labelled(tokens), 1000)
        assert float(found[:, 0].mean()) == pytest.approx(0, abs=0.06)
        assert float(found[:, 0].square().mean()) == pytest.approx(0.5, rel=0.1)
        assert not found[:, 1].any()

    def test_a_small_model_against_its_full_hessian(self) -> None:
        n = 2 * BLOCKS
        opened = StackModel(small_gpt(activation="gelu"))
        scores = flatness(opened, TASK, n=n).scores()
        model = copy_of(opened)
        data, others = training_sequences(TASK, 2 * n, 0).parts(2)
        loss, weights = loss_of(model), in_one_vector(model)
        full = torch.func.jacrev(torch.func.grad(loss))(weights, data)
        assert float((full - full.T).abs().max()) < 1e-9
        exact = torch.linalg.eigvalsh(full)
        assert scores["largest_eigenvalue"].value == pytest.approx(float(exact[-1]), rel=1e-3)
        trace = scores["trace"]
        assert 2 * trace.low - trace.value < float(full.trace()) < 2 * trace.high - trace.value  # twice the interval
        per_weight = float(trace.value) / len(weights)
        assert scores["noise_curvature"].control == pytest.approx(per_weight)
        noises = noise_of_gradient(loss, weights, others, BLOCKS)
        curved = 0.0
        for block, e in zip(data.parts(BLOCKS), noises, strict=True):  # by differences of the gradient
            step = 1e-4 * e / e.norm()
            ahead, behind = (torch.func.grad(loss)(weights + sign * step, block) for sign in (1, -1))
            curved += float((ahead - behind) @ e / 2e-4 * e.norm())
        assert scores["noise_curvature"].value == pytest.approx(curved / float(noises.square().sum()), rel=1e-4)
        untrained = copy_of(opened.untrained(0))
        fresh = torch.func.jacrev(torch.func.grad(loss_of(untrained)))(in_one_vector(untrained), data)
        largest = float(torch.linalg.eigvalsh(fresh)[-1])
        assert scores["largest_eigenvalue"].control == pytest.approx(largest, rel=1e-3)

    def test_a_gradient_without_noise_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^the gradient is the same on every batch"):
            self.measured(torch.ones(1, 5).double(), labelled(np.zeros(BLOCKS, int)))

    @pytest.mark.parametrize("n", [0, 20, 50])
    def test_sequences_that_do_not_make_blocks_are_refused(self, n: int) -> None:
        with pytest.raises(ValueError, match=rf"^n is {n}; allowed: multiples of 40, for 20 pairs of batches$"):
            flatness(SMALL, TASK, n=n)


class TestGradientNoise:
    def test_worked_by_hand(self) -> None:
        """Gradients 1, 3, 5, 7: mean 4, variance 20/3; merged by two 2 and 6, with variance 8."""
        gradients = np.array([[1.0], [3.0], [5.0], [7.0]])
        gram = gradients @ gradients.T
        assert noise_to_signal(gram) == pytest.approx(20 / 3 / 16)
        assert noise_to_signal(gram, merged=2) == pytest.approx(8 / 16)

    @given(st.integers(0, 1000), st.integers(2, 9), st.integers(1, 3))
    @settings(max_examples=30)
    def test_it_agrees_with_a_loop(self, seed: int, batches: int, merged: int) -> None:
        gradients = noise(batches * merged + seed % merged, 3, seed=seed)
        means = [gradients[start * merged : (start + 1) * merged].mean(0) for start in range(batches)]
        variance = sum(float(np.var([mean[axis] for mean in means], ddof=1)) for axis in range(3))
        expected = variance / float(np.square(gradients.mean(0)).sum())
        assert noise_to_signal(gradients @ gradients.T, merged) == pytest.approx(expected)

    def test_known_variance_and_its_half(self) -> None:
        """Mean (3, 4), so 25, and variance 2 in each of 50 directions."""
        gradients = np.sqrt(2) * noise(20000, 50)
        gradients[:, :2] += (3, 4)
        gram = np.zeros((20, 20))
        found: list[tuple[float, float]] = []
        for part in np.split(gradients, 1000):
            gram = part @ part.T
            variance = noise_to_signal(gram) * gram.mean(), noise_to_signal(gram, 2) * gram.mean()
            found.append(variance)
        np.testing.assert_allclose(np.mean(found, 0), [100, 50], rtol=0.02)

    def test_batches_that_repeat_each_other_are_not_halved(self) -> None:
        """Were the batches not independent, the control would show it."""
        gradients = np.repeat(1 + noise(20, 30), 2, axis=0)
        gram = gradients @ gradients.T
        assert noise_to_signal(gram, 2) > 0.9 * noise_to_signal(gram)

    def test_without_a_mean_it_comes_near_the_number_of_batches(self) -> None:
        gradients = noise(BATCHES, 5000)
        assert noise_to_signal(gradients @ gradients.T) == pytest.approx(BATCHES, rel=0.05)

    def test_parts_agree_with_autograd_batch_by_batch(self) -> None:
        scores = gradient_noise(small_gpt(bias=True), TASK, batch=3).scores()
        model = copy_of(StackModel(small_gpt(bias=True))).requires_grad_()
        batches = training_sequences(TASK, 3 * BATCHES, 0).parts(BATCHES)
        rows: dict[str, list[np.ndarray]] = {name: [] for name, _ in model.named_parameters()}
        for batch in batches:
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.tokens[None])[0], batch.labels).backward()
            for name, parameter in model.named_parameters():
                rows[name].append(parameter.grad.flatten().numpy())
        owners = {
            "embedding": ("token_embedding", "position_embedding", "unembedding"),
            "qk": ("query", "key"),
            "vo": ("value", "output"),
            "mlp": ("ff_in", "ff_out"),
            "norm": ("norm_1", "norm_2", "final_norm"),
        }
        assert list(scores) == ["all", *owners]
        for part, score in scores.items():
            words = sum(owners.values(), ()) if part == "all" else owners[part]
            used = [np.stack(rows[name]) for name in rows if any(word in name.split(".") for word in words)]
            gradients = np.concatenate(used, 1)
            expected = gradients.var(0, ddof=1).sum() / np.square(gradients.mean(0)).sum()
            assert score.value == pytest.approx(expected), part
            assert score.control == pytest.approx(score.value / 2, rel=0.35), part

    def test_a_part_without_gradient_is_left_out(self) -> None:
        model = small_gpt()
        model.layers[0].output.weight.zero_()  # then neither queries nor keys matter
        model.layers[0].value.weight.zero_()
        assert "qk" not in gradient_noise(model, TASK, batch=2).scores()

    def test_grams_add_up(self) -> None:
        model = copy_of(StackModel(SMALL))
        batches = training_sequences(TASK, 6, 0).parts(3)
        loss, weights = loss_of(model), in_one_vector(model)
        found = grams(loss, weights, batches, [("qk", 100), ("mlp", len(weights) - 100)])
        whole = np.stack([torch.func.grad(loss)(weights, batch).numpy() for batch in batches])
        np.testing.assert_allclose(found["qk"], whole[:, :100] @ whole[:, :100].T)
        np.testing.assert_allclose(found["qk"] + found["mlp"], whole @ whole.T)

    def test_an_empty_batch_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^batch is 0; allowed: at least 1$"):
            gradient_noise(SMALL, TASK, batch=0)


def neurons(into: list[list[float]], out: list[float]) -> Neurons:
    return Neurons(np.array(into, float), np.array(out, float)[:, None])


class TestEffectiveWidth:
    def test_founders_worked_by_hand(self) -> None:
        """Strengths 1, 6, 3, 5 and .001; the second takes the first, the opposite one stays, the last is faint."""
        found = founders(neurons([[1, 0], [2, 0.1], [-3, 0], [0, 5], [0, 1]], [1, 3, 1, 1, 0.001]))
        assert found.tolist() == [1, 1, 2, 3, -1]
        assert width(found) == 3 / 5

    def test_a_chain_of_small_angles_is_not_one_direction(self) -> None:
        """Neurons 15 degrees apart: the strongest, at 0, takes those within 18 degrees, and no more."""
        angle = np.radians([0, 15, 30, 45])
        found = founders(Neurons(np.stack([np.cos(angle), np.sin(angle)], 1), np.array([[9.0], [2], [3], [1]])))
        assert found.tolist() == [0, 0, 2, 2]

    def test_zero_neurons_are_left_out(self) -> None:
        assert founders(neurons([[0, 0], [0, 0]], [1, 1])).tolist() == [-1, -1]
        assert founders(neurons([[0, 0], [1, 0]], [1, 1])).tolist() == [-1, 1]

    def test_merging_worked_by_hand(self) -> None:
        """The founder has norm 2: 3 of its own, and 4 * 1 / 2 of the one that it takes."""
        layer = neurons([[2, 0], [1, 0], [0, 1]], [3, 4, 5])
        assert merge(layer, np.array([0, 0, -1])).tolist() == [[5], [0], [0]]

    @given(st.integers(0, 1000), st.integers(2, 20))
    @settings(max_examples=30)
    def test_random_groups_have_the_same_sizes(self, seed: int, count: int) -> None:
        layer = Neurons(noise(count, 2, seed=seed), noise(count, 2, seed=seed + 1))
        founder = founders(layer)
        found = at_random(founder, layer, np.random.default_rng(seed))
        assert (found < 0).tolist() == (founder < 0).tolist()
        sizes = [sorted(np.unique(each[each >= 0], return_counts=True)[1].tolist()) for each in (founder, found)]
        assert sizes[0] == sizes[1]
        for group in np.unique(found[found >= 0]):
            assert found[group] == group
            assert layer.strength[group] == layer.strength[found == group].max()

    def planted(self, activation: str, *, scaled: bool, bias: bool = True) -> GPT:
        """32 neurons in 4 directions in each layer."""
        model = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=32, activation=activation, bias=bias)
        for block in model.layers:
            scale = torch.linspace(0.5, 2, 32) if scaled else torch.ones(32)
            block.ff_in.weight[0] = block.ff_in.weight[0, :, torch.arange(32) % 4] * scale
            block.ff_out.weight.mul_(5)
            if block.ff_in.bias is not None:
                block.ff_in.bias[0] = block.ff_in.bias[0, torch.arange(32) % 4] * scale
        return model

    @pytest.mark.parametrize(("activation", "scaled", "bias"), [("relu", True, True), ("relu", True, False), ("gelu", False, True)])
    def test_planted_copies_merge_without_a_change(self, activation: str, scaled: bool, bias: bool) -> None:
        task, model = load_task("composite"), self.planted(activation, scaled=scaled, bias=bias)
        scores = effective_width(model, task, n=100).scores()
        for layer in (0, 1):
            score = scores[f"width_{layer}"]
            assert score.value == 4 / 32
            assert score.low <= 4 / 32 <= score.high < 0.2 < score.control
        assert scores["same_answers"].value == 1
        assert scores["same_answers"].control < 0.6
        merged = copy_of(StackModel(model))
        tokens = torch.from_numpy(task.sample("iid", 20, 0).tokens)
        before = merged(tokens[None])
        for block in merged.layers:
            layer = Neurons.of(block)
            block.ff_out.weight[0] = torch.from_numpy(merge(layer, founders(layer)))
        torch.testing.assert_close(merged(tokens[None]), before, atol=1e-5, rtol=1e-4)

    def test_gelu_feels_other_norms(self) -> None:
        """One direction, but not one function: the widths say 4, and the answers that it is not the same model."""
        scores = effective_width(self.planted("gelu", scaled=True), load_task("composite"), n=100).scores()
        assert scores["width_0"].value == 4 / 32
        assert scores["same_answers"].control < scores["same_answers"].value < 1

    def test_a_narrow_net_embedded_in_a_wide_one(self) -> None:
        """One-step splittings of 2105.14573, with shares that may be negative; the width is that of the narrow one."""
        narrow = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=8, n_layer=1)
        wide = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16, n_layer=1)
        wide.load_state_dict({
            name: tensor if tensor.shape == wide.state_dict()[name].shape else torch.zeros_like(wide.state_dict()[name])
            for name, tensor in narrow.state_dict().items()
        })  # fmt: skip
        source, target, share = narrow.layers[0], wide.layers[0], torch.tensor([0.3, -1.0, 0.5, 0.7, 2.0, 0.1, 0.9, 0.4])
        target.ff_in.weight[0] = source.ff_in.weight[0].repeat(1, 2)
        target.ff_in.bias[0] = source.ff_in.bias[0].repeat(2)
        target.ff_out.weight[0] = torch.cat([(1 - share)[:, None], share[:, None]]) * source.ff_out.weight[0].repeat(2, 1)
        scores = effective_width(wide, load_task("composite"), n=50).scores()
        assert scores["width_0"].value == effective_width(narrow, load_task("composite"), n=50).scores()["width_0"].value / 2 == 0.5
        assert scores["same_answers"].value == 1

    def test_weights_that_shuffling_cannot_change_have_the_same_control(self) -> None:
        """All input weights of a neuron equal: one direction, but because of the values of each weight alone."""
        model = self.planted("relu", scaled=True, bias=False)
        for block in model.layers:
            block.ff_in.weight[0] = block.ff_in.weight[0, :1].abs()
        scores = effective_width(model, load_task("composite"), n=20).scores()
        assert scores["width_0"].value == scores["width_0"].control == 1 / 32

    def test_layers_that_do_nothing_have_a_control_that_says_so(self) -> None:
        model = self.planted("relu", scaled=True)
        for block in model.layers:
            block.ff_out.weight.mul_(1e-6)
        scores = effective_width(model, load_task("composite"), n=100).scores()
        assert scores["same_answers"].value == scores["same_answers"].control == 1

    def test_distinct_directions_stay(self) -> None:
        scores = effective_width(random_gpt(n_head=1, d_model=32, d_head=8, d_ff=16), load_task("composite"), n=20).scores()
        assert scores["width_0"][:3] == (1, 1, 1)
        assert scores["same_answers"].value == 1

    def test_answers_are_the_most_probable(self) -> None:
        tokens = torch.from_numpy(TASK.sample("train", 5, 0).tokens)
        assert answers(SMALL, tokens).tolist() == [int(SMALL(row[None, None])[0, 0].argmax()) for row in tokens]

    def test_bad_input_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^n is 0; allowed: at least 1$"):
            effective_width(SMALL, TASK, n=0)
        with pytest.raises(ValueError, match=r"^the model has 2 feed-forward neurons per layer; allowed: at least 3"):
            effective_width(small_gpt(d_ff=2), TASK)


class TestComplexity:
    DIAGONAL = {"a": torch.diag(torch.tensor([3.0, 4.0])).double(), "b": torch.diag(torch.tensor([10.0, 0.0])).double()}

    def test_diagonal_matrices(self) -> None:
        """Spectral norms 4 and 10; sums of column norms 7 and 10, so ratios 7/4 and 1."""
        assert spectral(self.DIAGONAL) == pytest.approx(np.log10(40))
        assert norm_21(self.DIAGONAL) == pytest.approx(np.log10(((7 / 4) ** (2 / 3) + 1) ** 1.5))

    def test_they_are_the_spectral_complexity_together(self) -> None:
        """The formula of 1706.08498 with their matrices, which act from the left."""
        theirs = [noise(4, 6, seed=1), noise(3, 4, seed=2)]
        s = [np.linalg.norm(a, 2) for a in theirs]
        rows = [np.linalg.norm(a.T, axis=0).sum() for a in theirs]  # |A^T|_21: columns of A^T
        expected = np.prod(s) * sum((row / one) ** (2 / 3) for row, one in zip(rows, s, strict=True)) ** 1.5
        ours = {str(number): torch.from_numpy(a.T) for number, a in enumerate(theirs)}
        assert spectral(ours) + norm_21(ours) == pytest.approx(np.log10(expected))

    def test_paths_agree_with_an_enumeration(self) -> None:
        model = small_gpt(n_layer=1, n_head=1, d_model=2, d_head=2, d_ff=2).double()
        block = model.layers[0]
        embed, value, output, ff_in, ff_out, unembed = (
            weight[0].numpy()
            for weight in (
                model.token_embedding,
                block.value.weight,
                block.output.weight,
                block.ff_in.weight,
                block.ff_out.weight,
                model.unembedding.weight,
            )
        )  # fmt: skip
        total = 0.0
        for a, logit in itertools.product(range(2), range(32)):
            first = [(a, 1.0)] + [(b, value[a, h] * output[h, b]) for h in range(2) for b in range(2)]
            for b, along in first:
                second = [(b, 1.0)] + [(c, ff_in[b, h] * ff_out[h, c]) for h in range(2) for c in range(2)]
                total += sum((embed[5, a] * along * further * unembed[c, logit]) ** 2 for c, further in second)
        assert paths(model, torch.tensor([5])).tolist() == pytest.approx([np.log10(total) / 2])

    def test_rescaling_a_relu_layer_leaves_the_paths_alone(self) -> None:
        model, scaled, steep = (small_gpt(activation="relu").double() for _ in range(3))
        scaled.layers[0].ff_in.weight.mul_(10)
        scaled.layers[0].ff_out.weight.div_(10)
        np.testing.assert_allclose(paths(model, torch.arange(32)), paths(scaled, torch.arange(32)))
        steep.unembedding.weight.mul_(10)
        np.testing.assert_allclose(paths(steep, torch.arange(32)), paths(model, torch.arange(32)) + 1)

    def test_random_matrices_have_the_same_frobenius_norms(self) -> None:
        model = small_gpt().double()
        random = randomized(model, generator(0))
        for name, weight in matrices_of(model).items():
            other = matrices_of(random)[name]
            assert float(other.norm()) == pytest.approx(float(weight.norm()))
            assert not torch.equal(other, weight)
        torch.testing.assert_close(in_one_vector(model), in_one_vector(small_gpt().double()))

    def test_low_rank_is_told_from_scale(self) -> None:
        """The model and its random counterpart have one scale; a matrix of rank one has the larger spectral norm."""
        model = small_gpt(d_ff=32, d_model=16, d_head=8)
        for weight in matrices_of(model).values():
            left, right = torch.randn(weight.shape[0], 1), torch.randn(1, weight.shape[1])
            weight.copy_(left @ right / (left @ right).norm() * weight.norm())
        seen = complexity(model, TASK, n=5)
        assert seen.scores()["spectral"].value > seen.random["spectral"] + 1
        assert seen.scores()["norm_21"].value < seen.random["norm_21"]

    def test_crossing_worked_by_hand(self) -> None:
        below = np.zeros(len(LOG_SIGMAS))
        assert crossing(below) == LOG_SIGMAS[-1]
        assert crossing(below + 1) == LOG_SIGMAS[0]
        assert crossing(np.array([0.0, 0.05, 0.15, 9.0])) == pytest.approx(-3.625)  # halfway from -3.75 to -3.5
        assert crossing(np.array([0.0, 0.2, 0.0, 0.3])) == pytest.approx(-3.875)  # the first time

    @pytest.mark.parametrize("curvature", [1.0, 100.0])
    def test_a_quadratic_bears_the_noise_that_its_curvature_says(self, curvature: float) -> None:
        """The loss rises by s^2 c d / 2 on average."""
        size = 2000
        weights = torch.zeros(size, dtype=torch.float64)
        found = rises(lambda at, data: curvature * at.square().sum() / 2, weights, labelled(np.zeros(1, int)), 0)
        assert found.shape[0] == DRAWS
        assert found[:, -1].min() > RISE
        assert crossing(found.mean(0)) == pytest.approx(np.log10(np.sqrt(2 * RISE / curvature / size)), abs=0.06)

    def test_the_same_noise_whatever_the_sigma(self) -> None:
        weights = torch.zeros(3, dtype=torch.float64)
        found = rises(lambda at, data: at.sum() / 100, weights, labelled(np.zeros(1, int)), 0)
        np.testing.assert_allclose(found / 10.0 ** LOG_SIGMAS[: found.shape[1]], found[:, :1] * np.ones(found.shape[1]) * 1e4)

    def test_scores_of_a_model(self) -> None:
        opened = StackModel(SMALL)
        scores = complexity(opened, TASK, n=10).scores()
        model = copy_of(opened)
        assert list(scores) == ["spectral", "norm_21", "path", "sigma"]
        s = [np.linalg.norm(weight.numpy(), 2) for weight in matrices_of(model).values()]
        assert len(s) == 9
        assert scores["spectral"].value == pytest.approx(np.log10(s).sum())
        fresh = matrices_of(copy_of(opened.untrained(0)))
        assert scores["norm_21"].control == pytest.approx(norm_21(fresh))
        tokens = training_sequences(TASK, 10, 0).tokens.unique()
        assert scores["path"].value == pytest.approx(paths(model, tokens).mean())

    def test_bad_input_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^n is 0; allowed: at least 1$"):
            complexity(SMALL, TASK, n=0)
        zero = small_gpt()
        zero.layers[0].ff_out.weight.zero_()
        with pytest.raises(ValueError, match=r"^matrix blocks\.0\.ff_out\.weight is zero, so the logarithm of"):
            complexity(zero, TASK)
        thin = small_gpt(n_head=1, d_head=1)
        with pytest.raises(ValueError, match=r"^the model has a matrix with one neuron; allowed: at least 2"):
            complexity(thin, TASK)
