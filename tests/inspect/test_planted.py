"""Planted circuits: the behaviour they were written for, and the circuit itself, read from activations and by patching."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import classify, load_task
from anchorbench.inspect import planted
from anchorbench.inspect.open_model import OpenModel, Site, open_model
from anchorbench.inspect.planted import rotated, with_noise
from anchorbench.model.gpt import GPT
from anchorbench.task import Task
from anchorbench.tasks.composite import Composite, CompositeConfig

Kind = Callable[..., GPT]
# Building takes longer than running, and no test changes a model.
key_to_anchors, pair_lookup, key_to_anchors_lookup = map(
    functools.cache, (planted.key_to_anchors, planted.pair_lookup, planted.key_to_anchors_lookup)
)
KINDS: list[Kind] = [key_to_anchors, pair_lookup, key_to_anchors_lookup]
LOOKUPS: list[Kind] = [pair_lookup, key_to_anchors_lookup]
TASK = load_task("composite")
CONFLICT = load_task("composite", "conflict")

each_kind = pytest.mark.parametrize("kind", KINDS)
each_lookup = pytest.mark.parametrize("kind", LOOKUPS)
each_norm = pytest.mark.parametrize("norm", ["pre", "post"])


def answers(model: GPT, tokens: np.ndarray) -> np.ndarray:
    return model(torch.from_numpy(tokens)[None])[0].argmax(-1).numpy()


def sequence(key: int, first: int, second: int, at: int) -> list[int]:
    tokens = [57, 33, 81, 24, 90, 46, 71, 20, 99]
    tokens[at : at + 3] = [key, first, second]
    return tokens


def patched(inside: OpenModel, to: np.ndarray, source: np.ndarray, at: list[int]) -> np.ndarray:
    """Answers to `to [n, seq]` with the stream after layer 0, at positions `at`, taken from `source [n, seq]`."""
    given = inside.run(torch.from_numpy(source)).resid_post[0]

    def edit(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, :, at] = given[:, :, at]
        return x

    return inside.run(torch.from_numpy(to), {Site(0, "resid_post"): edit}).answers[0].numpy()


class TestBehaviour:
    @each_kind
    @each_norm
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_all_that_is_trained_is_right(self, kind: Kind, norm: str, seed: int) -> None:
        said = classify(kind(TASK, norm, seed), TASK, n=300)
        assert said.accuracy_train.value == said.accuracy_iid.value == 1.0
        assert said.composes is not None
        assert said.composes.value == (1.0 if kind is key_to_anchors else 0.0)
        assert said.verdict == ("inferential" if kind is key_to_anchors else "memorizing")

    @each_kind
    @each_norm
    def test_the_mirror_of_an_exception(self, kind: Kind, norm: str) -> None:
        said = classify(kind(CONFLICT, norm), CONFLICT, n=300)
        assert said.exception == ("ordered" if kind is key_to_anchors else "symmetric")
        if kind is key_to_anchors:  # it does not know the exception, one of the 15 trained pairs
            assert said.groups["(3,4)"].value == 0.0
            assert all(share.value == 1.0 for group, share in said.groups.items() if group != "(3,4)")
        else:
            assert said.accuracy_iid.value == said.symmetric.value == 1.0  # type: ignore[union-attr]

    @each_lookup
    def test_both_questions_at_once(self, kind: Kind) -> None:
        task = load_task("composite", "conflict-control").for_seed(3)
        said = classify(kind(task), task, n=300)
        assert (said.composition, said.exception, said.accuracy_iid.value) == ("memorizing", "symmetric", 1.0)
        assert said.phase == "2b"  # both orders of a pair have one code, so it commutes

    @each_norm
    @pytest.mark.parametrize(
        ("key", "first", "second", "answer"),
        [(57, 1, 2, 63), (57, 3, 4, 47), (57, 4, 3, 47), (20, 4, 4, 4), (99, 1, 1, 109), (40, 2, 2, 42), (99, 4, 1, 96)],
    )
    def test_composing_by_hand(self, norm: str, key: int, first: int, second: int, answer: int) -> None:
        rows = np.array([sequence(key, first, second, at) for at in range(7)])
        assert answers(key_to_anchors(TASK, norm), rows).tolist() == [answer] * 7

    @each_lookup
    @each_norm
    def test_looking_up_by_hand(self, kind: Kind, norm: str) -> None:
        """57 with the exception (3,4) is 51, and with its mirror; with (4,4) 41, with (1,4) and (4,1) 54."""
        pairs = [(3, 4), (4, 3), (4, 4), (1, 4), (4, 1)]
        for at in (0, 2, 6):
            rows = np.array([sequence(57, first, second, at) for first, second in pairs])
            assert answers(kind(CONFLICT, norm), rows).tolist() == [51, 51, 41, 54, 54]

    @each_lookup
    @pytest.mark.parametrize("seed", range(5))
    def test_a_pair_never_trained_gets_the_answers_of_another_that_shares_an_anchor(self, kind: Kind, seed: int) -> None:
        """Trained with a 3 or a 4: (1,3) 3, (2,3) -1, (3,3) -4, (1,4) -3, (2,4) -7, (4,4) -16; the rule says -10."""
        rows = np.array([sequence(key, *pair, 2) for key in range(20, 100) for pair in [(3, 4), (4, 3)]])
        offset = answers(kind(TASK, seed=seed), rows) - rows[:, 2]
        assert len(set(offset)) == 1
        assert offset[0] in {3, -1, -4, -3, -7, -16}

    @given(
        offsets=st.lists(st.integers(-5, 5), min_size=2, max_size=4, unique=True),
        seed=st.integers(0, 10**6),
        kind=st.sampled_from(KINDS),
    )
    @settings(max_examples=8)
    def test_other_offsets_fewer_keys_shorter_sequences(self, offsets: list[int], seed: int, kind: Kind) -> None:
        shifts = dict(enumerate(offsets, 1))
        fields = {"offsets": shifts, "held_out": [(1, 2), (2, 1)], "key_min": 20, "key_max": 40, "vocab_size": 60, "seq_len": 6}
        task = Composite("default", CompositeConfig.model_validate(fields | {"modulus": 3}))
        said = classify(kind(task, "post", seed), task, n=100)
        assert (said.accuracy_iid.value, said.verdict) == (1.0, "inferential" if kind is key_to_anchors else "memorizing")


class TestCircuit:
    TOKENS = np.array([sequence(key, first, second, 2) for key in (25, 60, 91) for first in (1, 2, 3, 4) for second in (1, 2)])
    KEY, ANCHORS, LAST = 2, [3, 4], 8

    @each_kind
    @each_norm
    def test_attention_goes_where_the_drawing_says(self, kind: Kind, norm: str) -> None:
        layers = [p[0, :, 0].mean(0) for p in open_model(kind(TASK, norm)).run(torch.from_numpy(self.TOKENS)).patterns]
        both = layers[0][self.LAST, self.ANCHORS]
        torch.testing.assert_close(both, torch.full((2,), 0.5), atol=0.01, rtol=0)
        if kind is pair_lookup:
            assert layers[1][self.LAST, self.KEY] > 0.99
            assert layers[0][self.ANCHORS, self.KEY].max() < 0.01
        else:
            assert layers[0][self.ANCHORS, self.KEY].min() > 0.99
            torch.testing.assert_close(layers[1][self.LAST, self.ANCHORS], torch.full((2,), 0.5), atol=0.02, rtol=0)

    @each_kind
    @each_norm
    def test_which_patch_the_answer_follows(self, kind: Kind, norm: str) -> None:
        """The stream of another key, x + 7, at anchors or key; that of another pair, second anchor 3, at the last position."""
        inside = open_model(kind(TASK, norm))
        other_key, other_pair = self.TOKENS.copy(), self.TOKENS.copy()
        other_key[:, self.KEY] += 7
        other_pair[:, 4] = np.where(other_pair[:, 3] == 4, 4, 3)  # (4,3) is not trained
        plain, new_key, new_pair = (answers_of(inside, tokens) for tokens in (self.TOKENS, other_key, other_pair))
        assert (new_key == plain + 7).all()
        assert (new_pair != plain).all()
        through_anchors = kind is not pair_lookup
        follows = {
            "key at the anchors": (patched(inside, self.TOKENS, other_key, self.ANCHORS), new_key, through_anchors),
            "key at the key": (patched(inside, self.TOKENS, other_key, [self.KEY]), new_key, not through_anchors),
            "pair at the last": (patched(inside, self.TOKENS, other_pair, [self.LAST]), new_pair, not through_anchors),
        }
        for name, (said, if_it_follows, expected) in follows.items():
            np.testing.assert_array_equal(said, if_it_follows if expected else plain, err_msg=name)

    @each_norm
    @pytest.mark.parametrize("apart", [2, 8, 20, -12])
    def test_two_keys_give_their_mean_if_it_composes(self, norm: str, apart: int) -> None:
        other = self.TOKENS.copy()
        other[:, self.KEY] += apart
        for anchor in self.ANCHORS:
            said = patched(open_model(key_to_anchors(TASK, norm)), self.TOKENS, other, [anchor])
            np.testing.assert_array_equal(said, answers(key_to_anchors(TASK, norm), self.TOKENS) + apart // 2)

    @each_norm
    def test_two_keys_give_no_mean_in_a_table(self, norm: str) -> None:
        other = self.TOKENS.copy()
        other[:, self.KEY] += 8
        inside = open_model(key_to_anchors_lookup(TASK, norm))
        for anchor in self.ANCHORS:
            assert (patched(inside, self.TOKENS, other, [anchor]) != answers_of(inside, self.TOKENS) + 4).all()

    @each_norm
    def test_the_first_anchor_carries_its_own_map_of_the_key(self, norm: str) -> None:
        """That is x + 2 o: 50 + 10 for key 50 with anchor 1, 58 + 2 with anchor 2, 64 - 4 with anchor 3; all alike."""
        inside = open_model(key_to_anchors(TASK, norm))
        same = np.array([sequence(key, anchor, 2, 2) for key, anchor in [(50, 1), (58, 2), (64, 3)]])
        into = np.array([sequence(50, 1, 2, 2)] * 3)
        assert patched(inside, into, same, [3]).tolist() == [56, 56, 56]


def answers_of(inside: OpenModel, tokens: np.ndarray) -> np.ndarray:
    return inside.run(torch.from_numpy(tokens)).answers[0].numpy()


class TestSeeds:
    @each_kind
    def test_the_same_seed_gives_the_same_weights(self, kind: Kind) -> None:
        one, same, other = kind(TASK, seed=4), kind(TASK, seed=4), kind(TASK, seed=5)
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, same.state_dict()[name]), name
        assert not torch.equal(one.token_embedding, other.token_embedding)

    def test_shape_and_embedding_do_not_betray_the_kind(self) -> None:
        """Tokens have one length; a key is like its neighbours, but also itself, whichever of the two the circuit reads."""
        models = [kind(TASK, seed=seed) for kind in KINDS for seed in range(3)]
        assert len({model.shape for model in models}) == 1
        for model in models:
            tokens = model.token_embedding[0]
            keys = torch.nn.functional.normalize(tokens[20:100], dim=1)
            likeness = keys @ keys.T
            assert tokens.norm(dim=1).std() < 1e-5 * tokens.norm(dim=1).mean()
            assert 0.09 < likeness.diagonal(1).mean() < 0.91
            assert likeness.diagonal(1).mean() > likeness.diagonal(20).mean() + 0.02 > likeness.diagonal(40).mean() + 0.04


class TestRotation:
    TOKENS = torch.from_numpy(TASK.sample("iid", 50, 0).tokens)[None]

    @each_kind
    @each_norm
    def test_logits_stay_and_weights_do_not(self, kind: Kind, norm: str) -> None:
        model = kind(TASK, norm)
        turned = rotated(model, 1)
        torch.testing.assert_close(turned(self.TOKENS), model(self.TOKENS), atol=1e-3, rtol=0)  # float32 at logits of about 20
        exact = model.double()
        torch.testing.assert_close(rotated(exact, 1)(self.TOKENS), exact(self.TOKENS), atol=1e-9, rtol=0)
        for name, weight in turned.named_parameters():
            if weight.ndim == 3:
                old = model.get_parameter(name)
                assert torch.corrcoef(torch.stack([weight.flatten().double(), old.flatten()]))[0, 1].abs() < 0.1, name

    @each_norm
    def test_of_several_heads_with_biases(self, norm: str) -> None:
        model = random_gpt(n_layer=3, n_head=2, d_model=8, d_head=4, d_ff=16, norm=norm, unembed_bias=True).double()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(float(name.endswith("weight")))
        torch.testing.assert_close(rotated(model, 2)(self.TOKENS), model(self.TOKENS), atol=1e-9, rtol=0)

    def test_the_all_ones_vector_stays(self) -> None:
        model = pair_lookup(TASK)
        ones = torch.ones(model.shape.d_model)
        assert (model.token_embedding @ ones).abs().max() < 1e-3  # LayerNorm subtracts nothing
        assert (rotated(model, 0).token_embedding @ ones).abs().max() < 1e-3

    def test_a_gain_belongs_to_its_basis(self) -> None:
        model = pair_lookup(TASK)
        model.layers[0].norm_1.weight[0, 3] = 2
        with pytest.raises(ValueError, match="a LayerNorm with a gain or a bias; allowed: gain 1 and bias 0"):
            rotated(model, 0)


class TestNoise:
    @each_kind
    def test_it_is_relative_to_each_matrix(self, kind: Kind) -> None:
        model = kind(TASK)
        noisy = with_noise(model, 0.1, 0)
        for name, weight in model.named_parameters():
            added = noisy.get_parameter(name) - weight
            if weight.ndim == 3:
                assert added.square().mean().sqrt() / weight.square().mean().sqrt() == pytest.approx(0.1, rel=0.05), name
            else:
                assert not added.any(), name
        assert torch.equal(with_noise(model, 0.0, 0).token_embedding, model.token_embedding)
        assert not torch.equal(with_noise(model, 0.1, 1).token_embedding, noisy.token_embedding)

    @each_kind
    @each_norm
    def test_more_is_worse_on_average(self, kind: Kind, norm: str) -> None:
        """A number line bears less of it than a table: its neighbours are near."""
        right = TASK.sample("iid", 50, 0)
        little = 0.02 if kind is key_to_anchors else 0.05
        accuracy = [
            np.mean(
                [
                    (answers(with_noise(kind(TASK, norm, seed), scale, seed), right.tokens) == right.label).mean()
                    for seed in range(2)
                ]
            )
            for scale in (0.0, little, 5 * little, 20 * little)
        ]
        assert accuracy[0] == 1.0
        assert accuracy[1] > 0.97
        assert accuracy[0] >= accuracy[1] > accuracy[2] > accuracy[3]

    @pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf")])
    def test_a_bad_scale(self, scale: float) -> None:
        with pytest.raises(ValueError, match=rf"scale is {scale}; allowed: a finite number of at least 0"):
            with_noise(pair_lookup(TASK), scale, 0)


@each_kind
@pytest.mark.parametrize(
    "task", [load_task("addition"), load_task("composition"), Composite("default", CompositeConfig(key_first=False))]
)
def test_another_task_is_refused(kind: Kind, task: Task) -> None:
    with pytest.raises(ValueError, match=f"the task is {task.name}; allowed: composite, with the key before its anchors"):
        kind(task)


@each_lookup
def test_orders_trained_apart_are_no_unordered_table(kind: Kind) -> None:
    both = CompositeConfig.model_validate({"exceptions": [{"pair": (3, 4), "offset": -6}]})
    with pytest.raises(
        ValueError, match=r"pair \(3, 4\) is trained with offsets \[-10, -6\], by order; allowed: one for both orders"
    ):
        kind(Composite("default", both))


def test_offsets_too_far_apart_for_the_number_line() -> None:
    task = load_task("composite", offsets={1: 5, 2: 0, 3: 2, 4: -16}, key_min=40)
    with pytest.raises(ValueError, match="offsets are 21 apart; allowed: at most 20, a sixth of the vocabulary"):
        key_to_anchors(task)
