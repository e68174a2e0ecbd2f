"""The probes of vectors: models whose vectors are made by hand, slow loops, and what must not matter."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FakeModel, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.inspect.open_model import Activations, OpenModel
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.probes import anchor_value, fused_vector
from anchorbench.probes.anchor_value import similarities as anchor_similarities
from anchorbench.probes.fused_vector import mirror_distance, similarities
from anchorbench.probes.pair_grid import FARTHEST, Grid, by_difference, cosines, mean_where, trained_keys_and_pairs, write_grid

TASK = load_task("composite")
OFFSETS = TASK.config.offsets
Code = Callable[[np.ndarray], np.ndarray]


def grid(bases: int = 3, keys: int = 6, seed: int = 0) -> Grid:
    _, pairs = trained_keys_and_pairs(TASK, seed)
    start = np.random.default_rng(seed).integers(20, 90, bases)
    return write_grid("test", TASK, TASK.sample("iid", bases, seed), start[:, None] + np.arange(keys), pairs)


def coded(code: Code, n_layer: int = 2, weights: dict[str, torch.Tensor] | None = None) -> OpenModel:
    """A model whose vectors after every sublayer and at every position are `code(tokens)`, `[n, d]`; its untrained twin's are 0."""

    def with_code(code: Code, untrained: OpenModel | None) -> OpenModel:
        def see(tokens: torch.Tensor) -> Activations:
            vectors = torch.from_numpy(code(tokens[0].numpy())).float()[None, :, None].expand(1, -1, tokens.shape[-1], -1)
            return Activations(torch.zeros(1, tokens.shape[1], 120), [], [vectors] * n_layer, [vectors] * n_layer)

        return FakeModel(see, weights, untrained, n_layer)

    return with_code(code, with_code(lambda tokens: np.zeros_like(code(tokens)), None))


def anchors_of(tokens: np.ndarray) -> np.ndarray:
    """`[n, 2]`."""
    at = TASK.token_positions(tokens)
    return np.stack([tokens[np.arange(len(tokens)), at[f"{which} anchor"]] for which in ("first", "second")], 1)


def value_code(tokens: np.ndarray) -> np.ndarray:
    """The composed value, as a circuit that composes carries it."""
    return np.eye(120)[TASK.answer(tokens).label]


def pair_code(tokens: np.ndarray) -> np.ndarray:
    """The unordered pair, as the papers' symmetric circuit carries it."""
    low, high = np.sort(anchors_of(tokens), 1).T
    return np.eye(25)[5 * low + high]


def ordered_code(tokens: np.ndarray) -> np.ndarray:
    first, second = anchors_of(tokens).T
    return np.eye(25)[5 * first + second]


def g_code(tokens: np.ndarray) -> np.ndarray:
    """The key after the first anchor."""
    key = TASK.answer(tokens).key
    return np.eye(120)[key + np.array([OFFSETS[a] for a in anchors_of(tokens)[:, 0].tolist()])]


class TestGrid:
    def test_every_cell_is_a_trained_pair_with_its_key_at_one_place(self) -> None:
        found = grid()
        assert found.tokens.shape == (3, 6, 14, 9)
        assert {tuple(pair) for pair in found.pairs.tolist()} == {(a, b) for a in OFFSETS for b in OFFSETS} - {(3, 4), (4, 3)}
        for base in range(3):
            for k, key in enumerate(found.keys[base].tolist()):
                for p, (a, b) in enumerate(found.pairs.tolist()):
                    at = found.first_anchor[base]
                    assert found.tokens[base, k, p, at - 1 : at + 2].tolist() == [key, a, b]
                    assert found.label[base, k, p] == key + OFFSETS[a] + OFFSETS[b]
            filler = np.delete(found.tokens[base], [at - 1, at, at + 1], axis=-1)
            assert (filler == filler[0, 0]).all()

    @pytest.mark.parametrize(("variant", "missing"), [("heldout-both", {(3, 4), (4, 3)}), ("conflict", {(3, 4), (4, 3)})])
    def test_held_out_pairs_and_exceptions_are_never_read(self, variant: str, missing: set[tuple[int, int]]) -> None:
        _, pairs = trained_keys_and_pairs(load_task("composite", variant), 0)
        assert {(a, b) for a in OFFSETS for b in OFFSETS} - {tuple(pair) for pair in pairs.tolist()} == missing

    def test_of_many_pairs_some_are_drawn_with_their_mirrors(self) -> None:
        _, pairs = trained_keys_and_pairs(load_task("nine-anchors"), 0)
        known = {tuple(pair) for pair in pairs.tolist()}
        assert 15 <= len(known) <= 20
        assert known == {(b, a) for a, b in known}

    def test_a_held_out_pair_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"^probe test needs a task whose trained pairs take every key; those of composite do not$"
        ):
            write_grid("test", TASK, TASK.sample("iid", 2, 0), np.array([[30], [40]]), np.array([[3, 4]]))


class TestMeasures:
    def test_they_agree_with_loops(self) -> None:
        cells = grid()
        codes = np.random.default_rng(0).normal(size=(2, *cells.label.shape, 5))
        fast, fast_distance, curve = similarities(codes, cells), mirror_distance(codes, cells), by_difference(codes, cells)
        for member in range(2):
            wanted: dict[str, list[list[float]]] = {
                name: [] for name in ("equal_value", "unequal_value", "mirrored", "other_pairs")
            }
            distances: dict[bool, list[float]] = {True: [], False: []}
            differences: dict[int, list[float]] = {d: [] for d in range(FARTHEST + 1)}
            for base in range(3):
                found: dict[str, list[float]] = {name: [] for name in wanted}
                index = [(k, p) for k in range(6) for p in range(len(cells.pairs))]
                mean = np.mean([codes[member, base, k, p] for k, p in index], axis=0)
                for k, p in index:
                    for j, q in index:
                        raw = codes[member, base, k, p], codes[member, base, j, q]
                        x, y = raw[0] - mean, raw[1] - mean
                        cosine = float(x @ y / np.sqrt((x @ x) * (y @ y)))
                        one, other = sorted(cells.pairs[p].tolist()), sorted(cells.pairs[q].tolist())
                        if k == j and p != q:
                            found["mirrored" if one == other else "other_pairs"].append(cosine)
                            distances[one == other].append(float(np.linalg.norm(raw[0] - raw[1])))
                        if k != j and one != other:
                            apart = abs(int(cells.label[base, k, p] - cells.label[base, j, q]))
                            found["unequal_value" if apart else "equal_value"].append(cosine)
                            if apart <= FARTHEST:
                                differences[apart].append(cosine)
                for name, values in found.items():
                    wanted[name].append(float(np.mean(values)))
            for name, values in wanted.items():
                np.testing.assert_allclose(fast[name][member], values, atol=1e-9, err_msg=name)
            assert fast_distance[member] == pytest.approx(np.mean(distances[True]) / np.mean(distances[False]))
            np.testing.assert_allclose(curve[member], [np.mean(values) for values in differences.values()], atol=1e-9)

    @given(st.integers(0, 1000), st.floats(0.01, 100))
    @settings(max_examples=20)
    def test_cosines_stay_in_range_whatever_the_basis_and_the_scale(self, seed: int, scale: float) -> None:
        cells, rng = grid(bases=2, keys=3), np.random.default_rng(seed)
        codes = rng.normal(size=(1, *cells.label.shape, 4)) + rng.normal(size=4)
        turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        straight, turned = similarities(codes, cells), similarities(scale * codes @ turn, cells)
        for name, values in straight.items():
            np.testing.assert_allclose(values, turned[name], atol=1e-9)
            if "minus" not in name:
                assert (np.abs(values) <= 1 + 1e-9).all()
        np.testing.assert_allclose(mirror_distance(codes, cells), mirror_distance(scale * codes @ turn, cells))

    def test_shuffled_answers_leave_nothing(self) -> None:
        cells = grid(bases=16, keys=12)
        codes = value_code(cells.flat).reshape(1, *cells.label.shape, -1)
        kept = similarities(codes, cells)["equal_minus_unequal"]
        rng = np.random.default_rng(0)
        shuffled = np.stack([rng.permutation(label.ravel()).reshape(label.shape) for label in cells.label])
        assert kept.min() > 0.95
        assert abs(similarities(codes, replace(cells, label=shuffled))["equal_minus_unequal"].mean()) < 0.01

    def test_a_zero_vector_is_like_nothing(self) -> None:
        np.testing.assert_array_equal(cosines(np.array([[0.0, 0], [3, 4]])), [[0, 0], [0, 1]])

    def test_a_mean_of_nothing_is_not_a_number(self) -> None:
        values = np.array([[[1.0, 2], [3, 4]], [[5, 6], [7, 8]]])
        np.testing.assert_array_equal(mean_where(values, np.array([[[0, 1], [1, 0]], [[0, 0], [0, 0]]], bool)), [2.5, np.nan])


class TestFusedVector:
    def test_a_composed_value(self) -> None:
        scores = fused_vector(coded(value_code), TASK).scores()
        assert scores["equal_value"].value == pytest.approx(1)
        assert scores["mirrored"].value == pytest.approx(1)
        assert scores["unequal_value"].value < 0.01
        assert scores["equal_minus_unequal"].low > 0.95
        assert scores["mirror_distance"].value == pytest.approx(0, abs=1e-6)
        assert all(score.control == 0 for name, score in scores.items() if name != "mirror_distance")

    def test_an_unordered_pair(self) -> None:
        scores = fused_vector(coded(pair_code), TASK).scores()
        assert scores["mirrored"].value == pytest.approx(1)
        assert scores["mirrored_minus_others"].value > 0.9
        assert scores["mirror_distance"].value == pytest.approx(0, abs=1e-6)
        assert abs(scores["equal_minus_unequal"].value) < 0.05  # different pairs are different, whatever their value

    def test_an_ordered_pair_has_a_mirror_as_far_away_as_any(self) -> None:
        assert fused_vector(coded(ordered_code), TASK).scores()["mirror_distance"].value == pytest.approx(1)

    def test_untrained_models_have_no_composed_value(self) -> None:
        found: list[float] = []
        for seed in range(1, 6):
            model = GPT(ModelConfig(n_head=1, d_model=32, d_head=32, d_ff=64), members=1, vocab_size=120, seq_len=9)
            initialize(model, [Rate.Config()], [seed])
            found.append(fused_vector(model.requires_grad_(False), TASK).scores()["equal_minus_unequal"].value)
        assert max(map(abs, found)) < 0.1  # embeddings are similar by chance: 32 dimensions
        assert abs(np.mean(found)) < 0.03

    def test_the_view_is_of_pair_codes_at_equal_base_and_key(self) -> None:
        seen = fused_vector(coded(pair_code), TASK)
        assert seen.codes.shape[0] == len(seen.pair_of) == 14 * 14  # 200 // 14 bases of 14 pairs
        own = np.array([pair_code_of(a, b) for a, b in seen.pair_of.tolist()])
        np.testing.assert_allclose(seen.codes, own - own[:14].mean(0), atol=1e-6)

    @pytest.mark.parametrize("n", [1, 0, 1001])
    def test_a_number_of_bases_that_makes_no_sense(self, n: int) -> None:
        with pytest.raises(ValueError, match=rf"^n is {n}; allowed: 2 to 1000 base sequences$"):
            fused_vector(coded(pair_code), TASK, n=n)


def pair_code_of(a: int, b: int) -> np.ndarray:
    return np.eye(25)[5 * min(a, b) + max(a, b)]


class TestAnchorValue:
    @pytest.mark.parametrize("n_layer", [1, 2])
    def test_the_key_after_the_first_anchor(self, n_layer: int) -> None:
        """With one layer the stream itself; with two times the value matrix of layer 1, here a rotation."""
        rotation, _ = torch.linalg.qr(torch.randn(120, 120, generator=torch.Generator().manual_seed(0)))
        seen = anchor_value(coded(g_code, n_layer, {"value.1": rotation[None]}), TASK)
        scores = seen.scores()
        assert scores["equal_g"].value == pytest.approx(1, abs=1e-5)
        assert scores["equal_minus_unequal"].low > 0.95
        assert scores["equal_minus_unequal"].control == 0
        cells = len(seen.blocks)
        assert cells == 6 * 4
        g = seen.block_keys + np.array([OFFSETS[a] for a in seen.block_anchors.tolist()])
        assert np.unique(g).tolist() == list(range(g.min(), g.min() + 6))
        np.testing.assert_allclose(seen.blocks > 0.5, g[:, None] == g)

    def test_the_value_matrix_counts(self) -> None:
        blind = torch.zeros(120, 3)
        scores = anchor_value(coded(g_code, 2, {"value.1": blind[None]}), TASK).scores()
        assert scores["equal_g"].value == 0

    @pytest.mark.parametrize("code", [pair_code, ordered_code])
    def test_a_pair_is_no_value(self, code: Code) -> None:
        assert abs(anchor_value(coded(code, 1), TASK).scores()["equal_minus_unequal"].value) < 0.05

    def test_the_composed_value_is_g_too_as_the_second_anchor_is_one(self) -> None:
        assert anchor_value(coded(value_code, 1), TASK).scores()["equal_g"].value == pytest.approx(1)

    def test_they_agree_with_a_loop(self) -> None:
        cells = grid(bases=2, keys=8)
        cells = replace(cells, tokens=cells.tokens[:, :, ::4], label=cells.label[:, :, ::4], pairs=cells.pairs[::4])
        codes = np.random.default_rng(0).normal(size=(1, *cells.label.shape, 3))
        equal: list[float] = []
        for base in range(2):
            x = codes[0, base] - codes[0, base].mean((0, 1))
            x /= np.linalg.norm(x, axis=-1, keepdims=True)
            equal.append(
                float(
                    np.mean(
                        [
                            x[k, p] @ x[j, q]
                            for k in range(8)
                            for j in range(8)
                            for p in range(len(cells.pairs))
                            for q in range(len(cells.pairs))
                            if k != j and sorted(cells.pairs[p]) != sorted(cells.pairs[q])
                            if cells.label[base, k, p] == cells.label[base, j, q]
                        ]
                    )
                )
            )
        np.testing.assert_allclose(anchor_similarities(codes, cells)["equal_g"][0], equal)

    def test_the_second_anchor_does_not_matter_in_a_causal_model(self) -> None:
        model = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16)
        tokens = TASK.sample("iid", 50, 0).tokens
        at = TASK.token_positions(tokens)
        other = tokens.copy()
        other[np.arange(50), at["second anchor"]] = 1
        x, y = (
            model.layers[0](model.embed(torch.from_numpy(t)[None]), 9, last_only=False)[0].view(50, 9, 8) for t in (tokens, other)
        )
        rows = torch.arange(50), torch.from_numpy(at["first anchor"])
        torch.testing.assert_close(x[rows], y[rows])

    def test_a_key_after_its_anchors_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"^probe anchor_value needs a task whose key comes before its anchors; in composition it"
        ):
            anchor_value(random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16), load_task("composition", "anchors-first"))

    def test_pairs_that_share_no_second_anchor_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"^probe anchor_value needs a task that trains two first anchors with one second anchor"
        ):
            anchor_value(random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16), load_task("data-complexity", "wrong-6"))
