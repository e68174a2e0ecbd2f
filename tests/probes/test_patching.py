"""Patching, on circuits whose weights are written by hand, and against a plain loop over sequences."""

import numpy as np
import pytest
import torch
from conftest import SMALL_COMPOSITE
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench import load_task
from anchorbench.inspect.open_model import StackModel
from anchorbench.inspect.planted import key_to_anchors, key_to_anchors_lookup, pair_lookup
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.probes.patching import PATCHES, carried, exception_in_order, exception_pair, followed, patching, write_swaps

TASK = load_task("composite")
SMALL, CONFLICT = (load_task("composite", variant, **SMALL_COMPOSITE) for variant in ("heldout-both", "conflict"))
OFFSETS = {1: 5, 2: 1, 3: -2, 4: -8}
ANCHORS = list(OFFSETS)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_swaps_differ_in_what_they_say_and_in_nothing_else(seed: int) -> None:
    swaps = write_swaps(TASK, 20, seed)
    rows = np.arange(20)
    for name, tokens in swaps.tokens.items():
        key, (first, second) = tokens[rows, swaps.key], tokens[rows[:, None], swaps.anchors].T
        assert np.isin([first, second], ANCHORS).all()
        assert not (np.sort([first, second], 0) == [[3], [4]]).all(0).any(), "a held-out pair"
        composed = key + np.array([OFFSETS[a] + OFFSETS[b] for a, b in zip(first.tolist(), second.tolist(), strict=True)])
        assert (composed == swaps.label[name]).all()
        changed = tokens != swaps.base
        assert (changed[rows, swaps.key] == (name in ("other_key", "other_both"))).all()
        changed[rows, swaps.key] = changed[rows[:, None], swaps.anchors] = False
        assert not changed.any()
    for name in ("other_key", "other_pair", "other_both"):
        assert (swaps.label[name] != swaps.label["base"]).all(), "nothing could be seen to follow"
    target = swaps.tokens["other_both"]
    for side, tokens in enumerate(swaps.apart):
        mine, other = swaps.anchors[:, side], swaps.anchors[:, 1 - side]
        assert (tokens[rows, mine] == target[rows, mine]).all()
        assert (tokens[rows, other] != target[rows, other]).all()
        assert (tokens[rows, swaps.key] == target[rows, swaps.key]).all()
    taken = np.concatenate([swaps.key[:, None], swaps.anchors, np.full((20, 1), TASK.seq_len - 1)], 1)
    assert not (swaps.fillers[:, :, None] == taken[:, None]).any()


@pytest.mark.parametrize("norm", ["pre", "post"])
class TestPlanted:
    """By hand: what the circuit says must follow, follows in every sequence, and nothing else in any."""

    def scores(self, model: GPT) -> dict[str, float]:
        return {name: score.value for name, score in patching(model, SMALL, n=50).scores().items()}

    def test_key_to_anchors(self, norm: str) -> None:
        found = self.scores(key_to_anchors(SMALL, norm, 1))
        assert found["anchors_carry.0"] == found["parts_carry.0"] == found["key_at_anchors.0"] == 1
        assert found["key_at_key.0"] == found["pair_at_last.0"] == 0

    def test_pair_lookup(self, norm: str) -> None:
        found = self.scores(pair_lookup(SMALL, norm, 1))
        assert found["key_at_key.0"] == found["pair_at_last.0"] == 1
        assert found["anchors_carry.0"] == found["parts_carry.0"] == found["key_at_anchors.0"] == 0

    def test_a_table_behind_the_anchors_looks_like_the_rule(self, norm: str) -> None:
        """What `does_not_show` says."""
        assert self.scores(key_to_anchors_lookup(SMALL, norm, 1)) == self.scores(key_to_anchors(SMALL, norm, 1))

    def test_controls_do_not_follow(self, norm: str) -> None:
        for plant in (key_to_anchors, pair_lookup):
            for name, score in patching(plant(SMALL, norm, 2), SMALL, n=100).scores().items():
                assert score.control < 0.1, (plant.__name__, name)
                assert score.low <= score.value <= score.high


def random_stack(members: int, n_layer: int = 3) -> GPT:
    shape = ModelConfig(n_layer=n_layer, n_head=2, d_model=16, d_head=8, d_ff=32)
    model = GPT(shape, members=members, vocab_size=TASK.vocab_size, seq_len=TASK.seq_len)
    initialize(model, [Rate.Config(gamma=0.2)] * members, list(range(members)))
    return model.requires_grad_(False)


def test_followed_is_a_loop_over_members_layers_and_sequences() -> None:
    """The same, slowly: one member, one sequence, one patch at a time, layer by layer. Random models answer few labels: those
    are replaced by what the loop finds, so that half of the answers follow.
    """
    model, n = random_stack(2), 6
    swaps = write_swaps(TASK, n, 3)
    last = TASK.seq_len - 1

    def stream(member: int, tokens: np.ndarray, upto: int) -> torch.Tensor:
        x = model.embed(torch.from_numpy(tokens).expand(2, 1, -1))
        for block in model.layers[: upto + 1]:
            x, _ = block(x, TASK.seq_len, last_only=False)
        return x[member].view(1, TASK.seq_len, -1)[0]

    def answer(member: int, x: torch.Tensor, after: int) -> int:
        x = x.expand(2, -1, -1).contiguous()
        for block in model.layers[after + 1 :]:
            x, _ = block(x, TASK.seq_len, last_only=False)
        return int(model.unembed(x)[member, last].argmax())

    def patched(member: int, layer: int, row: int, name: str) -> int:
        one, two = swaps.anchors[row]
        places = {
            "anchors_carry": [(one, swaps.tokens["other_both"]), (two, swaps.tokens["other_both"])],
            "parts_carry": [(one, swaps.apart[0]), (two, swaps.apart[1])],
            "key_at_anchors": [(one, swaps.tokens["other_key"]), (two, swaps.tokens["other_key"])],
            "key_at_key": [(swaps.key[row], swaps.tokens["other_key"])],
            "pair_at_last": [(last, swaps.tokens["other_pair"])],
        }[name]
        x = stream(member, swaps.base[row], layer).clone()
        for at, source in places:
            x[at] = stream(member, source[row], layer)[at]
        return answer(member, x, layer)

    slow = np.array([[[[patched(m, i, row, name) for row in range(n)] for i in range(2)] for m in range(2)] for name in PATCHES])
    for number, target in enumerate(["other_both", "other_both", "other_key", "other_key", "other_pair"]):
        label = swaps.label | {target: np.where(np.arange(n) % 2 == 0, slow[number, 1, 1], -1)}
        fast = followed(StackModel(model), type(swaps)(**{**vars(swaps), "label": label}))
        assert (fast[PATCHES[number]] == (slow[number] == label[target])).all(), PATCHES[number]
        assert fast[PATCHES[number]][1, 1].sum() == n // 2


def test_carried_takes_the_layer_where_most_follow() -> None:
    found = {"a": np.array([[[True, True], [False, True]], [[False, False], [True, False]]])}
    assert carried(found)["a"].tolist() == [1.0, 0.5]


def test_the_exception_of_conflict_is_found() -> None:
    pair = exception_pair(CONFLICT, 0)
    assert pair is not None
    assert pair.tolist() == [3, 4]
    assert exception_pair(TASK, 0) is None


def test_an_unordered_table_reads_its_exception_without_order() -> None:
    opened = StackModel(pair_lookup(CONFLICT, "pre", 0))
    found = exception_in_order(opened, CONFLICT, write_swaps(CONFLICT, 50, 0), 0)
    assert found is not None
    assert (found == 0).all()
    table = patching(pair_lookup(CONFLICT, "pre", 0), CONFLICT, n=50).scores()
    assert table["exception_in_order.0"] == (0, 0, 0, 0)
    assert exception_in_order(opened, SMALL, write_swaps(SMALL, 50, 0), 0) is None


@pytest.mark.parametrize(
    ("task", "n_layer", "n", "sentence"),
    [
        (TASK, 1, 50, "probe patching needs a model of two layers or more; this has 1"),
        (TASK, 2, 1, "n is 1; allowed: at least 2 sequences, so that there is an interval"),
        (
            load_task("identity"),
            2,
            50,
            "probe patching needs a task whose sequences hold a key and two anchors; those of identity do not",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(task: object, n_layer: int, n: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        patching(random_stack(1, n_layer), task, n=n)  # pyright: ignore[reportArgumentType]
