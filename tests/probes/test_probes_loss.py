"""The probes of loss: losses with known Hessians, slow oracles, and what could fool the controls."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gpts import SMALL, TASK, labelled, noise, small_gpt

from anchorbench import load_task
from anchorbench.inspect.open_model import StackModel
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.probes import complexity, effective_width, flatness, gradient_noise
from anchorbench.probes.flatness import curvatures, hessian, lanczos, noise_of_gradient
from anchorbench.probes.gradient_noise import BATCHES, grams, noise_to_signal
from anchorbench.probes.loss import Sequences, copy_of, generator, in_one_vector, loss_of, training_sequences
from anchorbench.probes.score import BLOCKS

EVERYONE = np.arange(BLOCKS)


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

    def test_a_large_model_is_refused(self) -> None:
        large = GPT(ModelConfig(n_layer=1, d_model=1024, d_head=1024, d_ff=4096), members=1, vocab_size=120, seq_len=9)
        for probe in (flatness, gradient_noise):
            with pytest.raises(ValueError, match=r"^probe \w+ keeps dozens of gradients; the model has \d+ weights"):
                probe(large, TASK)


def quadratic(curvature: torch.Tensor, directions: torch.Tensor) -> Callable[[torch.Tensor, Sequences], torch.Tensor]:
    """Its Hessian is diagonal, times the mean label / 2; a sequence's gradient noise is its token's direction."""

    def loss(weights: torch.Tensor, data: Sequences) -> torch.Tensor:
        slope = directions[data.tokens[:, 0]].mean(0)
        return data.labels.double().mean() / 4 * (curvature * weights.square()).sum() + slope @ weights

    return loss


class TestLanczos:
    def test_a_known_spectrum(self) -> None:
        spectrum = torch.tensor([5.0, -9.0, 2.0, 0.0, 0.5], dtype=torch.float64)
        values, top = lanczos(lambda v: spectrum * v, torch.ones(5, dtype=torch.float64))
        assert float(values[-1]) == pytest.approx(5, abs=1e-3)
        assert abs(float(top[0])) == pytest.approx(1, abs=1e-3)  # not the one of the largest modulus

    @given(st.integers(0, 1000), st.integers(1, 30))
    @settings(max_examples=30)
    def test_it_agrees_with_the_dense_solver(self, seed: int, size: int) -> None:
        """A start that hardly overlaps the first eigenvector, as 1% of random ones, may end at a later one."""
        square = noise(size, size, seed=seed)
        matrix, start = torch.from_numpy(square + square.T), torch.from_numpy(noise(size, seed=seed + 1))
        values, top = lanczos(lambda v: matrix @ v, start)
        exact, vectors = torch.linalg.eigh(matrix)
        overlap = float((start @ vectors[:, -1]).abs() / start.norm())
        reached = exact[-1] if overlap > 0.2 else exact[(exact - values[-1]).abs().argmin()]
        assert float(values[-1]) == pytest.approx(float(reached), abs=0.01 * float(exact.abs().max()))
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
