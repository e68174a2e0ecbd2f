"""The leaderboard: seeds, budgets, statistics against slow oracles, and hostile entries."""

import itertools
import json
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import yaml
from conftest import ROOT
from huggingface_hub import parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from anchorbench.catalogue import find_tasks
from anchorbench.leaderboard.check import MAX_SENTENCE, asked, parse_recipe_yaml, read_recipe, validate_entry
from anchorbench.leaderboard.export import export_entry
from anchorbench.leaderboard.names import name_key
from anchorbench.leaderboard.schema import MODELS, readme, schema_json
from anchorbench.leaderboard.statistics import (
    FAMILY,
    Interval,
    better,
    exchange_p,
    flip_p,
    mean_of_tasks,
    ranks,
    share_of_suite,
    statistics_of,
)
from anchorbench.leaderboard.submission import SubmittedRecipe, parameters_of, training_digest
from anchorbench.leaderboard.suite import SEEDS, TRACKS, SuiteTask
from anchorbench.model.gpt import GPT
from anchorbench.seeds import stream_seed
from anchorbench.sweeps.summary import Mean
from anchorbench.task import load_task
from anchorbench.verdict import EvalSet, Share

RECIPES = sorted((ROOT / "leaderboard" / "recipes").glob("*.yaml"))


def submitted(**fields: object) -> SubmittedRecipe:
    return SubmittedRecipe.model_validate({"name": "A", "description": "B", "steps": 600, **fields})


# --- Recipes, seeds, budgets


def test_a_later_version_with_more_fields_reads_todays_entries() -> None:
    """A field that the file lacks takes its default, and changes neither seeds nor digest."""
    content = json.loads(hostile.honest_entry().to_json())
    del content["recipe"]["optimizer"]["decay_embeddings"], content["recipe"]["authors"]
    older = hostile.sealed(content)
    assert validate_entry(older).rows == hostile.honest_entry().rows


@pytest.mark.parametrize(
    "shape",
    [{}, {"norm": "post", "bias": False}, {"n_layer": 3, "n_head": 2, "d_head": 5, "d_ff": 7, "unembed_bias": True}],
    ids=str,
)
def test_parameters_are_those_of_the_model(shape: dict[str, object]) -> None:
    recipe = submitted(model=shape).recipe(TRACKS["laptop"].suite[0], 0)
    task = recipe.load_task()
    model = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    assert parameters_of(recipe) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_within_their_budget(path: Path) -> None:
    assert read_recipe(path).track == "laptop"


def test_the_shipped_recipes_are_distinct() -> None:
    recipes = [read_recipe(path) for path in RECIPES]
    assert len(recipes) >= 10
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert len({training_digest(recipe) for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("name", hostile.RECIPES)
def test_a_hostile_recipe_is_refused_with_its_reason(name: str) -> None:
    data, reason = hostile.RECIPES[name]
    with pytest.raises(ValueError, match=r".") as refused:
        parse_recipe_yaml(data)
    require_sentence(str(refused.value), reason)


def test_numbers_without_a_point_are_numbers() -> None:
    recipe = parse_recipe_yaml(b"name: A\ndescription: B\noptimizer: {lr: 1e-3}\n")
    assert recipe.optimizer.lr == 0.001


@pytest.mark.parametrize("track", TRACKS)
def test_every_task_of_a_suite_holds_something_out(track: str) -> None:
    for suite in TRACKS[track].suite:
        task = load_task(suite.task, suite.variant, **suite.config)
        assert any(group.role == "held_out" for group in task.groups)
        assert not any(group.role in ("mirror", "exception") for group in task.groups)
        assert "ood" in task.splits
        assert SEEDS % suite.pairs == 0


# --- Statistics


def strata(**of_task: list[float]) -> dict[tuple[str, str], list[float]]:
    """Shares by task, of one pair each."""
    return {(name, "one pair"): shares for name, shares in of_task.items()}


def test_the_statistics_of_an_entry_worked_by_hand() -> None:
    entry = hostile.honest_entry(inferential=3)
    statistics = statistics_of(entry.recipe, entry.rows)
    assert statistics.inferential.value == 3 / 6
    # Tasks of the same counts: nothing is gained over as many members of one task.
    count = len(entry.suite)
    assert (statistics.inferential.low, statistics.inferential.high) == pytest.approx(Share(3 * count, 6 * count).interval)
    assert [task.verdicts for task in statistics.tasks] == [(3, 0, 2, 1)] * count
    assert statistics.underfit == (count, 6 * count)
    pairs, *_ = statistics.tasks
    assert pairs.seen.value == pytest.approx(5.5 / 6)
    assert len({row.fingerprint for row in entry.rows[:6]}) == 6  # each member holds out another pair
    assert pairs.composed.value == pytest.approx((3 + 3 * 0.1) / 6, abs=1e-3)
    over_pairs = Mean.of([1.0] * 3 + [0.1] * 3)
    assert (pairs.composed.low, pairs.composed.high) == pytest.approx((over_pairs.low, over_pairs.high), abs=1e-2)
    tasks = [task.composed.value for task in statistics.tasks]
    assert statistics.score.value == pytest.approx(np.mean(tasks))
    half = np.std(tasks, ddof=1) / count**0.5 * stats.t.ppf(0.975, count - 1)
    assert (statistics.over_tasks.low, statistics.over_tasks.high) == pytest.approx(
        (np.mean(tasks) - half, min(1, np.mean(tasks) + half))
    )


def test_drawn_tasks_count_apart() -> None:
    """Three of the eight drawn tasks compose fully and five at 10%: the mean over tasks, and the gap to the suite's task."""
    entry = hostile.honest_entry(inferential=3)
    statistics, without = statistics_of(entry.recipe, entry.rows, entry.drawn), statistics_of(entry.recipe, entry.rows)
    assert statistics.score == without.score
    assert (without.drawn, without.gap) == (None, None)
    assert statistics.drawn is not None
    assert statistics.gap is not None
    of_tasks = Mean.of([1.0] * 3 + [0.1] * 5)
    assert statistics.drawn.value == pytest.approx((3 + 0.5) / 8, abs=1e-3)
    assert (statistics.drawn.low, statistics.drawn.high) == pytest.approx((of_tasks.low, of_tasks.high), abs=1e-2)
    assert statistics.gap.value == pytest.approx(statistics.tasks[0].composed.value - statistics.drawn.value)


def test_underfit_members_count_as_they_answer() -> None:
    """All members compose and half are underfit: the score is 1, and the verdicts say what the score does not."""
    entry = hostile.honest_entry(inferential=SEEDS)
    rows = [hostile.judged(row.model_copy(update={"accuracy_train": Share(0, 1000)})) for row in entry.rows[:SEEDS]]
    statistics = statistics_of(entry.recipe, rows)
    assert (statistics.score.value, statistics.inferential.value, statistics.underfit) == (1, 0, (SEEDS, SEEDS))


def test_the_cost_is_the_macs_of_the_recipe_and_counts_passes() -> None:
    entry = hostile.honest_entry()
    by_hand = 0
    for task in entry.suite:
        loaded = load_task(task.task, task.variant, **task.config)
        seq, vocab, d, ff = loaded.seq_len, loaded.vocab_size, 64, 256
        first = 4 * seq * d * d + 2 * seq * d * ff + 2 * seq * seq * d
        last = 2 * seq * d * d + 2 * d * d + 2 * d * ff + 2 * seq * d
        by_hand += SEEDS * task.times * 600 * 128 * 3 * (first + last + d * vocab)
    # macs_per_step counts the scores of a layer by answered positions and all keys, as `first` and `last` do
    assert statistics_of(entry.recipe, entry.rows).macs == pytest.approx(by_hand, rel=1e-9)
    # SVRG takes a second gradient at each step, and 16 batches every 100 steps.
    assert submitted(estimator="svrg").macs() == pytest.approx((2 + 16 / 100) * by_hand, rel=1e-9)


def test_no_interval_has_no_width() -> None:
    """Where all members agree, the interval is that of all of so many."""
    for count in (0, SEEDS):
        entry = hostile.honest_entry(inferential=count)
        interval = statistics_of(entry.recipe, entry.rows).inferential
        of_all = Share(len(entry.suite) * count, len(entry.rows))
        assert (interval.low, interval.high) == pytest.approx(of_all.interval, abs=1e-12)
    composed = statistics_of(entry.recipe, entry.rows).tasks[0].composed  # all of 1000 answers of each member
    assert (composed.value, composed.low, composed.high) == pytest.approx((1, *Share(6000, 6000).interval))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0]), min_size=5, max_size=7))
def test_the_interval_of_the_suites_share_covers(shares: list[float]) -> None:
    """For suites whose members are drawn with known shares, at least 92% of the intervals cover the true mean (nominal: 95%)."""
    drawn = np.random.default_rng(0).binomial(SEEDS, shares, size=(500, len(shares)))
    found = [share_of_suite([Share(hits, SEEDS) for hits in counts]) for counts in drawn.tolist()]
    truth = np.mean(shares)
    assert np.mean([each.low - 1e-12 <= truth <= each.high + 1e-12 for each in found]) > 0.92


def test_tasks_that_differ_narrow_the_interval() -> None:
    """Three tasks always, three never inferential: the members are far from 48 draws with p = 1/2."""
    split, even = (share_of_suite([Share(hits, 8) for hits in counts]) for counts in ([8, 8, 8, 0, 0, 0], [4] * 6))
    assert split.value == even.value == 0.5
    # With one run added to each side a task has p = 0.9 or 0.1, whose standard deviation is 0.6 times that of 1/2.
    assert (split.high - split.low) / (even.high - even.low) == pytest.approx(0.6, abs=0.02)
    assert (even.low, even.high) == pytest.approx(Share(24, 48).interval)


def test_the_score_of_a_task_with_pairs_has_an_interval_over_pairs() -> None:
    """Simulated: pairs differ more than seeds. t over the six pairs' means covers the truth; t over the runs would not."""
    entry = hostile.honest_entry()
    of_task = entry.rows_of(entry.suite[0]) * 3  # as reproductions add them
    rng, covered, narrow = np.random.default_rng(0), 0, 0
    for _ in range(300):
        of_pair = dict(zip(dict.fromkeys(row.fingerprint for row in of_task), rng.normal(0.5, 0.12, 6), strict=True))
        drawn = [np.clip(of_pair[row.fingerprint] + rng.normal(0, 0.02), 0, 1) for row in of_task]
        rows = [
            row.model_copy(update={"composes": Share(round(share * row.composes.n), row.composes.n)})
            for row, share in zip(of_task, drawn, strict=True)
        ]
        interval = statistics_of(entry.recipe, rows).tasks[0].composed
        covered += interval.low <= 0.5 <= interval.high
        half = np.std(drawn, ddof=1) / len(drawn) ** 0.5 * stats.t.ppf(0.975, len(drawn) - 1)
        narrow += abs(np.mean(drawn) - 0.5) <= half
    assert covered / 300 > 0.92 > narrow / 300


def test_the_interval_of_a_mean_of_tasks_worked_by_hand() -> None:
    mean = mean_of_tasks([Interval(0.5, 0.2, 0.6), Interval(0.7, 0.3, 0.7)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.6, 0.6 - 0.25, 0.65))  # sqrt(0.3^2 + 0.4^2) / 2 and 0.1 / 2


TENTHS = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=1, max_size=3)


@settings(max_examples=40)
@given(st.lists(st.tuples(TENTHS, TENTHS), min_size=1, max_size=3))
def test_the_permutation_test_counts_all_exchanges(shares: list[tuple[list[float], list[float]]]) -> None:
    """Against every way to hand out the runs of each stratum."""
    ours, theirs = ({(str(i), "p"): list(each[side]) for i, each in enumerate(shares)} for side in (0, 1))
    sums = [[sum(chosen) for chosen in itertools.combinations([*a, *b], len(a))] for a, b in shares]
    every = np.array([sum(each) for each in itertools.product(*sums)])
    seen = sum(sum(a) for a, _ in shares)
    assert exchange_p(ours, theirs) == pytest.approx((np.mean(every >= seen - 1e-9), np.mean(every <= seen + 1e-9)))


def test_of_one_task_the_permutation_test_is_scipys() -> None:
    ours, theirs = [1.0] * 7 + [0.0], [1.0] * 3 + [0.0] * 5
    scipys = stats.permutation_test((ours, theirs), lambda x, y: np.mean(x) - np.mean(y), alternative="greater", n_resamples=20_000)
    assert exchange_p(strata(t=ours), strata(t=theirs))[0] == pytest.approx(scipys.pvalue)


def test_pairs_that_only_one_side_was_asked_say_nothing() -> None:
    easy, hard = {("t", "easy"): [0.9, 1.0]}, {("t", "hard"): [0.1, 0.0]}
    assert exchange_p(easy, hard) == (1.0, 1.0)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.0, 0.1, 0.5, 1.0])), min_size=1, max_size=7))
def test_the_sign_flip_test_counts_all_signs(pairs: list[tuple[float, float]]) -> None:
    differences = [a - b for a, b in pairs]
    every = np.array([np.dot(signs, differences) for signs in itertools.product([-1, 1], repeat=len(pairs))])
    seen = sum(differences)
    assert flip_p(pairs) == pytest.approx((np.mean(every >= seen - 1e-9), np.mean(every <= seen + 1e-9)))


def test_better_than_is_corrected_for_all_comparisons() -> None:
    """By hand: 8 against 8 runs of one task, separated, have p = 2 / C(16, 8); moderate ones drown among many entries."""
    low, high = strata(t=[0.0] * 8), strata(t=[1.0] * 8)
    assert better([1, 0], [high, low]) == {(0, 1)}
    assert better([0, 1], [low, high]) == {(1, 0)}
    some = strata(t=[1.0] * 7 + [0.0]), strata(t=[1.0] * 1 + [0.0] * 7)
    p = 2 * exchange_p(*some)[0]
    assert FAMILY / 21 < p < FAMILY / 3
    assert better([7 / 8, 1 / 8], list(some)) == {(0, 1)}
    assert better([7 / 8, 1 / 8], list(some), withheld=1) == {(0, 1)}
    assert better([7 / 8, 1 / 8], list(some), withheld=5) == set()


def test_holm_goes_on_after_the_smallest_p() -> None:
    """By hand: three entries. The second p passes 0.05 / 2 but not 0.05 / 3; the third, of no difference, never does."""
    shares = [strata(t=[1.0] * 8), strata(t=[1.0] * 8), strata(t=[0.0] * 8)]
    assert better([1, 1, 0], shares) == {(0, 2), (1, 2)}
    ours, theirs = strata(t=[1.0] * 7 + [0.0]), strata(t=[1.0] * 2 + [0.0] * 6)
    p = 2 * exchange_p(ours, theirs)[0]
    assert p > FAMILY / 2
    assert better([7 / 8, 2 / 8], [ours, theirs]) == {(0, 1)}
    assert better([7 / 8, 2 / 8, 0], [ours, theirs, strata(u=[0.0] * 8)]) == set()


def test_who_scores_less_is_never_better() -> None:
    """The test compares within pairs, the score over them: where they disagree, nothing is said."""
    ours = {("t", "easy"): [0.6] * 8, ("t", "hard"): [0.5] * 2}
    theirs = {("t", "easy"): [0.2] * 8, ("u", "easy"): [1.0] * 8}
    assert exchange_p(ours, theirs)[0] < 0.001
    assert better([0.5, 0.6], [ours, theirs]) == set()


@settings(max_examples=50)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1])))
def test_no_rank_contradicts_a_comparison(pairs: set[tuple[int, int]]) -> None:
    found = ranks(7, pairs)
    assert all(found[first] < found[second] for first, second in pairs)
    assert min(found) == 1

    def above(entry: int) -> set[int]:  # the oracle follows every path
        return {i for first, second in pairs if second == entry for i in (first, *above(first))}

    assert found == [1 + len(above(entry)) for entry in range(7)]


@pytest.mark.parametrize("suite", [task for task in TRACKS["gpu"].suite if task.pairs > 1], ids=lambda suite: suite.name)
def test_the_number_of_pairs_is_the_tasks(suite: SuiteTask) -> None:
    task = load_task(suite.task, suite.variant, **suite.config)
    data = [task.for_seed(seed).fingerprint for seed in range(2 * suite.pairs)]
    assert data[: suite.pairs] == data[suite.pairs :]
    assert len(set(data)) == suite.pairs


@pytest.mark.parametrize("suite", [task for task in TRACKS["gpu"].suite if task.pairs == 1], ids=lambda suite: suite.name)
def test_other_tasks_are_the_same_for_every_seed(suite: SuiteTask) -> None:
    task = load_task(suite.task, suite.variant, **suite.config)
    assert len({task.for_seed(seed).fingerprint for seed in range(12)}) == 1


# --- Entries


def require_sentence(said: str, reason: str) -> None:
    assert reason in said
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) <= MAX_SENTENCE + 3


@pytest.mark.parametrize("count", [0, 3, SEEDS])
def test_an_honest_entry_is_read_back(count: int) -> None:
    entry = hostile.honest_entry(inferential=count)
    assert validate_entry(entry.to_json()) == entry
    assert validate_entry(hostile.sealed(json.loads(entry.to_json()))) == entry  # white space is not content


def test_an_honest_entry_of_the_gpu_track_is_read_back() -> None:
    entry = hostile.honest_entry(track="gpu")
    assert validate_entry(entry.to_json()) == entry
    assert len(entry.rows) == len(TRACKS["gpu"].suite) * SEEDS


@pytest.mark.parametrize("text", hostile.MARKUP)
def test_text_that_looks_like_markup_is_text(text: str) -> None:
    entry = hostile.honest_entry(description=text)
    assert validate_entry(entry.to_json()).recipe.description == text


@pytest.mark.parametrize("name", ["gamma 0.8", "\u03b3 0.8", "\u4f60\u597d 2", "O'Brien & co. (lab)", "\u00c9mile", "e\u0301tude"])
def test_names_of_every_language_are_names(name: str) -> None:
    assert validate_entry(hostile.honest_entry(name).to_json()).recipe.name == name


@pytest.mark.parametrize(
    "same", ["Gamma 0.8", "\uff47\uff41\uff4d\uff4d\uff41 \uff10.8", "\U0001d420\U0001d41amma 0.8", "GAMMA 0.8"]
)
def test_names_that_look_the_same_are_the_same(same: str) -> None:
    assert name_key(same) == name_key("gamma 0.8")
    assert name_key("gamma 0.7") != name_key("gamma 0.8")


def test_there_are_enough_hostile_entries() -> None:
    assert len(hostile.ENTRIES) >= 40


@pytest.mark.parametrize("name", hostile.ENTRIES)
def test_a_hostile_entry_is_refused_with_its_reason(name: str) -> None:
    make, reason = hostile.ENTRIES[name]
    with pytest.raises(ValueError, match=r".") as refused:
        validate_entry(make())
    require_sentence(str(refused.value), reason)


DATA = hostile.honest_entry().to_json()


@settings(max_examples=200)
@given(st.integers(0, 10**9), st.integers(0, 255))
def test_no_changed_byte_goes_unnoticed(at: int, byte: int) -> None:
    at %= len(DATA)
    changed = DATA[:at] + bytes([byte]) + DATA[at + 1 :]
    try:
        assert validate_entry(changed).to_json() == DATA  # white space, or the same byte
    except ValueError as refused:
        require_sentence(str(refused), "")


ODD = [None, True, "", "x" * 5000, "\u202e", -1, 0, 1, 10**29, 1e308, -0.0, [], {}, [[]], [1, 2], {"a": 1}, "fp32", 0.5]


@settings(max_examples=80)
@given(st.data())
def test_whatever_stands_anywhere_is_refused_in_a_sentence(data: st.DataObject) -> None:
    """A value anywhere in a valid entry, replaced and sealed anew, is accepted only if nothing follows from it."""
    content = json.loads(DATA)
    path, inner = [], content
    while isinstance(inner, dict | list) and inner and (not path or data.draw(st.integers(0, 4))):
        path.append(data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner)))))
        parent, inner = inner, inner[path[-1]]
    parent[path[-1]] = data.draw(st.sampled_from(ODD))
    try:
        entry = validate_entry(hostile.sealed(content))
    except ValueError as refused:
        require_sentence(str(refused), "")
    else:
        said = json.loads(entry.to_json())
        assert said["rows"] == content["rows"]


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        hostile.honest_entry().git = "0" * 40


@pytest.mark.parametrize("suite", TRACKS["gpu"].suite, ids=lambda suite: suite.name)
@pytest.mark.parametrize("data_size", [300, 5000])
def test_the_answers_that_are_counted_are_those_of_the_evaluation_set(suite: SuiteTask, data_size: int) -> None:
    """The oracle draws the whole set, answers everything right, and counts."""
    recipe = submitted(data_size=data_size).recipe(suite, 3)
    task = recipe.load_task()
    seed = stream_seed(recipe.seed, "evaluation")
    evaluated = EvalSet.of(task, 1000, seed, train=task.sample("train", recipe.data_size, 3)[:1000])
    assert evaluated.fresh is not None
    right = [part.label for part in (*evaluated.examples.values(), evaluated.fresh)]
    swapped = [] if evaluated.mirrored is None else [np.zeros(len(evaluated.mirrored), int)]
    behaviour = evaluated.behaviour(np.concatenate([*right, *swapped]))
    counts = asked(task, recipe)
    for field, n in counts.items():
        assert n == getattr(behaviour, field).n, field


# --- Schema, export


def test_schema_and_readme_are_what_is_generated() -> None:
    """`anchorbench leaderboard schema` writes them; each field has a description."""
    folder = ROOT / "leaderboard"
    assert (folder / "schema.json").read_bytes() == schema_json()
    assert (folder / "README.md").read_text() == readme()
    content = json.loads(schema_json())
    definitions = [content, *(form for form in content["$defs"].values() if "properties" in form)]
    assert len(definitions) == len(MODELS)
    for definition in definitions:
        assert definition["additionalProperties"] is False
        for field, form in definition["properties"].items():
            assert form["description"], field


def test_the_schema_has_the_fields_of_an_entry() -> None:
    content = json.loads(schema_json())

    def follow(form: dict[str, Any], value: Any) -> None:
        form = content["$defs"][form["$ref"].rpartition("/")[2]] if "$ref" in form else form
        if "anyOf" in form:
            form = next(each for each in form["anyOf"] if (each.get("type") == "null") == (value is None))
            follow(form, value)
        elif form.get("type") == ["object", "string"]:  # a part, whose fields are in docs/parts.md
            assert isinstance(value, dict | str)
        elif isinstance(value, dict):
            assert set(value) == set(form["properties"])
            for key, inner in value.items():
                follow(form["properties"][key], inner)
        elif isinstance(value, list) and "items" in form:
            for inner in value:
                follow(form["items"], inner)

    follow(content, json.loads(hostile.honest_entry().to_json()))


def test_export_is_read_back_by_the_hubs_own_types(tmp_path: Path) -> None:
    entry = hostile.honest_entry(inferential=3)
    evaluation, result = export_entry(entry, "someone/anchorbench", tmp_path)
    assert result.relative_to(tmp_path) == Path(".eval_results/anchorbench.yaml")
    read = parse_eval_result_entries(yaml.safe_load(result.read_text()))
    benchmark = yaml.safe_load(evaluation.read_text())
    assert [each.task_id for each in read] == [task["id"] for task in benchmark["tasks"]]
    assert read[0].value == pytest.approx((3 + 3 * 0.1) / 6)
    assert {each.dataset_id for each in read} == {"someone/anchorbench"}
    assert read[0].notes is not None
    assert read[0].notes.startswith("95% interval ")
    assert "; 3 of 6 runs inferential; recipe " in read[0].notes
    for task in benchmark["tasks"]:
        assert find_tasks(task["config"])[0].splits.count(task["split"]) == 1  # as `data build` names them
