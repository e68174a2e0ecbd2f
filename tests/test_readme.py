"""The README's Python is run as it stands, its commands exist, and its figures follow from the files that it names."""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, TINY
from hostile import RUNS
from zoo import UNREAD, ZOO

from anchorbench.cli import main as cli
from anchorbench.cli.plan import load_sweep
from anchorbench.inspect.forecast import load_widths
from anchorbench.inspect.validation import CRADLE, WITHOUT_RULE, grade
from anchorbench.leaderboard.board import read_board
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.drawn import DRAWN
from anchorbench.leaderboard.entry import Entry, Row
from anchorbench.leaderboard.schema import GAIN, POWER, TRIES
from anchorbench.leaderboard.statistics import FAMILY, Statistics, Strata, better, exchange_p, statistics_of, strata_of
from anchorbench.leaderboard.study import read_study
from anchorbench.leaderboard.submission import SubmittedRecipe, training_digest
from anchorbench.leaderboard.suite import LAPTOP_SUITE, SEEDS
from anchorbench.leaderboard.verify import COMPARED, FRESH, LIE, power_of_test, row_power
from anchorbench.presets import PRESETS
from anchorbench.verdict import FEW, MOST, Share

README = (ROOT / "README.md").read_text()
BOARD = (ROOT / "docs" / "board.md").read_text()


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


def words(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())


@functools.cache
def statistics(name: str) -> Statistics:
    entry = entries()[name]
    return statistics_of(entry.recipe, entry.rows, entry.drawn)


def strata(name: str, rows: Sequence[Row] | None = None) -> dict[tuple[str, str], list[float]]:
    return strata_of(entries()[name].rows if rows is None else rows)


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


def test_the_page_is_that_of_the_entries() -> None:
    """That it is rendered from them is tested with the command."""
    assert all(entry.digest in (ROOT / "leaderboard" / "index.html").read_text() for entry in entries().values())


def test_the_scores_of_the_board() -> None:
    """Each sentence of docs/board.md about scores, and the README's, from the entries."""
    board = read_board(ROOT / "leaderboard")
    lines, withheld = board.tracks["laptop"], len(board.withheld["laptop"])
    names = list(entries())
    says(f"{len(lines)} recipes, {RUNS} runs each and {DRAWN} on drawn tasks")
    says(f"ranks {len(lines)} recipes so far", page=README)
    gammas = [name for name in names if name.startswith("gamma-")]
    scores = {name.removeprefix("gamma-"): statistics(name).score for name in gammas}
    for gamma, score in scores.items():
        says(f"gamma {gamma} {score.value:.0%} ({score.low:.0%} to {score.high:.0%})")
        if gamma in ("0.5", "0.8"):
            says(f"gamma {gamma} scores {score.value:.0%} (95% interval {score.low:.0%} to {score.high:.0%})", page=README)
    best = max(gammas, key=lambda name: statistics(name).score.value)
    of_task = {task.task.name: task.composed.value for task in statistics(best).tasks}
    high, low = max(of_task, key=of_task.__getitem__), min(of_task, key=of_task.__getitem__)
    says(f"{entries()[best].recipe.name} composes {of_task[high]:.0%} of held-out answers on {high}")
    says(f"and {of_task[low]:.0%} on {low}")
    found = better([statistics(name).score.value for name in names], [strata(name) for name in names], withheld)
    says(f"{len(found)} of {math.comb(len(names), 2)} comparisons hold")
    better_names = {(names[first], names[second]) for first, second in found}
    assert {(line.name, other.name) for line in lines for other in line.better} == {
        (entries()[a].recipe.name, entries()[b].recipe.name) for a, b in better_names
    }
    for first, second in better_names:
        says(f"{entries()[first].recipe.name} than {entries()[second].recipe.name}")


def test_what_drawn_tasks_say() -> None:
    gaps = [statistics(name).gap for name in entries()]
    values = [100 * gap.value for gap in gaps if gap is not None]
    says(f"by {np.mean(values):.0f} points on average ({min(values):.0f} to {max(values):.0f} by entry)")
    assert all(gap is not None and gap.low < 0 < gap.high for gap in gaps)
    says("the interval of every entry's own gap includes 0")


def test_where_runs_do_not_fit() -> None:
    of_task = {task.name: [row for entry in entries().values() for row in entry.rows_of(task)] for task in LAPTOP_SUITE}
    for name, rows in of_task.items():
        underfit = sum(row.verdict == "underfit" for row in rows)
        if underfit:
            says(f"{underfit} of {len(rows)} runs on {name}")


def test_what_a_symmetric_answer_says_about_composing() -> None:
    found = read_study(ROOT / "docs" / "suite-study.json").members["composite/conflict-control"]
    verdicts = Counter(member.verdict for member in found if member.exception == "symmetric")
    says(
        f"of {verdicts.total()} runs of [a study](docs/suite.md) that fit `conflict-control` and answer (4,3) symmetrically",
        page=README,
    )
    says(f"{verdicts['inferential']} compose an ordinary held-out pair and {verdicts['memorizing']} memorize", page=README)


def test_random_permutations_at_the_papers_own_setting() -> None:
    results = json.loads((ROOT / "docs" / "random-permutations.json").read_text())
    assert [run["verdict"] for run in results["runs"]] == ["inferential", "inferential"]
    assert all(Share(*run["composes"]).above(MOST) for run in results["runs"])
    sweep = load_sweep(ROOT / "recipes" / "random-permutations.yaml", [])
    assert [(run["seed"], run["steps"]) for run in results["runs"]] == [(r.seed, r.steps) for r in sweep.runs()]


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
    tasks = len(LAPTOP_SUITE)
    assert row_power([COMPARED] * tasks, LIE) > 0.9
    assert f"one of them is found in {row_power([COMPARED] * tasks, LIE):.0%}" in words(said)
    for kind, of_task, fresh in (("fresh", FRESH * SEEDS, True), ("flip", SEEDS, False)):
        low, high = (int(part.rstrip("%")) / 100 for part in POWER[kind].split(" to "))
        found = [power_of_test(entries()[name], [of_task] * tasks, LIE, fresh=fresh) for name in entries()]
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
    for name, points in (("gamma-0.5", GAIN["low"]), ("gamma-0.8", GAIN["high"])):
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
    """None of 100 edits that redrew all seeds gives another registration."""
    recipe = entries()["gamma-0.6"].recipe
    edits = [{"optimizer": {"lr": 1e-3 * (1 + 1e-9 * k), "weight_decay": 0}} for k in range(1, 31)]
    edits += [{"optimizer": {"weight_decay": 0, "decay_until": 2500 + k}} for k in range(1, 31)]
    edits += [{"optimizer": {"weight_decay": 0, "decay_from": k}} for k in range(1, 31)]
    edits += [{"init": {"gamma": 0.6, part: 0.6 + 1e-6 * k}} for part in ("qk", "vo", "mlp", "embedding") for k in range(2)]
    edits += [{"optimizer": {"weight_decay": 0, "decay": kind, "decay_embeddings": False}} for kind in ("coupled", "unscaled")]
    assert len(edits) == TRIES
    tries = [SubmittedRecipe.model_validate({"name": "A", "description": "B", **recipe.training, **edit}) for edit in edits]
    assert {training_digest(each) for each in tries} == {training_digest(recipe)}
