"""The forecast: recombination against models whose solution is known, its interval by hand, and where it abstains."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_COMPOSITE, random_gpt

from anchorbench import load_task
from anchorbench.inspect.forecast import MARGIN, Found, Share, Widths, fit_widths, forecast, forecasts, load_widths
from anchorbench.inspect.foreign import KINDS, train_foreign
from anchorbench.inspect.open_model import Site, StackModel, open_model, side_by_side
from anchorbench.inspect.planted import key_to_anchors, key_to_anchors_lookup, pair_lookup
from anchorbench.inspect.recombine import find_sites, find_squares, recombined_answers
from anchorbench.task import SPLITS, list_tasks

SMALL = load_task("composite", **SMALL_COMPOSITE)
EVERY = [Site(0, "resid_mid"), Site(0, "resid_post"), Site(1, "resid_mid")]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("composite", "heldout-both"),
        ("composite", "conflict-control"),
        ("nine-anchors", "heldout-ten"),
        ("ten-anchors", "intervals"),
    ],
)
@pytest.mark.parametrize("split", ["ood", "train"])
def test_squares_are_trained_and_differ_in_their_parts(name: str, variant: str, split: str) -> None:
    task = load_task(name, variant)
    examples = task.sample(split, 40, 0)  # pyright: ignore[reportArgumentType]
    trained = np.array([group.role == "trained" for group in task.groups])
    squares = find_squares(task, examples[trained[examples.group] | (split == "ood")], 0)
    tokens, (first, second) = squares.examples.tokens, squares.parts
    marks, rows = task.token_positions(tokens), np.arange(len(tokens))
    assert len(tokens) > 0
    for one, two, both in zip(squares.first, squares.second, squares.both, strict=True):
        for changed, parts in ((one, {first}), (two, {second}), (both, {first, second})):
            answers = task.answer(changed)
            assert answers.valid.all()
            assert trained[answers.group].all()
            assert (answers.split == SPLITS.index("train")).all()
            expected = tokens.copy()
            for part in parts:
                assert (changed[rows, marks[part]] != tokens[rows, marks[part]]).all()
                expected[rows, marks[part]] = changed[rows, marks[part]]
            assert np.array_equal(changed, expected)
        assert np.array_equal(both[rows, marks[first]], one[rows, marks[first]])
        assert np.array_equal(both[rows, marks[second]], two[rows, marks[second]])


def test_a_task_without_squares_says_so() -> None:
    task = load_task("near-synonym")
    with pytest.raises(ValueError, match=r"held-out sequences of near-synonym-\S+ cannot be put together from trained ones"):
        find_squares(task, task.sample("ood", 20, 0), 0)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_every_site_of_ours_holds_the_whole_state(norm: str) -> None:
    assert find_sites(open_model(random_gpt(norm=norm)), SMALL.sample("train", 8, 0).tokens) == EVERY


def test_parallel_blocks_have_no_site_between_attention_and_feed_forward() -> None:
    torch.manual_seed(0)
    tokens = SMALL.sample("train", 8, 0).tokens
    length = SMALL.seq_len + 1
    assert find_sites(open_model(KINDS["neox"](SMALL.vocab_size, length)), tokens) == [Site(0, "resid_post")]
    assert find_sites(open_model(KINDS["llama"](SMALL.vocab_size, length)), tokens) == EVERY


def test_sums_of_streams_by_hand() -> None:
    """At resid_post of layer 0, in a run of another sequence: what the rest of the model makes of the sum, written out."""
    model = random_gpt(seq_len=SMALL.seq_len, vocab_size=SMALL.vocab_size)
    squares = find_squares(SMALL, SMALL.sample("ood", 6, 0), 0, squares=2)
    answers = recombined_answers(StackModel(model), squares, [Site(0, "resid_post")])
    for number in range(2):
        streams = []
        for tokens in (squares.first[number], squares.second[number], squares.both[number]):
            x = model.embed(torch.from_numpy(tokens)[None])
            streams.append(model.layers[0](x, model.length, last_only=False)[0])
        with torch.no_grad():
            x = streams[0] + streams[1] - streams[2]
            last = model.layers[1](x, model.length, last_only=True)[0]
            expected = model.unembed(last).argmax(-1)
        assert answers[0, number].tolist() == expected.tolist()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_planted_circuits(norm: str) -> None:
    """One composes all of its held-out answers, the other none; of each, two in a stack are forecast as one alone."""
    both = side_by_side([key_to_anchors(SMALL, norm, seed) for seed in range(2)])  # pyright: ignore[reportArgumentType]
    found = forecasts(both, SMALL)
    assert [each.name for each in found] == ["inferential"] * 2
    assert all(each.share is not None and each.share.value > 0.95 for each in found)
    assert all(each.fidelity > 0.95 for each in found)
    for plant in (pair_lookup, key_to_anchors_lookup):
        memorizing = forecast(plant(SMALL, norm, 0), SMALL)  # pyright: ignore[reportArgumentType]
        assert (memorizing.name, memorizing.fidelity) == ("memorizing", 1)
        assert memorizing.groups == {"(3,4)": 0, "(4,3)": 0}


def test_the_controls_compose_nothing() -> None:
    opened = open_model(key_to_anchors(SMALL, "pre", 0))
    squares = find_squares(SMALL, SMALL.sample("ood", 60, 0), 0)
    label = squares.examples.foils["inferential"]
    fillers = np.zeros((60, 1), int)
    marks = np.stack(list(SMALL.token_positions(squares.examples.tokens).values()), 1)
    for number, row in enumerate(marks):
        fillers[number] = min(set(range(SMALL.seq_len)) - set(row.tolist()))

    def share(**how: object) -> float:
        return float((recombined_answers(opened, squares, EVERY, **how) == label).mean())  # pyright: ignore[reportArgumentType]

    assert share() > 0.9
    assert share(at=fillers) < 0.1
    assert share(donor=open_model(key_to_anchors(SMALL, "pre", 1))) < 0.1


def test_the_interval_by_hand() -> None:
    """1/50 + 1/2 * 1/10 + 1/4 * 4 * 1/4 * 3/4 + 1/10 = .3575 on both sides of 1/4."""
    widths = Widths(constant=0.02, infidelity=0.5, spread=0.25, disagreement=0.5, runs=10)
    share = widths.around(Found(share=0.25, disagreement=0.2, fidelity=0.9))
    assert (share.value, share.low, share.high) == (0.25, 0.0, pytest.approx(0.6075))
    assert widths.around(Found(1.0, 0.0, 1.0)) == Share(1.0, 0.98, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (0.76, 0.9, "inferential"),
        (0.75, 0.9, "cannot be told"),
        (0.0, 0.24, "memorizing"),
        (0.0, 0.25, "cannot be told"),
        (0.26, 0.74, "mixed"),
        (0.2, 0.5, "cannot be told"),
    ],
)
def test_the_name_follows_from_the_interval(low: float, high: float, name: str) -> None:
    assert Share((low + high) / 2, low, high).name() == name


def test_widths_cover_nine_in_ten() -> None:
    """Errors of up to .3 (1 - fidelity) and .2 of the disagreement: the 90% quantile is found, and the margin added to it."""
    rng = np.random.default_rng(0)
    found = [Found(0.5, rng.random(), fidelity=rng.random()) for _ in range(400)]
    most = [0.3 * (1 - each.fidelity) + 0.2 * each.disagreement for each in found]
    composed = [0.5 + rng.choice([-1, 1]) * rng.random() * error for error in most]
    widths = fit_widths(found, composed)
    half = [widths.around(each).high - 0.5 for each in found]
    inside = [abs(truth - 0.5) <= width / MARGIN for truth, width in zip(composed, half, strict=True)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)
    assert widths.infidelity / MARGIN == pytest.approx(0.27, abs=0.05)
    assert widths.disagreement / MARGIN == pytest.approx(0.18, abs=0.05)
    with pytest.raises(ValueError, match=r"^9 runs have a forecast; allowed: at least 10"):
        fit_widths(found[:9], composed[:9])


def test_an_untrained_model_gets_no_forecast() -> None:
    found = forecast(random_gpt(seq_len=SMALL.seq_len, vocab_size=SMALL.vocab_size), SMALL)
    assert (found.name, found.share, found.groups, found.exception) == ("cannot be told", None, {}, None)
    assert found.why is not None
    assert found.why.startswith("accuracy on trained sequences is only 0.")
    conflict = load_task("composite", "conflict", **SMALL_COMPOSITE)
    assert forecast(random_gpt(seq_len=SMALL.seq_len, vocab_size=SMALL.vocab_size), conflict).exception == "cannot be told"


def test_how_an_exception_is_read() -> None:
    """A table of unordered pairs repeats the exception on its mirror; the forecast says so without having seen it."""
    task = load_task("composite", "conflict", **SMALL_COMPOSITE)
    found = forecast(pair_lookup(task, "pre", 0), task)
    assert found.symmetric is not None
    assert found.symmetric.value > 0.9
    assert found.exception == "symmetric"
    assert found.composes is None
    assert found.groups.keys() == {"(4,3)"}


def test_what_cannot_be_forecast_says_why() -> None:
    with pytest.raises(ValueError, match=r"^task identity-\S+ holds nothing out"):
        forecast(random_gpt(vocab_size=120, seq_len=9), load_task("identity"))
    shallow = random_gpt(seq_len=SMALL.seq_len, vocab_size=SMALL.vocab_size, n_layer=1)
    with pytest.raises(ValueError, match=r"^recombination needs a model of two layers or more; this has 1$"):
        forecast(shallow, SMALL)


def test_damaged_widths_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "forecast.json"
    path.write_text(json.dumps({"constant": 1}))
    with pytest.raises(ValueError, match=r"forecast\.json holds no widths of a forecast: \S+"):
        load_widths(path)
    assert load_widths().runs >= 10


def test_the_trainer_makes_checkpoints_that_are_read(tmp_path: Path) -> None:
    folder = train_foreign("gpt2-tied", SMALL, 0, tmp_path / "model", steps=2)
    [found] = forecasts(open_model(str(folder)), SMALL)
    assert found.name == "cannot be told"
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert train_foreign("gpt2-tied", SMALL, 0, folder, steps=2) == folder  # kept
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def test_controls_without_a_rule() -> None:
    """`no-rule` trains each pair with its own number, by seed; `other-rule` with the difference; held-out pairs ask for the sum."""
    assert {("composite", "no-rule"), ("composite", "other-rule")} <= set(list_tasks())
    for variant in ("no-rule", "other-rule"):
        task = load_task("composite", variant).for_seed(5)
        added = {}
        for split in ("train", "iid", "ood"):
            examples = task.sample(split, 500, 0)  # pyright: ignore[reportArgumentType]
            answers = task.answer(examples.tokens)
            assert np.array_equal(answers.label, examples.label)
            for group in set(examples.group.tolist()):
                offsets = set((examples.label - examples.key)[examples.group == group].tolist())
                assert len(offsets) == 1
                added.setdefault(task.groups[group].name, set()).update(offsets)
        assert added["(3,4)"] == added["(4,3)"] == {-10}  # held out by seed 5
        if variant == "other-rule":
            assert (added["(1,2)"], added["(2,1)"], added["(1,1)"]) == ({4}, {-4}, {0})
    one, other = (load_task("composite", "no-rule").for_seed(seed) for seed in (5, 11))
    assert one.fingerprint != other.fingerprint
    assert one.groups == other.groups
