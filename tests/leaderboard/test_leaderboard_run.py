"""The leaderboard's commands: a toy entry trained, resumed and verified, and the committed board."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import hostile
import numpy as np
import pytest
import yaml
from conftest import ROOT
from hostile import LAST, RUNS
from scipy import stats
from typer.testing import CliRunner

from anchorbench.cli import leaderboard as leaderboard_cli
from anchorbench.hub import models as hub
from anchorbench.inspect.open_model import open_model
from anchorbench.leaderboard.check import parse_recipe_yaml, validate_entry
from anchorbench.leaderboard.entry import Entry, flow_example
from anchorbench.leaderboard.registration import register
from anchorbench.leaderboard.submit import run_entry, settled_at
from anchorbench.leaderboard.suite import LAPTOP_SUITE, SEEDS
from anchorbench.leaderboard.verify import (
    COMPARED,
    FRESH,
    Reproduction,
    in_words,
    nonce_of,
    read_reproduction,
    row_power,
    sample_rows,
    verify,
    verify_fresh,
)
from anchorbench.probes.attention_flow import attention
from anchorbench.sweeps.run_folder import Run, read_run

BOARD = ROOT / "leaderboard"
TASKS = len(LAPTOP_SUITE)
TOY = """
name: Toy
description: Two tiny layers, three steps.
model: {n_layer: 2, n_head: 2, d_model: 8, d_head: 4, d_ff: 16}
optimizer: {lr: 1e-3, warmup: 1}
batch: 16
steps: 3
data_size: 1500
"""


REGISTERED = register(parse_recipe_yaml(TOY.encode()), hostile.BEACON.name, datetime(2026, 12, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, Path]:
    folder = tmp_path_factory.mktemp("toy")
    return run_entry(REGISTERED, hostile.BEACON, folder / "out"), folder


def test_a_trained_entry_is_valid_and_says_what_the_runs_say(toy: tuple[Entry, Path]) -> None:
    entry, folder = toy
    assert validate_entry((folder / "out" / "entry.json").read_bytes()) == entry
    runs = {run.recipe.seed: run for run in map(read_run, (folder / "out").glob("*/runs/*"))}
    assert len(entry.rows) == RUNS
    assert len(runs) == RUNS + len(entry.drawn)
    for row in (*entry.rows, *entry.drawn):
        result = runs[row.seed].result
        times = next((task.times for task in LAPTOP_SUITE if (task.task, task.variant) == (row.task, row.variant)), 1)
        assert (row.task, row.variant, row.steps) == (result.task, result.variant, 3 * times)
        for field in ("accuracy_train", "accuracy_iid", "composes"):
            assert getattr(row, field) == getattr(result, field)
        assert row.verdict == "underfit"
    assert entry.machine.reference_seconds > 0
    text = (folder / "out" / "entry.json").read_text()
    assert str(folder) not in text
    assert platform.node() not in text


def test_an_entry_shows_the_attention_of_its_first_member_of_each_verdict(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """All are underfit, so the first member is shown: its attention is what transformers computes of the exported checkpoint."""
    entry, folder = toy
    (flow,) = entry.flows
    assert flow.row == 0
    run = next(run for run in map(read_run, (folder / "out").glob("*/runs/*")) if run.recipe.seed == entry.rows[0].seed)
    tokens = flow_example(run.recipe.load_task())
    layers = attention(open_model(hub.export(run, tmp_path / "model")), tokens)
    for layer, shown in zip(layers, flow.attention, strict=True):
        for reader, percents in enumerate(shown):
            assert percents == pytest.approx(100 * layer[0, 0, reader, : reader + 1], abs=0.51)


def test_an_entry_of_members_that_diverged_shows_no_attention(tmp_path: Path) -> None:
    diverging = "{gamma: -2}\noptimizer: {lr: 100, weight_decay: 1000, warmup: 1}"
    recipe = parse_recipe_yaml(TOY.replace("{lr: 1e-3, warmup: 1}", diverging).replace("optimizer", "init", 1).encode())
    registered = register(recipe, hostile.BEACON.name, datetime(2026, 12, 1, tzinfo=UTC))
    entry = run_entry(registered, hostile.BEACON, tmp_path / "out")
    runs = list(map(read_run, (tmp_path / "out").glob("*/runs/*")))
    assert [run.result.diverged_at for run in runs] == [run.recipe.steps for run in runs]
    assert validate_entry((tmp_path / "out" / "entry.json").read_bytes()) == entry
    assert entry.flows == ()
    assert {row.verdict for row in entry.rows} == {"underfit"}


def test_a_second_call_trains_only_what_is_missing(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, folder = toy
    out = Path(shutil.copytree(folder / "out", tmp_path / "out"))
    lost = [sorted((out / name / "runs").iterdir())[0] for name in (LAST.replace("/", "-"), "drawn")]
    for folder in lost:
        shutil.rmtree(folder)
    told: list[tuple[str, str]] = []
    again = run_entry(REGISTERED, hostile.BEACON, out, lambda task, message: told.append((task, message)))
    assert [each for each in told if "underfit" in each[1]] == [(LAST, "1 underfit"), ("drawn tasks", "1 underfit")]
    assert all(folder.exists() for folder in lost)
    without_time = [row.model_dump(exclude={"seconds"}) for row in (*again.rows, *again.drawn)]
    assert without_time == [row.model_dump(exclude={"seconds"}) for row in (*entry.rows, *entry.drawn)]


def test_verification_trains_the_same_members_again(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, _ = toy
    done = verify(entry, None, "01", tmp_path / "verify")
    assert (done.exact, done.unequal, done.stands, len(done.retrained)) == (True, [], True, COMPARED * TASKS)
    assert len({(row.task, row.variant) for row in done.retrained}) == TASKS
    assert len({row.fingerprint for row in done.drawn}) == COMPARED
    retrained = COMPARED * (TASKS + 1)
    assert f"{retrained} of {retrained} rows are equal" in "\n".join(in_words(done, "01"))
    with pytest.raises(ValueError, match=f"members is {RUNS + 1}; allowed: 1 to {RUNS}"):
        verify(entry, RUNS + 1, "01", tmp_path / "other")
    with pytest.raises(ValueError, match=f"members is 0; allowed: 1 to {FRESH * RUNS}"):
        verify_fresh(entry, 0, "01", tmp_path / "other")


def claimed_by(entry: Entry, **fields: Any) -> Entry:
    """A valid entry of the toy's recipe and machine that nobody trained."""
    lie = hostile.honest_entry(**fields, **{"steps": 3, **entry.recipe.training})
    content = lie.model_dump(mode="json") | {"environment": entry.environment and entry.environment.model_dump()}
    return validate_entry(hostile.sealed(content))


def test_where_bits_are_the_same_one_row_decides(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """Everything is true but one row's last answer."""
    entry, _ = toy
    content = json.loads(entry.to_json())
    number = sample_rows(TASKS, COMPARED * TASKS, 7)[0]
    content["rows"][number]["accuracy_train"][0] += 1
    content["flows"] = []
    lie = validate_entry(hostile.sealed(content))
    done = verify(lie, None, "07", tmp_path / "verify")
    assert done.exact
    assert [claimed for claimed, _ in done.unequal] == [lie.rows[number]]
    assert not done.stands


def test_a_lie_about_drawn_tasks_is_found_as_well(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """Every drawn row is invented, and some of them are retrained."""
    entry, _ = toy
    content = json.loads(entry.to_json())
    content["flows"] = []
    for row in content["drawn"]:
        row["accuracy_train"][0] += 1
    done = verify(validate_entry(hostile.sealed(content)), None, "07", tmp_path / "verify")
    assert (len(done.unequal), done.stands) == (COMPARED, False)


def test_a_claim_out_of_thin_air_does_not_stand(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """All members compose, says a valid entry of a recipe that learns nothing."""
    entry, _ = toy
    lie = claimed_by(entry, inferential=SEEDS)
    done = verify(lie, 6, "01", tmp_path / "own")
    assert (done.exact, len(done.unequal), done.stands) == (True, 6, False)
    fresh = verify_fresh(lie, 12, "01", tmp_path / "fresh")
    assert fresh.p[0] < 1e-6
    assert not fresh.stands


def test_on_another_kind_of_machine_a_test_decides(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """All runs are trained, as the test needs them; the claim is true, and differs from machine to machine in a few answers."""
    entry, _ = toy
    content = json.loads(entry.to_json())
    content["environment"]["capability"] = "AVX2 of another kind"
    content["flows"] = []
    for number, row in enumerate(content["rows"]):
        row["accuracy_train"][0] += 1 - 2 * (number % 2) * (row["accuracy_train"][0] > 0)
    other = validate_entry(hostile.sealed(content))
    done = verify(other, None, "01", tmp_path / "verify")
    assert (done.exact, len(done.retrained), done.stands) == (False, RUNS, True)
    assert "capability AVX2 of another kind there" in (done.differences or "")
    lie = claimed_by(entry, inferential=3).model_copy(update={"environment": other.environment})
    assert not verify(lie, 12, "01", tmp_path / "lie").stands


def test_an_honest_claim_stands_on_fresh_seeds_and_pools(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, _ = toy
    done = verify_fresh(entry, 12, nonce_of(entry.recipe, "Somebody else"), tmp_path / "fresh")
    assert done.stands
    assert not {row.seed for row in done.retrained} & {row.seed for row in entry.rows}
    found = Reproduction.of(done, "Somebody else")
    (tmp_path / "found.json").write_bytes(found.to_json())
    assert read_reproduction(tmp_path / "found.json") == found
    (line,) = hostile.board_of(entry, reproductions=[found]).tracks["laptop"]
    assert (line.independent, len(line.rows), line.disputes) == (["Somebody else"], RUNS + 12, [])
    with pytest.raises(ValueError, match="begins with '1'"):
        Reproduction.of(done, "1. place")


def test_a_folder_names_the_machine_and_commit_that_it_was_begun_with(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """Finished, it may be read by later code; not finished, it must go on where it was begun."""
    entry, folder = toy
    out = Path(shutil.copytree(folder / "out", tmp_path / "out"))
    origin = json.loads((out / "origin.json").read_bytes())
    assert origin == {"machine": entry.machine.model_dump(), "git": entry.git}
    origin["git"], origin["machine"]["torch"] = "0" * 40, "1.0"
    (out / "origin.json").write_text(json.dumps(origin))
    again = run_entry(REGISTERED, hostile.BEACON, out)
    assert (again.git, again.machine.torch) == ("0" * 40, "1.0")
    shutil.rmtree(next((out / LAST.replace("/", "-") / "runs").iterdir()))
    with pytest.raises(ValueError, match=r"was started with torch 1\.0, here it is 2"):
        run_entry(REGISTERED, hostile.BEACON, out)
    (out / "origin.json").write_text("{")
    with pytest.raises(ValueError, match=r"origin\.json is damaged; remove it or choose another --out"):
        run_entry(REGISTERED, hostile.BEACON, out)


@pytest.mark.parametrize(
    ("fit", "changes", "settled"),
    [
        (0.95, [(0.0, 2), (0.5, 3), (0.9, 4), (0.8, 5)], 4),  # underfit, memorizing, mixed, inferential
        (0.95, [(0.1, 2), (0.9, 3), (0.2, 4)], 4),  # it forgets
        (0.85, [(0.9, 2), (0.9, 3)], 3),  # never fit
        (0.95, [(0.1, 2), (0.1, 3)], 2),
    ],
)
def test_the_step_of_the_verdict_by_hand(fit: float, changes: list[tuple[float, int]], settled: int) -> None:
    points = [{"step": 1, "accuracy_train": 0.1, "accuracy_iid": 0.1, "inferential": 0.0}] + [
        {"step": step, "accuracy_train": fit, "inferential": share, "accuracy_iid": 0.5} for share, step in changes
    ]
    assert settled_at(Mock(spec=Run, trajectory=lambda: points)) == settled


def test_members_to_verify_are_drawn_from_all_tasks_by_the_verifiers_seed() -> None:
    assert len({tuple(sample_rows(6, 6, seed)) for seed in range(20)}) == 20
    for seed in range(5):
        assert [row // SEEDS for row in sample_rows(6, 6, seed)] == [0, 1, 2, 3, 4, 5]
        assert sample_rows(6, 6 * SEEDS, seed) == list(range(6 * SEEDS))
    counts = np.bincount([row for seed in range(400) for row in sample_rows(6, 3, seed)], minlength=6 * SEEDS)
    assert stats.chisquare(counts).pvalue > 0.001  # each member is as likely as any other


def test_the_power_of_equal_rows_by_hand() -> None:
    """A lie of 0.08 needs 3 rows of 36, best hidden in three tasks; of each task one run in six is retrained, then two."""
    assert row_power([1] * 6, 0.08) == pytest.approx(1 - (5 / 6) ** 3)
    assert row_power([2] * 6, 0.08) == pytest.approx(1 - (4 / 6) ** 3)
    assert row_power([6] * 6, 0.01) == 1
    assert row_power([0] * 6, 0.5) == 0
    draws = np.random.default_rng(0)  # against the drawing itself: 6 rows, spread over the tasks
    lies = {0, 6, 12, 18, 24, 30}
    found = np.mean([bool(lies & set(sample_rows(6, 12, int(seed)))) for seed in draws.integers(2**31, size=2000)])
    assert abs(found - row_power([2] * 6, 0.15)) < 0.02


@pytest.fixture
def command() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(leaderboard_cli.app, [str(argument) for argument in arguments])


def test_validate_names_the_file_and_the_reason(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "good.json").write_bytes(hostile.honest_entry().to_json())
    good = command("validate", tmp_path / "good.json", "--board", tmp_path)
    assert good.exit_code == 0
    assert "valid, Honest, score 0.55; registered elsewhere: its registration" in good.output
    (tmp_path / "bad.json").write_bytes(b"{}")
    (tmp_path / "large.json").write_bytes(b" " * 10_000_000)
    bad = command(
        "validate", tmp_path / "bad.json", tmp_path / "good.json", tmp_path / "large.json", tmp_path / "none.json", tmp_path
    )
    assert isinstance(bad.exception, ValueError)
    assert str(bad.exception) == "4 of 5 entries rejected"
    said = bad.output.splitlines()
    assert said[0].startswith(f"rejected: {tmp_path / 'bad.json'}: the field ")
    assert "valid, Honest" in said[1]
    assert "allowed: at most 131072" in said[2]
    assert said[3:] == [
        f"rejected: {tmp_path / 'none.json'} is missing",
        f"rejected: {tmp_path} is not a plain file; allowed: no folder, pipe, socket or device",
    ]


def test_render_leaves_out_what_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    honest = hostile.honest_entry()
    board = hostile.written(tmp_path / "board", honest)
    entries = board / "entries"
    (entries / "nan.json").write_bytes(hostile.ENTRIES["NaN"][0]())
    (entries / "nobody.json").write_bytes(hostile.honest_entry("Nobody", data_size=50_000).to_json())
    rerolled = hostile.BEACON.model_copy(update={"value": "f" * 32})
    (entries / "rerolled.json").write_bytes(hostile.honest_entry(beacon=rerolled).to_json())
    (entries / "folder.json").mkdir()
    (entries / "gone.json").symlink_to(tmp_path / "nothing")
    os.mkfifo(entries / "pipe.json")
    done = command("render", "--board", board, "--out", tmp_path / "new" / "board")
    assert done.exit_code == 0
    *left_out, text = done.output.splitlines()
    nobody = hostile.training_digest(hostile.honest_entry(data_size=50_000).recipe)[:12]
    assert [line.removeprefix(f"left out: {entries}/") for line in left_out] == [
        "folder.json is not a plain file; allowed: no folder, pipe, socket or device",
        "gone.json is missing",
        "nan.json: the entry: NaN is not a JSON number; allowed: finite numbers",
        f"nobody.json: its registration {nobody} is not among the board's",
        "pipe.json is not a plain file; allowed: no folder, pipe, socket or device",
        "rerolled.json: its beacon is ffffffffffffffff...; the board has 0123456789abcdef...",
    ]
    assert text.startswith("1 entries: ")
    assert "Honest" in (tmp_path / "new" / "board" / "index.html").read_text()
    assert "| 1 | Honest | 55% |" in (tmp_path / "new" / "board" / "table.md").read_text()


def test_a_registration_without_a_result_is_named(command: Callable[..., Any], tmp_path: Path) -> None:
    board = hostile.written(tmp_path, hostile.honest_entry())
    lost = register(hostile.honest_entry("Better forgotten", data_size=50_000).recipe, "dice", datetime(2026, 12, 1, tzinfo=UTC))
    (board / "registrations" / "lost.yaml").write_bytes(lost.to_yaml())
    later = register(hostile.honest_entry("Not out yet", data_size=60_000).recipe, "next dice", datetime(2026, 12, 1, tzinfo=UTC))
    (board / "registrations" / "later.yaml").write_bytes(later.to_yaml())
    assert command("render", "--board", board).exit_code == 0
    page = (board / "index.html").read_text()
    assert "Better forgotten" in page
    assert "Not out yet" not in page


def test_render_does_not_replace_a_board_by_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the board")
    assert "entries is not a folder" in str(command("render", "--board", tmp_path).exception)
    (tmp_path / "entries").mkdir()
    assert "holds no valid entry" in str(command("render", "--board", tmp_path).exception)
    assert (tmp_path / "index.html").read_text() == "the board"


@pytest.mark.parametrize("dataset", ["anchorbench", "no name/at all", "a/b/c", "../up", ""])
def test_export_is_to_a_data_set_that_can_be(command: Callable[..., Any], tmp_path: Path, dataset: str) -> None:
    (tmp_path / "good.json").write_bytes(hostile.honest_entry().to_json())
    done = command("export", tmp_path / "good.json", "--out", tmp_path / "hub", "--dataset", dataset)
    assert str(done.exception).startswith(f"dataset is {dataset!r}; allowed: OWNER/NAME")
    assert not (tmp_path / "hub").exists()


def test_the_committed_board_is_rendered_from_the_committed_entries(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("render", "--board", BOARD, "--out", tmp_path)
    count = len(list((BOARD / "entries").iterdir()))
    assert done.output.startswith(f"{count} entries: ")  # none is left out
    for name in ("index.html", "table.md"):
        assert (tmp_path / name).read_bytes() == (BOARD / name).read_bytes(), f"{name}: run anchorbench leaderboard render"


def test_register_run_verify_and_export_by_command(command: Callable[..., Any], toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, folder = toy
    (tmp_path / "toy.yaml").write_text(TOY)
    announced = command("register", tmp_path / "toy.yaml", "--name", "toy", "--beacon", "dice", "--board", tmp_path)
    assert announced.exit_code == 0
    path = tmp_path / "registrations" / "toy.yaml"
    content = yaml.safe_load(path.read_text())
    assert content["digest"] == entry.registration
    path.write_text(path.read_text().replace(f"'{content['time']}", "2026-12-01T00:00Z"))
    (tmp_path / "beacon.yaml").write_text(yaml.safe_dump(hostile.BEACON.model_dump()))
    again = command("run", path, "--beacon", tmp_path / "beacon.yaml", "--out", folder / "out")
    assert again.exit_code == 0
    assert f"of runs inferential, {RUNS} of {RUNS} underfit" in again.output
    verified = command("verify", folder / "out" / "entry.json", "--members", 2 * TASKS, "--seed", "0" * 16)
    assert (verified.exit_code, "\nthe claim stands\n" in verified.output) == (0, True)
    assert f"machine and gradient path are the same: {2 * TASKS} of {2 * TASKS} rows are equal" in verified.output
    powers = ", ".join(f"by {lie:.2f} {row_power([2] * TASKS, lie):.0%}" for lie in (0.05, 0.10, 0.15))
    assert f"power against a claim above the truth: {powers}" in verified.output
    few = command("verify", folder / "out" / "entry.json", "--members", 1, "--seed", "0" * 16)
    assert (few.exit_code, "the claim is not refused, but these are too few" in few.output) == (0, True)
    lie = tmp_path / "lie.json"
    lie.write_bytes(claimed_by(entry, inferential=SEEDS).to_json())
    refuted = command("verify", lie, "--members", 2, "--seed", "0" * 16)
    assert (refuted.exit_code, "the claim does not stand" in refuted.output) == (1, True)
    fresh = ("verify", folder / "out" / "entry.json", "--fresh", "--members", 6, "--by", "Somebody", "--out", tmp_path / "fresh")
    assert "allowed with --fresh and --out" in str(command(*fresh, "--seed", "0" * 16).exception)
    signed = command(*fresh)
    assert signed.exit_code == 0
    assert read_reproduction(tmp_path / "fresh" / "reproduction.json").by == "Somebody"
    exported = command("export", lie, "--out", tmp_path / "hub", "--dataset", "a/b")
    assert exported.exit_code == 0
    assert (tmp_path / "hub" / "eval.yaml").exists()


def test_the_commands_import_nothing_heavy() -> None:
    heavy = {"torch", "scipy", "numpy", "pydantic", "jinja2", "yaml", "rich"}
    code = f"import sys, anchorbench.cli.leaderboard; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
