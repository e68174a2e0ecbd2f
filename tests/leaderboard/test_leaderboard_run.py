"""The leaderboard's commands: a toy entry trained, resumed and verified, and the committed board."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import hostile
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from typer.testing import CliRunner

from anchorbench.cli import leaderboard as leaderboard_cli
from anchorbench.hub import models as hub
from anchorbench.inspect.open_model import open_model
from anchorbench.leaderboard import entry as board
from anchorbench.leaderboard.check import validate_entry
from anchorbench.leaderboard.entry import Entry
from anchorbench.leaderboard.submit import _drawn, run_entry, settled_at, verify
from anchorbench.probes.attention_flow import attention
from anchorbench.sweeps.run_folder import Run, read_run

BOARD = ROOT / "leaderboard"
TOY = """
name: Toy
description: Two tiny layers, three steps.
model: {n_layer: 2, n_head: 2, d_model: 8, d_head: 4, d_ff: 16}
optimizer: {lr: 1e-3, warmup: 1}
batch: 16
steps: 3
data_size: 1500
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, Path]:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.yaml").write_text(TOY)
    return run_entry(folder / "toy.yaml", folder / "out"), folder


def test_a_trained_entry_is_valid_and_says_what_the_runs_say(toy: tuple[Entry, Path]) -> None:
    entry, folder = toy
    assert validate_entry((folder / "out" / "entry.json").read_bytes()) == entry
    runs = {run.recipe.seed: run for run in map(read_run, (folder / "out").glob("*/runs/*"))}
    assert len(runs) == len(entry.rows) == 48
    for row in entry.rows:
        result = runs[row.seed].result
        assert (row.task, row.variant, row.steps) == (result.task, result.variant, 3)
        for field in ("accuracy_train", "accuracy_iid", "composes", "ordered", "symmetric"):
            assert getattr(row, field) == getattr(result, field)
        assert row.rule.hits <= row.accuracy_iid.hits
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
    tokens = board.flow_example(entry.suite[0], run.recipe.load_task())
    layers = attention(open_model(hub.export(run, tmp_path / "model")), tokens)
    for layer, shown in zip(layers, flow.attention, strict=True):
        for reader, percents in enumerate(shown):
            assert percents == pytest.approx(100 * layer[0, 0, reader, : reader + 1], abs=0.51)


def test_an_entry_of_members_that_diverged_shows_no_attention(tmp_path: Path) -> None:
    diverging = "{gamma: -2}\noptimizer: {lr: 100, weight_decay: 1000, warmup: 1}"
    (tmp_path / "diverging.yaml").write_text(TOY.replace("{lr: 1e-3, warmup: 1}", diverging).replace("optimizer", "init", 1))
    entry = run_entry(tmp_path / "diverging.yaml", tmp_path / "out")
    assert [run.result.diverged_at for run in map(read_run, (tmp_path / "out").glob("*/runs/*"))] == [3] * 48
    assert validate_entry((tmp_path / "out" / "entry.json").read_bytes()) == entry
    assert entry.flows == ()
    assert {row.verdict for row in entry.rows} == {"underfit"}


def test_a_second_call_trains_only_what_is_missing(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, folder = toy
    out = Path(shutil.copytree(folder / "out", tmp_path / "out"))
    lost = sorted((out / "chain-search-single" / "runs").iterdir())[0]
    shutil.rmtree(lost)
    told: list[tuple[str, str]] = []
    again = run_entry(folder / "toy.yaml", out, lambda task, message: told.append((task, message)))
    assert [each for each in told if "underfit" in each[1]] == [("chain-search/single", "1 underfit")]
    assert lost.exists()
    without_time = [row.model_dump(exclude={"seconds"}) for row in again.rows]
    assert without_time == [row.model_dump(exclude={"seconds"}) for row in entry.rows]


def test_verification_trains_the_same_members_again(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, _ = toy
    done = verify(entry, 3, 1, tmp_path / "verify")
    assert (done.reproduced, done.agree, done.stands, len(done.claimed)) == (3, 3, True, 3)
    assert len({(row.task, row.variant) for row in done.claimed}) == 3
    with pytest.raises(ValueError, match="members is 49; allowed: 1 to 48"):
        verify(entry, 49, 1, tmp_path / "other")
    with pytest.raises(ValueError, match="seed is -1; allowed: 0 or more"):
        verify(entry, 3, -1, tmp_path / "other")


def test_a_claim_out_of_thin_air_does_not_stand(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """All members inferential, says a valid entry of a recipe that learns nothing."""
    entry, _ = toy
    rows = hostile.honest_entry(inferential=8, **entry.recipe.training | {"precision": "fp32"})
    validate_entry(rows.to_json())
    done = verify(rows, 3, 1, tmp_path / "verify")
    assert (done.reproduced, done.agree, done.stands) == (0, 0, False)


def test_a_claim_that_no_member_bears_out_does_not_stand(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """0 of 3 inferential is within the wide interval of 3 members, but each was drawn as inferential: .2 ** 3 < .01."""
    entry, _ = toy
    claim = hostile.honest_entry(inferential=5, **entry.recipe.training | {"precision": "fp32"})
    seed = next(seed for seed in range(99) if all(row.verdict == "inferential" for row in _drawn(claim, 3, seed)))
    done = verify(claim, 3, seed, tmp_path / "verify")
    assert done.share.interval[1] > claim.statistics.inferential.low
    assert (done.agree, done.stands) == (0, False)


def test_a_folder_names_the_machine_and_commit_that_it_was_begun_with(toy: tuple[Entry, Path], tmp_path: Path) -> None:
    """Finished, it may be read by later code; not finished, it must go on where it was begun."""
    entry, folder = toy
    out = Path(shutil.copytree(folder / "out", tmp_path / "out"))
    origin = json.loads((out / "origin.json").read_bytes())
    assert origin == {"machine": entry.machine.model_dump(), "git": entry.git}
    origin["git"], origin["machine"]["torch"] = "0" * 40, "1.0"
    (out / "origin.json").write_text(json.dumps(origin))
    again = run_entry(folder / "toy.yaml", out)
    assert (again.git, again.machine.torch) == ("0" * 40, "1.0")
    shutil.rmtree(next((out / "chain-search-single" / "runs").iterdir()))
    with pytest.raises(ValueError, match=r"was started with torch 1\.0, here it is 2"):
        run_entry(folder / "toy.yaml", out)
    (out / "origin.json").write_text("{")
    with pytest.raises(ValueError, match=r"origin\.json is damaged; remove it or choose another --out"):
        run_entry(folder / "toy.yaml", out)


@pytest.mark.parametrize(
    ("suite", "fit", "changes", "settled"),
    [
        (0, 0.95, [(0.0, 2), (0.5, 3), (0.9, 4), (0.8, 5)], 4),  # underfit, memorizing, mixed, inferential
        (0, 0.95, [(0.1, 2), (0.9, 3), (0.2, 4)], 4),  # it forgets
        (0, 0.85, [(0.9, 2), (0.9, 3)], 3),  # never fit
        (0, 0.95, [(0.1, 2), (0.1, 3)], 2),
        (5, 0.95, [(0.2, 2), (0.9, 3)], 3),  # by unseen edges
    ],
)
def test_the_step_of_the_verdict_by_hand(suite: int, fit: float, changes: list[tuple[float, int]], settled: int) -> None:
    task = board.TRACKS["laptop"].suite[suite]
    asked = "accuracy_iid" if task.unseen == "iid" else "inferential"
    other = "inferential" if task.unseen == "iid" else "accuracy_iid"
    points = [{"step": 1, "accuracy_train": 0.1, "accuracy_iid": 0.1, "inferential": 0.0}] + [
        {"step": step, "accuracy_train": fit, asked: share, other: 0.5} for share, step in changes
    ]
    assert settled_at(task, Mock(spec=Run, trajectory=lambda: points)) == settled


def test_members_to_verify_are_drawn_from_all_tasks_by_the_verifiers_seed() -> None:
    entry = hostile.honest_entry()
    draws = {tuple(row.seed for row in _drawn(entry, 6, seed)) for seed in range(20)}
    assert len(draws) == 20
    for seed in range(5):
        assert len({(row.task, row.variant) for row in _drawn(entry, 6, seed)}) == 6
        assert _drawn(entry, 48, seed) == list(entry.rows)
    counts = np.zeros(48)
    for seed in range(400):
        for row in _drawn(entry, 3, seed):
            counts[[each.seed for each in entry.rows].index(row.seed)] += 1
    assert stats.chisquare(counts).pvalue > 0.001  # each member is as likely as any other


@pytest.fixture
def command() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(leaderboard_cli.app, [str(argument) for argument in arguments])


def test_validate_names_the_file_and_the_reason(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "good.json").write_bytes(hostile.honest_entry().to_json())
    good = command("validate", tmp_path / "good.json")
    assert good.exit_code == 0
    assert "valid, Honest, score 0.62" in good.output
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
    entries = tmp_path / "entries"
    entries.mkdir()
    (entries / "good.json").write_bytes(hostile.honest_entry().to_json())
    (entries / "nan.json").write_bytes(hostile.ENTRIES["NaN"][0]())
    (entries / "other-name.json").write_bytes(hostile.honest_entry("Mine now").to_json())
    (entries / "folder.json").mkdir()
    (entries / "gone.json").symlink_to(tmp_path / "nothing")
    os.mkfifo(entries / "pipe.json")
    done = command("render", "--folder", entries, "--out", tmp_path / "new" / "board")
    assert done.exit_code == 0
    *left_out, written = done.output.splitlines()
    assert [line.removeprefix(f"left out: {entries}/") for line in left_out] == [
        "folder.json is not a plain file; allowed: no folder, pipe, socket or device",
        "gone.json is missing",
        "nan.json: the entry: NaN is not a JSON number; allowed: finite numbers",
        f"other-name.json: the same training as {entries / 'good.json'}",
        "pipe.json is not a plain file; allowed: no folder, pipe, socket or device",
    ]
    assert written.startswith("1 entries: ")
    assert "Honest" in (tmp_path / "new" / "board" / "index.html").read_text()
    assert "| 1 | Honest | 62% |" in (tmp_path / "new" / "board" / "table.md").read_text()


def test_render_does_not_replace_a_board_by_nothing(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the board")
    assert "entires is not a folder" in str(command("render", "--folder", tmp_path / "entires", "--out", tmp_path).exception)
    assert "holds no valid entry" in str(command("render", "--folder", tmp_path, "--out", tmp_path).exception)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "the board"


@pytest.mark.parametrize("dataset", ["anchorbench", "no name/at all", "a/b/c", "../up", ""])
def test_export_is_to_a_data_set_that_can_be(command: Callable[..., Any], tmp_path: Path, dataset: str) -> None:
    (tmp_path / "good.json").write_bytes(hostile.honest_entry().to_json())
    done = command("export", tmp_path / "good.json", "--out", tmp_path / "hub", "--dataset", dataset)
    assert str(done.exception).startswith(f"dataset is {dataset!r}; allowed: OWNER/NAME")
    assert not (tmp_path / "hub").exists()


def test_the_committed_board_is_rendered_from_the_committed_entries(command: Callable[..., Any], tmp_path: Path) -> None:
    done = command("render", "--folder", BOARD / "entries", "--out", tmp_path)
    count = len(list((BOARD / "entries").iterdir()))
    assert done.output.startswith(f"{count} entries: ")  # none is left out
    for name in ("index.html", "table.md"):
        assert (tmp_path / name).read_bytes() == (BOARD / name).read_bytes(), f"{name}: run anchorbench leaderboard render"


def test_run_verify_and_export_by_command(command: Callable[..., Any], toy: tuple[Entry, Path], tmp_path: Path) -> None:
    entry, folder = toy
    again = command("run", folder / "toy.yaml", "--out", folder / "out")
    assert again.exit_code == 0
    assert "score 0.00, 95% interval 0.00 to 0.07" in again.output
    verified = command("verify", folder / "out" / "entry.json", "--members", 1, "--seed", 5)
    assert (verified.exit_code, "the claim stands" in verified.output) == (0, True)
    lie = tmp_path / "lie.json"
    lie.write_bytes(hostile.honest_entry(inferential=8, **entry.recipe.training).to_json())
    refuted = command("verify", lie, "--members", 2, "--seed", 5)
    assert (refuted.exit_code, "the claim does not stand" in refuted.output) == (1, True)
    exported = command("export", lie, "--out", tmp_path / "hub", "--dataset", "a/b")
    assert exported.exit_code == 0
    assert (tmp_path / "hub" / "eval.yaml").exists()


def test_the_commands_import_nothing_heavy() -> None:
    heavy = {"torch", "scipy", "numpy", "pydantic", "jinja2", "yaml", "rich"}
    code = f"import sys, anchorbench.cli.leaderboard; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
