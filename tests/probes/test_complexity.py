"""The probe of complexity: matrices of known norms, paths that are enumerated, and noise that a quadratic bears."""

import itertools

import numpy as np
import pytest
import torch
from small_gpts import SMALL, TASK, labelled, noise, small_gpt

from anchorbench.inspect.open_model import StackModel
from anchorbench.probes import complexity
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
from anchorbench.probes.loss import copy_of, generator, in_one_vector, training_sequences


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
