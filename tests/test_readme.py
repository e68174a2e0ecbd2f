"""The README's Python is run as it stands, its commands exist, and its figures follow from the files that it names."""

import functools
import json
import re
from collections import Counter
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
from anchorbench.inspect.validation import grade
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import LAPTOP_SUITE, SEEDS, Entry, Row, SuiteTask, seen_and_held_out
from anchorbench.leaderboard.page import markdown_table
from anchorbench.leaderboard.statistics import BETTER, better_than, permutation_p, share_of_suite
from anchorbench.leaderboard.submit import Verification
from anchorbench.leaderboard.submit import _drawn as drawn
from anchorbench.presets import PRESETS
from anchorbench.tasks.composite import CONTROL_PAIRS
from anchorbench.verdict import FIT, MOST, Share

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


def inferential(entry: Entry, gate: float = FIT) -> list[int]:
    """Inferential runs by task, if a run fits from accuracy `gate` on."""
    counts = []
    for task in entry.suite:
        shares = [seen_and_held_out(task, row) for row in entry.rows_of(task)]
        counts.append(sum(seen.value >= gate and held_out.above(MOST) for seen, held_out in shares))
    return counts


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
    assert (ROOT / "leaderboard" / "table.md").read_text() == markdown_table(list(entries().values()))
    assert all(entry.digest in (ROOT / "leaderboard" / "index.html").read_text() for entry in entries().values())


def test_the_scores_of_the_board() -> None:
    half, six = (entries()[name].statistics.inferential for name in ("gamma-0.5", "gamma-0.6"))
    high = [entries()[f"gamma-{gamma}"] for gamma in ("0.7", "0.8", "0.9", "1.0")]
    of_high = "{}, {}, {} and {}".format(*(f"{entry.statistics.inferential.value:.0%}" for entry in high))
    says(f"{len(entries())} recipes, {len(entries()['gamma-0.5'].rows)} runs each")
    says(f"ranks {len(entries())} recipes by the share of {len(entries()['gamma-0.5'].rows)} runs", page=README)
    for page in (BOARD, README):
        says(f"Gamma 0.5 scores {half.value:.0%} (95% interval {half.low:.0%} to {half.high:.0%})", of_high, page=page)
        says(f"gamma 0.6 {six.value:.0%} ({six.low:.0%} to {six.high:.0%}; p < 0.01)", page=page)
    assert better_than(entries()["gamma-0.6"], entries()["gamma-0.5"]) < BETTER
    assert min(better_than(a, b) for a in high for b in high) > BETTER


def test_what_the_accuracy_gate_does() -> None:
    half, post, decay = (entries()[name] for name in ("gamma-0.5", "post-ln-gamma-0.5", "weight-decay-high"))
    assert inferential(half) == [task.verdicts[0] for task in half.statistics.tasks]
    says(f"{sum(row.verdict == 'underfit' for row in half.rows)} of the {len(half.rows)} runs")
    assert {row.task for row in half.rows if row.verdict == "underfit"} == {MEMORY.task}
    nine = [
        (row.accuracy_iid.value, row.composes.value) for row in half.rows_of(NINE) if row.verdict == "inferential" and row.composes
    ]
    below = [composes for iid, composes in nine if iid < FIT]
    assert len(nine) == 8
    assert len(below) == 7
    says(f"answer held-out pairs correctly in {min(below):.1%} to {max(below):.1%}")
    moved = [sum(inferential(entry, gate)) - sum(inferential(entry)) for entry in entries().values() for gate in (0.85, 0.8)]
    unmoved = [entry for entry in entries().values() if inferential(entry, 0.8) == inferential(entry)]
    assert [entry.recipe.name for entry in entries().values() if entry not in unmoved] == [post.recipe.name]
    says(f"post-LN at gamma 0.5, which gains {100 * max(moved) / 48:.0f} points")
    p = {gate: permutation_p(inferential(decay, gate), inferential(half, gate), SEEDS) for gate in (0.9, 0.0)}
    scores = f"({decay.statistics.inferential.value:.0%} against {half.statistics.inferential.value:.0%}, both at gamma 0.5;"
    says(f"{scores} p = {p[0.9]:.3f})")
    says(f"nothing would be shown (p = {p[0.0]:.2f})")


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
    laptop = found["holdouts"]["laptop"]["skill"]
    says(f"({laptop['value']:.2f}, {laptop['low']:.2f} to {laptop['high']:.2f})", page=README)
    assert laptop["low"] < 0
    assert all(found["holdouts"][name]["skill"]["value"] < 0 for name in ("nine-anchors", "ten-anchors"))
    assert found["holdouts"]["neox"] == {"fitted": 2, "abstained": 2}
    covered = {name: each["coverage"]["value"] for name, each in found["holdouts"].items() if each["fitted"] > 9}
    assert sorted(covered, key=covered.__getitem__)[:2] == ["relu", "constant"]
    says(f"on {found['widths']['runs']} runs of one kind", page=README)
    assert found["widths"] == load_widths().model_dump(mode="json")
    assert grade([row | {"recipe": row["run"]} for row in found["rows"] if row["holdout"] == "relu"])["error"]["value"] == (
        pytest.approx(found["holdouts"]["relu"]["error"]["value"])
    )


@pytest.mark.parametrize(("members", "stated"), [(3, 0.35), (6, 1.0)])
def test_how_often_verify_refuses_an_entry_that_claims_100_percent_where_the_truth_is_58(members: int, stated: float) -> None:
    """As leaderboard/README.md states it. Nothing is trained: the entry's rows are the truth."""
    truth = entries()["gamma-0.8"]
    assert f"{truth.statistics.inferential.value:.0%}" == "58%"
    claim, draws, refused = share_of_suite([SEEDS] * len(truth.suite), SEEDS), 200, 0
    for seed in range(draws):
        rows = tuple(drawn(truth, members, seed))
        claimed = tuple(row.model_copy(update={"verdict": "inferential"}) for row in rows)
        refused += not Verification(claim, claimed, rows).stands
    assert abs(refused / draws - stated) <= 3 * (stated * (1 - stated) / draws) ** 0.5
    said = (ROOT / "leaderboard" / "README.md").read_text()
    assert (f"in {stated:.0%}" if stated < 1 else f"always with {members} or more") in said
