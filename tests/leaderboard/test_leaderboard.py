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
from anchorbench.leaderboard import entry as board
from anchorbench.leaderboard.check import MAX_SENTENCE, asked, parse_recipe_yaml, read_recipe, validate_entry
from anchorbench.leaderboard.entry import SEEDS, TRACKS, Entry, Interval, SubmittedRecipe
from anchorbench.leaderboard.export import export_entry
from anchorbench.leaderboard.schema import MODELS, readme, schema_json
from anchorbench.leaderboard.statistics import BETTER, better_than, mean_of_tasks, permutation_p, ranking, share_of_suite
from anchorbench.model.gpt import GPT
from anchorbench.seeds import stream_seed
from anchorbench.task import load_task
from anchorbench.verdict import EvalSet, Share

RECIPES = sorted((ROOT / "leaderboard" / "recipes").glob("*.yaml"))


def submitted(**fields: object) -> SubmittedRecipe:
    return SubmittedRecipe.model_validate({"name": "A", "description": "B", "steps": 600, **fields})


# --- Recipes, seeds, budgets


def test_seeds_follow_from_what_is_trained_and_from_nothing_else() -> None:
    suite = TRACKS["laptop"].suite
    recipe = submitted()
    seeds = [recipe.seeds(task) for task in suite]
    assert all(len(set(each)) == SEEDS for each in seeds)
    assert len({seed for each in seeds for seed in each}) == SEEDS * len(suite)
    for same in ({"name": "C"}, {"description": "C"}, {"authors": ["C"]}, {"precision": "bf16"}, {"precision": "fp32"}):
        assert [submitted(**same).seeds(task) for task in suite] == seeds
    for other in ({"steps": 601}, {"optimizer": {"lr": 0.0011}}, {"init": {"gamma": 0.51}}, {"data_size": 99_999}):
        assert not set(submitted(**other).seeds(suite[0])) & set(seeds[0])


def test_seeds_are_the_same_on_every_machine() -> None:
    """Written down once: another hash, another board."""
    assert submitted().seeds(TRACKS["laptop"].suite[0])[:3] == GOLDEN_SEEDS


def test_a_later_version_with_more_fields_reads_todays_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that the file lacks takes its default, and changes neither seeds nor digest."""
    content = json.loads(hostile.honest_entry().to_json())
    del content["recipe"]["optimizer"]["decay_embeddings"], content["recipe"]["authors"]
    older = hostile.sealed(content)
    assert validate_entry(older).rows == hostile.honest_entry().rows


GOLDEN_SEEDS = (1804734125, 999727819, 953568361)


@pytest.mark.parametrize(
    "shape",
    [{}, {"norm": "post", "bias": False}, {"n_layer": 3, "n_head": 2, "d_head": 5, "d_ff": 7, "unembed_bias": True}],
    ids=str,
)
def test_parameters_are_those_of_the_model(shape: dict[str, object]) -> None:
    recipe = submitted(model=shape).recipe(TRACKS["laptop"].suite[0], 0)
    task = recipe.load_task()
    model = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    assert board.parameters_of(recipe) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_within_their_budget(path: Path) -> None:
    assert read_recipe(path).track == "laptop"


def test_the_shipped_recipes_are_distinct() -> None:
    recipes = [read_recipe(path) for path in RECIPES]
    assert len(recipes) >= 10
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    assert len({recipe.seeds(TRACKS["laptop"].suite[0]) for recipe in recipes}) == len(recipes)


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
        held_out = any(group.role == "held_out" for group in task.groups)
        assert held_out == (suite.unseen == "ood")
        assert suite.unseen in task.splits


# --- Statistics


def test_the_statistics_of_an_entry_worked_by_hand() -> None:
    entry = hostile.honest_entry(inferential=5)
    statistics = entry.statistics
    assert statistics.inferential.value == 5 / 8
    # Six tasks of the same counts: nothing is gained over 48 members of one task.
    assert (statistics.inferential.low, statistics.inferential.high) == pytest.approx(Share(30, 48).interval)
    assert [task.verdicts for task in statistics.tasks] == [(5, 0, 2, 1)] * 6
    assert statistics.underfit == 6 / 48
    assert statistics.member_steps == 48 * 600
    assert statistics.member_steps_to_verdict == 6 * sum(1 + 600 // (i + 2) for i in range(8))
    assert statistics.seconds == pytest.approx(6 * (8 * 2.5 + 28 / 8))
    assert statistics.tasks[0].seen.value == pytest.approx(7.5 / 8)
    assert statistics.tasks[0].held_out.value == pytest.approx((5 + 3 * 0.1) / 8)


def test_flops_are_two_a_multiplication() -> None:
    entry = hostile.honest_entry()
    by_hand = 0
    for task in entry.suite:
        loaded = load_task(task.task, task.variant, **task.config)
        seq, vocab, d, ff = loaded.seq_len, loaded.vocab_size, 64, 256
        first = 4 * seq * d * d + 2 * seq * d * ff + 2 * seq * seq * d
        last = 2 * seq * d * d + 2 * d * d + 2 * d * ff + 2 * seq * d
        by_hand += 8 * 600 * 128 * 6 * (first + last + d * vocab)
    # products_per_step counts the scores of a layer by answered positions and all keys, as `first` and `last` do
    assert entry.statistics.flops == pytest.approx(by_hand, rel=1e-12)


def test_no_interval_has_no_width() -> None:
    """Where all 48 members agree, the interval is that of 48 of 48."""
    for count in (0, 8):
        interval = hostile.honest_entry(inferential=count).statistics.inferential
        assert (interval.low, interval.high) == pytest.approx(Share(6 * count, 48).interval, abs=1e-12)
    held_out = hostile.honest_entry(inferential=8).statistics.tasks[0].held_out  # all of 1000 answers of each of 8 members
    assert (held_out.value, held_out.low, held_out.high) == pytest.approx((1, *Share(8000, 8000).interval))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0]), min_size=5, max_size=7))
def test_the_interval_of_the_suites_share_covers(shares: list[float]) -> None:
    """For suites whose members are drawn with known shares, at least 92% of the intervals cover the true mean (nominal: 95%)."""
    drawn = np.random.default_rng(0).binomial(SEEDS, shares, size=(500, len(shares)))
    found = [share_of_suite(counts, SEEDS) for counts in drawn.tolist()]
    truth = np.mean(shares)
    assert np.mean([each.low - 1e-12 <= truth <= each.high + 1e-12 for each in found]) > 0.92


def test_tasks_that_differ_narrow_the_interval() -> None:
    """Three tasks always, three never inferential: the members are far from 48 draws with p = 1/2."""
    split, even = share_of_suite([8, 8, 8, 0, 0, 0], 8), share_of_suite([4] * 6, 8)
    assert split.value == even.value == 0.5
    assert split.high - split.low < 0.6 * (even.high - even.low)
    assert (even.low, even.high) == pytest.approx(Share(24, 48).interval)


def test_the_interval_of_a_mean_of_tasks_worked_by_hand() -> None:
    tasks = [Interval(value=0.5, low=0.2, high=0.6), Interval(value=0.7, low=0.3, high=0.7)]
    mean = mean_of_tasks(tasks)
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.6, 0.6 - 0.25, 0.65))  # sqrt(0.3^2 + 0.4^2) / 2 and 0.1 / 2


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3))
def test_the_permutation_test_counts_all_exchanges(counts: list[tuple[int, int]]) -> None:
    """Against every way to hand out 6 members of each task to two entries of 3."""
    a, b = [x for x, _ in counts], [y for _, y in counts]
    sums = [[sum(chosen) for chosen in itertools.combinations([1] * (x + y) + [0] * (6 - x - y), 3)] for x, y in counts]
    every = [sum(each) for each in itertools.product(*sums)]
    assert permutation_p(a, b, 3) == pytest.approx(np.mean(np.array(every) >= sum(a)))


def test_of_one_task_the_permutation_test_is_scipys() -> None:
    ours, theirs = [1] * 7 + [0], [1] * 3 + [0] * 5
    scipys = stats.permutation_test((ours, theirs), lambda x, y: np.mean(x) - np.mean(y), alternative="greater", n_resamples=20_000)
    assert permutation_p([7], [3], 8) == pytest.approx(scipys.pvalue)


def test_better_than() -> None:
    good, same, bad = (hostile.honest_entry(name, inferential=count) for name, count in (("G", 7), ("S", 6), ("B", 1)))
    assert better_than(good, bad) < BETTER < better_than(good, same)
    assert better_than(bad, good) > 0.99
    assert better_than(good, good) > 0.5
    with pytest.raises(ValueError, match="tracks laptop and gpu"):
        better_than(good, hostile.honest_entry(track="gpu"))


def test_entries_whose_intervals_overlap_share_a_rank() -> None:
    entries = [hostile.honest_entry(str(count), inferential=count) for count in (0, 1, 4, 7, 8)]
    ranked = [(rank, entry.recipe.name) for rank, entry in ranking(entries)]
    assert ranked == [(1, "8"), (1, "7"), (3, "4"), (4, "1"), (4, "0")]
    for rank, entry in ranking(entries):
        higher = [e for e in entries if e.statistics.inferential.low > entry.statistics.inferential.high]
        assert rank == 1 + len(higher)


def test_a_wide_interval_may_share_a_rank_that_a_narrow_one_above_it_does_not() -> None:
    """Overlap is not transitive; ranks still stand in order."""
    entries: list[Entry] = []
    for name, value, low, high in (("sure", 0.6, 0.55, 0.65), ("wide", 0.5, 0.3, 0.72), ("best", 0.8, 0.7, 0.9)):
        entry = hostile.honest_entry(name)
        share = entry.statistics.inferential.model_copy(update={"value": value, "low": low, "high": high})
        entries.append(entry.model_copy(update={"statistics": entry.statistics.model_copy(update={"inferential": share})}))
    assert [(rank, entry.recipe.name) for rank, entry in ranking(entries)] == [(1, "best"), (1, "wide"), (2, "sure")]


# --- Entries


def require_sentence(said: str, reason: str) -> None:
    assert reason in said
    assert "\n" not in said
    assert said.isprintable()
    assert len(said) <= MAX_SENTENCE + 3


@pytest.mark.parametrize("count", [0, 5, 8])
def test_an_honest_entry_is_read_back(count: int) -> None:
    entry = hostile.honest_entry(inferential=count)
    assert validate_entry(entry.to_json()) == entry
    assert validate_entry(hostile.sealed(json.loads(entry.to_json()))) == entry  # white space is not content


def test_an_honest_entry_of_the_gpu_track_is_read_back() -> None:
    entry = hostile.honest_entry(track="gpu")
    assert validate_entry(entry.to_json()) == entry
    assert len(entry.rows) == 7 * SEEDS


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
    assert board.name_key(same) == board.name_key("gamma 0.8")
    assert board.name_key("gamma 0.7") != board.name_key("gamma 0.8")


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
        assert {key: said[key] for key in ("rows", "statistics")} == {key: content[key] for key in ("rows", "statistics")}


def test_an_entry_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        hostile.honest_entry().git = "0" * 40


@pytest.mark.parametrize("suite", TRACKS["gpu"].suite, ids=lambda suite: suite.name)
@pytest.mark.parametrize("data_size", [300, 5000])
def test_the_answers_that_are_counted_are_those_of_the_evaluation_set(suite: board.SuiteTask, data_size: int) -> None:
    """The oracle draws the whole set, answers everything right, and counts."""
    recipe = submitted(data_size=data_size).recipe(suite, 3)
    task = recipe.load_task()
    seed = stream_seed(recipe.seed, "evaluation")
    evaluated = EvalSet.of(task, 1000, seed, train=task.sample("train", data_size, 3)[:1000])
    assert evaluated.fresh is not None
    right = [part.label for part in (*evaluated.examples.values(), evaluated.fresh)]
    swapped = [] if evaluated.mirrored is None else [np.zeros(len(evaluated.mirrored), int)]
    behaviour = evaluated.behaviour(np.concatenate([*right, *swapped]))
    counts = asked(task, recipe)
    for field in ("accuracy_train", "accuracy_iid", "composes", "ordered", "symmetric"):
        share = getattr(behaviour, field)
        assert counts[field] == (share.n if share else 0), field


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
        elif isinstance(value, dict):
            assert set(value) == set(form["properties"])
            for key, inner in value.items():
                follow(form["properties"][key], inner)
        elif isinstance(value, list) and "items" in form:
            for inner in value:
                follow(form["items"], inner)

    follow(content, json.loads(hostile.honest_entry().to_json()))


def test_export_is_read_back_by_the_hubs_own_types(tmp_path: Path) -> None:
    entry = hostile.honest_entry(inferential=5)
    evaluation, result = export_entry(entry, "someone/anchorbench", tmp_path)
    assert result.relative_to(tmp_path) == Path(".eval_results/anchorbench.yaml")
    read = parse_eval_result_entries(yaml.safe_load(result.read_text()))
    benchmark = yaml.safe_load(evaluation.read_text())
    assert [each.task_id for each in read] == [task["id"] for task in benchmark["tasks"]]
    assert {each.value for each in read} == {0.625}
    assert {each.dataset_id for each in read} == {"someone/anchorbench"}
    assert read[0].notes is not None
    assert read[0].notes.startswith("5 of 8 runs inferential, 95% interval 0.306 to 0.863; recipe ")
    for task in benchmark["tasks"]:
        assert find_tasks(task["config"])[0].splits.count(task["split"]) == 1  # as `data build` names them
