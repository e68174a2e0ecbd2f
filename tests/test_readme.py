"""The README's Python is run as it stands, its commands exist, and its figures follow from the files that it names."""

import functools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, TINY
from scipy.stats import kruskal
from zoo import UNREAD, ZOO

from anchorbench.cli import main as cli
from anchorbench.cli.plan import load_sweep
from anchorbench.inspect.forecast import load_widths
from anchorbench.inspect.validation import CRADLE, WITHOUT_RULE, grade
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import Entry, Row
from anchorbench.leaderboard.schema import GAIN, POWER, TRIES
from anchorbench.leaderboard.statistics import FAMILY, Statistics, Strata, better, exchange_p, statistics_of, strata_of
from anchorbench.leaderboard.submission import SubmittedRecipe, training_digest
from anchorbench.leaderboard.suite import LAPTOP_SUITE, SuiteTask
from anchorbench.leaderboard.verify import COMPARED, LIE, power_of_test, row_power
from anchorbench.presets import PRESETS
from anchorbench.tasks.composite import CONTROL_PAIRS
from anchorbench.verdict import FEW, MOST, Share

README = (ROOT / "README.md").read_text()
BOARD = (ROOT / "docs" / "first-board.md").read_text()


def test_the_example_runs_and_says_what_the_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, but that the preset is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})  # noqa: S102 - our own text
    plt.close()
    first, foils, *table, verdict = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"(\S+ ){9}-> \d+", first)
    assert foils.startswith("{'inferential': ")
    assert [line.split()[0] for line in table[1:3]] == ["0.5", "0.7"]
    assert verdict.startswith("underfit Share(hits=")
    assert len(list((tmp_path / "anchorbench-out/composite-conflict-laptop/runs").iterdir())) == 8


def test_it_fits_on_a_few_screens_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 150
    for folder, page in ((ROOT, README), (ROOT / "docs", BOARD)):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page):
            assert (folder / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"`anchorbench ([a-z]+)", README))
def test_every_command_that_it_names_exists(command: str) -> None:
    names = {info.name or info.callback.__name__ for info in cli.app.registered_commands if info.callback}
    assert command in names | {group.name for group in cli.app.registered_groups}


# --- Figures of the board and of the mechanistic verdict, recomputed from the files that they come from


@functools.cache
def entries() -> dict[str, Entry]:
    paths = sorted((ROOT / "leaderboard" / "entries").glob("*.json"))
    return {path.stem: validate_entry(path.read_bytes()) for path in paths}


NINE, CONFLICT, PERMUTATIONS, MEMORY, CHAIN = (
    next(task for task in LAPTOP_SUITE if task.name.startswith(name))
    for name in ("nine-anchors", "composite/conflict-control", "random-permutations", "memory-reasoning", "chain-search")
)


def words(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())


@functools.cache
def statistics(name: str) -> Statistics:
    return statistics_of(entries()[name].recipe, entries()[name].rows)


def strata(name: str, rows: Sequence[Row] | None = None) -> dict[tuple[str, str], list[float]]:
    return strata_of(LAPTOP_SUITE, entries()[name].rows if rows is None else rows)


def two_sided(a: Strata, b: Strata) -> float:
    return min(1.0, 2 * min(exchange_p(a, b)))


def rows_of(task: SuiteTask) -> list[Row]:
    return [row for entry in entries().values() for row in entry.rows_of(task)]


def says(*texts: str, page: str = BOARD) -> None:
    for text in texts:
        assert text in words(page), text


def test_what_the_ledger_says() -> None:
    verdicts = Counter(json.loads(path.read_text())["verdict"] for path in (ROOT / "docs" / "ledger").glob("*.laptop.json"))
    replicates, fails, unknown = (verdicts[name] for name in ("replicates", "does not replicate", "cannot be told at this scale"))
    says(f"tests {verdicts.total()} published claims", page=README)
    says(f"{replicates} replicate, {fails} do not, and {unknown} cannot be told at laptop scale", page=README)


def test_how_many_architectures_are_read() -> None:
    says(f"of {len(ZOO)} tiny architectures in the tests, all can be classified", page=README)
    says(f"and {len(ZOO) - len(UNREAD)} can be probed", page=README)


def test_the_table_is_that_of_the_entries() -> None:
    """That it is rendered from them is tested with the command."""
    table = (ROOT / "leaderboard" / "table.md").read_text()
    assert all(entry.digest in (ROOT / "leaderboard" / "index.html").read_text() for entry in entries().values())
    assert table.count("| unregistered") == len(entries())
    says("Not one of these entries is registered")
    for name, count in re.findall(r"\| \d+ \| ([^|]+) \|.*unregistered, (\d+) runs? flagged", table):
        says(f"{count} of {name}".replace("\\", ""))


def test_the_scores_of_the_board() -> None:
    half, six = (statistics(name).score for name in ("gamma-0.5", "gamma-0.6"))
    high = [f"gamma-{gamma}" for gamma in ("0.7", "0.8", "0.9", "1.0")]
    of_high = "{}, {}, {} and {}".format(*(f"{statistics(name).score.value:.0%}" for name in high))
    says(f"{len(entries())} recipes, {len(entries()['gamma-0.5'].rows)} runs each")
    says(f"ranks {len(entries())} recipes by the share of held-out answers that compose", page=README)
    for page in (BOARD, README):
        says(f"Gamma 0.5 scores {half.value:.0%} (95% interval {half.low:.0%} to {half.high:.0%})", of_high, page=page)
        says(f"gamma 0.6 {six.value:.0%} ({six.low:.0%} to {six.high:.0%})", page=page)
    names = list(entries())
    found = better([statistics(name).score.value for name in names], [strata(name) for name in names])
    pairs = {(names[first], names[second]) for first, second in found}
    assert {("gamma-0.6", "gamma-0.5"), *((name, "gamma-0.5") for name in high)} <= pairs
    assert not any((a, b) in pairs for a in high for b in high)
    assert not any((name, "gamma-0.6") in pairs for name in high)
    says(f"{len(found)} of the {len(names) * (len(names) - 1) // 2} comparisons")
    decay = statistics("weight-decay-high")
    says(f"({decay.score.value:.0%} against {half.value:.0%}, both at gamma 0.5;")
    says(f"p = {two_sided(strata('weight-decay-high'), strata('gamma-0.5')):.3f} before correction)")
    assert ("weight-decay-high", "gamma-0.5") not in pairs
    share = [statistics(name).inferential.value for name in ("weight-decay-high", "gamma-0.5")]
    says("inferential runs are {:.0%} against {:.0%}".format(*share))


def test_what_the_accuracy_gate_does() -> None:
    """The score does not ask whether a run fits; the share of inferential runs does."""
    half = entries()["gamma-0.5"]
    says(f"{statistics('gamma-0.5').underfit.hits} of the {len(half.rows)} runs")
    assert {row.task for row in half.rows if row.verdict == "underfit"} == {MEMORY.task}


def test_what_the_tasks_of_the_board_measure() -> None:
    of_three = [row for task in (NINE, MEMORY, CHAIN) for row in rows_of(task)]
    assert not any(row.verdict == "memorizing" for row in of_three)
    says(f"none of {len(of_three)} runs memorizes")
    assert {row.verdict for row in rows_of(MEMORY)} == {"underfit"}
    composing = [row.accuracy_train.value for row in rows_of(MEMORY) if row.composes and row.composes.above(MOST)]
    says(f"the {len(composing)} of its {len(rows_of(MEMORY))} runs that compose have training accuracy {min(composing):.2f} to")
    says(f"{max(composing):.2f}", f"memory-reasoning: {len(rows_of(MEMORY))} of")
    assert {row.steps for row in rows_of(PERMUTATIONS)} == {2500}
    assert not any(row.verdict == "inferential" for row in rows_of(PERMUTATIONS))
    says(f"None of its {len(rows_of(PERMUTATIONS))} runs infers it within 2,500 steps")


def test_that_pairs_decide_conflict_control() -> None:
    def pair(row: Row) -> tuple[int, int]:
        return CONTROL_PAIRS[row.seed % len(CONTROL_PAIRS)]

    easy = ((1, 2), (2, 3))
    fit = [row for row in rows_of(CONFLICT) if row.verdict != "underfit"]
    of_pair = [[row.composes.value for row in fit if row.composes and pair(row) == each] for each in CONTROL_PAIRS]
    means = {each: float(np.mean(shares)) for each, shares in zip(CONTROL_PAIRS, of_pair, strict=True)}
    assert (max(means, key=means.__getitem__), min(means, key=means.__getitem__)) == ((1, 2), (2, 4))
    says(f"compose (1,2) in {means[1, 2]:.0%} and (2,4) in {means[2, 4]:.0%} of answers")
    says(f"({len(fit)} runs; Kruskal-Wallis p = {kruskal(*of_pair).pvalue:.4f})")
    inferring = [pair(row) for row in fit if row.verdict == "inferential"]
    says(f"{sum(each in easy for each in inferring)} of the {len(inferring)} inferential runs were tested on (1,2) or (2,3)")
    of_gpt2, of_pami = (
        sum(pair(row) in easy for row in entries()[name].rows_of(CONFLICT)) for name in ("gpt2-default", "pami-scaled")
    )
    says(f"GPT-2 default {of_gpt2} of 8 times on (1,2) or (2,3), PAMI scaled down never")
    assert of_pami == 0

    symmetric = [row for row in fit if row.symmetric and row.symmetric.above(MOST)]
    verdicts = Counter(row.verdict for row in symmetric)
    says(f"{len(symmetric)} runs that fit `conflict-control` and answer (4,3) symmetrically", page=README)
    says(f"{verdicts['inferential']} compose an ordinary held-out pair and {verdicts['memorizing']} memorize", page=README)


def test_random_permutations_at_the_papers_own_setting() -> None:
    results = json.loads((ROOT / "docs" / "random-permutations.json").read_text())
    assert [run["verdict"] for run in results["runs"]] == ["inferential", "inferential"]
    assert all(Share(*run["composes"]).above(MOST) for run in results["runs"])
    sweep = load_sweep(ROOT / "recipes" / "random-permutations.yaml", [])
    assert [(run["seed"], run["steps"]) for run in results["runs"]] == [(r.seed, r.steps) for r in sweep.runs()]
    first, second = (Share(*run["composes"]).value for run in results["runs"])
    says(f"({sweep.base.steps:,} steps and unscaled weight decay,", f"in {first:.1%} and {second:.1%} of held-out answers")


def test_the_validation_of_the_forecast() -> None:
    found = json.loads((ROOT / "docs" / "validation.json").read_text())
    columns = [found[name] for name in ("all", "pre", "post")]

    def figures(name: str) -> str:
        return " | ".join(f"{each[name]['value']:.2f} ({each[name]['low']:.2f} to {each[name]['high']:.2f})" for each in columns)

    models = " | ".join(f"{each['fitted']} ({each['abstained']})" for each in columns)
    says(f"| models (of these, the forecast abstains for) | {models} |", page=README)
    says(f"| 90% interval covers the composed share | {figures('coverage')} |", page=README)
    says(f"| mean absolute error | {figures('error')} |", page=README)
    says(f"| skill over the mean of the recipe's other seeds | {figures('skill')} |", page=README)
    says(f"| rank correlation within a recipe | {figures('rank_within')} |", page=README)
    controls = found["without_rule"].values()
    assert all(each["fooled"]["value"] == 0 for each in controls)
    n, largest = sum(each["fooled"]["n"] for each in controls), max(each["largest"] for each in controls)
    says(f"Of {n} fitted models of tasks without a rule to infer none is forecast above {largest:.2f}", page=README)
    asked = {name: each for name, each in found["holdouts"].items() if name not in WITHOUT_RULE}
    unskilled = [name for name, each in asked.items() if each["fitted"] and (each.get("skill") or {"value": 0})["value"] < 0]
    assert sorted(unskilled) == ["anchors-first", "nine-anchors", "ten-anchors"]
    assert (found["holdouts"]["neox"]["fitted"], found["holdouts"]["neox"]["abstained"]) == (2, 1)
    covered = {name: each["coverage"]["value"] for name, each in found["holdouts"].items() if each["fitted"] > 9}
    assert sorted(covered, key=covered.__getitem__)[:2] == ["width-128", "post"]
    post = found["holdouts"]["post"]
    says(
        f"at width 128 (coverage {covered['width-128']:.2f}) and for post-LN without weight decay"
        f" (coverage {covered['post']:.2f}, error {post['error']['value']:.2f}), which it underrates",
        page=README,
    )
    rows = [row for row in found["rows"] if row["fits"] and row["holdout"] not in (*CRADLE, *WITHOUT_RULE)]
    assert np.mean([row["composed"] > row["forecast"] for row in rows if row["holdout"] == "post"]) > 0.7
    named = [row for row in rows if row["name"] != "cannot be told"]
    truth = ["inferential" if row["composed"] > MOST else "memorizing" if row["composed"] < FEW else "mixed" for row in named]
    right = sum(row["name"] == true for row, true in zip(named, truth, strict=True))
    says(f"of the {len(rows)} models, {len(named)} get a name, and {right} of these names are right", page=README)
    says(f"on {found['widths']['runs']} runs of one kind", page=README)
    assert found["widths"] == load_widths().model_dump(mode="json")
    assert grade([row | {"recipe": row["run"]} for row in found["rows"] if row["holdout"] == "relu"])["error"]["value"] == (
        pytest.approx(found["holdouts"]["relu"]["error"]["value"])
    )


def test_what_verify_can_exclude_is_what_it_is_said_to() -> None:
    """As leaderboard/README.md states it, for the entries in which a lie is hardest and easiest to find. 200 simulations each."""
    said = (ROOT / "leaderboard" / "README.md").read_text()
    assert row_power([COMPARED] * 6, LIE) > 0.9
    assert f"one of them is found in {row_power([COMPARED] * 6, LIE):.0%}" in words(said)
    for kind, fresh in (("fresh", True), ("flip", False)):
        low, high = (int(part.rstrip("%")) / 100 for part in POWER[kind].split(" to "))
        found = [
            power_of_test(entries()[name], [8] * 6, LIE, fresh=fresh) for name in ("post-ln-gamma-0.5", "gamma-0.9", "lr-small")
        ]
        assert low <= round(min(found), 2)
        assert max(found) <= high
        assert np.median(found) >= 0.8


def drawn(name: str, rng: np.random.Generator) -> dict[tuple[str, str], list[float]]:
    """Another draw of seeds for an entry's training: each run is one of those with its task and pair."""
    return {key: rng.choice(shares, len(shares)).tolist() for key, shares in strata(name).items()}


def score(shares: Strata) -> float:
    of_task: dict[str, list[float]] = {}
    for (task, _), values in shares.items():
        of_task.setdefault(task, []).append(float(np.mean(values)))
    return float(np.mean([np.mean(values) for values in of_task.values()]))


def test_what_fishing_gains() -> None:
    """100 draws of one training against an honest one: what the best gains in points, and how often it is called better."""
    said = words((ROOT / "leaderboard" / "README.md").read_text())
    rng = np.random.default_rng(0)
    for name, points in (("gamma-0.8", GAIN["low"]), ("gamma-0.6", GAIN["high"])):
        gains, before, now = [], 0, 0
        for _ in range(60):
            best = max((drawn(name, rng) for _ in range(TRIES)), key=score)
            gains.append(score(best) - score(strata(name)))
            p = exchange_p(best, drawn(name, rng), 40)[0]
            before += p < 0.01
            now += 2 * p <= FAMILY / ((TRIES + 1) * TRIES / 2)  # all of them are registrations, hence comparisons
        assert abs(100 * np.mean(gains) - points) < 0.3
        assert 0.05 < before / 60 < 0.4
        assert now / 60 <= 0.02
        assert f"{points}" in said


def test_edits_without_effect_are_one_draw() -> None:
    """Of 100 edits that redrew all seeds, none gives another registration."""
    recipe = entries()["gamma-0.6"].recipe
    edits = [{"optimizer": {"lr": 1e-3 * (1 + 1e-9 * k), "weight_decay": 0}} for k in range(1, 31)]
    edits += [{"optimizer": {"weight_decay": 0, "decay_until": 2500 + k}} for k in range(1, 31)]
    edits += [{"optimizer": {"weight_decay": 0, "decay_from": k}} for k in range(1, 31)]
    edits += [{"init": {"gamma": 0.6, part: 0.6 + 1e-6 * k}} for part in ("qk", "vo", "mlp", "embedding") for k in range(2)]
    edits += [{"optimizer": {"weight_decay": 0, "decay": kind, "decay_embeddings": False}} for kind in ("coupled", "unscaled")]
    assert len(edits) == TRIES
    tries = [SubmittedRecipe.model_validate({"name": "A", "description": "B", **recipe.training, **edit}) for edit in edits]
    task = LAPTOP_SUITE[0]
    assert len({each.unregistered_seeds(task) for each in tries}) > 95
    assert {training_digest(each) for each in tries} == {training_digest(recipe)}
