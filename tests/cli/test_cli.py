"""The command line: what it prints and writes, and one sentence for everything that makes no sense."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import RUNS, SWEEP, TINY, Cli, bytes_of, require_one_sentence
from PIL import Image

import anchorbench
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import Run, read_run

HEAVY = ("torch", "transformers", "transformer_lens", "matplotlib", "datasets", "scipy", "numpy", "pydantic")


def rows_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, anchorbench.cli.main; sys.exit(' '.join(set({HEAVY!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("run", "--help"), ("export", "--help")])
def test_help(cli: Cli, arguments: tuple[str, ...]) -> None:
    shown = cli(*arguments)
    assert (shown.code, shown.err) == (0, "")
    assert "Usage: " in shown.out
    assert ("--gamma" in shown.out) == (arguments[:1] == ("run",))


@pytest.mark.parametrize("group", ["", "sweep", "probe", "data", "bench", "leaderboard"])
def test_no_summary_of_a_command_is_cut_in_80_columns(cli: Cli, group: str) -> None:
    listed = cli(*filter(None, [group]), "-h").out.partition("Commands:")[2].strip().splitlines()
    assert len(listed) > 1
    assert not [line for line in listed if line.endswith("...")]


def test_the_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"anchorbench {anchorbench.__version__}\n", "")


def test_a_dry_run_trains_nothing(cli: Cli, tmp_path: Path) -> None:
    shown = cli("run", "--gamma", "0.5", "--seeds", "2", "--dry-run", "--out", tmp_path / "out")
    assert (shown.code, shown.err) == (0, "")
    assert "2 runs, 0 finished; 1 stack to train" in shown.out
    assert not (tmp_path / "out").exists()


# What is said must hold the value and a part of what is allowed.
BAD_INPUT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown command": (("rnu",), ("rnu",)),
    "unknown option": (("run", "--gama", "0.5"), ("--gama",)),
    "missing argument": (("export",), ("run_dir",)),
    "unknown task": (("run", "--task", "compsite"), ("'compsite'", "did you mean 'composite'")),
    "unknown variant": (("run", "--variant", "heldout"), ("'heldout'", "heldout-both")),
    "unknown variant of another task": (("run", "--task", "identity", "--variant", "conflict"), ("'conflict'", "reverse")),
    "unknown preset": (("run", "--preset", "desktop"), ("'desktop'", "laptop")),
    "unknown norm": (("run", "--norm", "pre,middle"), ("'middle'", "'pre' or 'post'")),
    "gamma in words": (("run", "--gamma", "0.5,half"), ("'half'", "finite numbers")),
    "gamma nan": (("run", "--gamma", "nan"), ("'nan'", "finite numbers")),
    "gamma infinite": (("run", "--gamma", "0.5,-inf"), ("'-inf'", "finite numbers")),
    "gamma empty": (("run", "--gamma", ""), ("''", "finite numbers")),
    "gamma with a hole": (("run", "--gamma", "0.5,,0.7"), ("''", "finite numbers")),
    "gamma beyond reason": (("run", "--gamma", "1e9"), ("1000000000.0", "100")),
    "no seeds": (("run", "--seeds", "0"), ("seeds is 0", "allowed: 1 to 100000")),
    "negative seeds": (("run", "--seeds", "-1"), ("seeds is -1", "allowed: 1 to 100000")),
    "seeds in words": (("run", "--seeds", "four"), ("--seeds", "integer")),
    "seeds as a fraction": (("run", "--seeds", "1.5"), ("--seeds", "integer")),
    "no steps": (("run", "--steps", "0"), ("steps is 0", "1")),
    "negative steps": (("run", "--steps", "-5"), ("steps is -5", "1")),
    "negative weight decay": (("run", "--weight-decay", "-1"), ("weight_decay is -1.0", "0")),
    "weight decay nan": (("run", "--weight-decay", "nan"), ("weight_decay is nan", "finite")),
    "weight decay infinite": (("run", "--weight-decay", "inf"), ("weight_decay is inf", "finite")),
    "run to export is missing": (("export", "runs/none", "exported"), ("runs/none", "missing")),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_sentence(cli: Cli, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = BAD_INPUT[name]
    refused = cli(*arguments)
    assert refused.code == 2
    assert refused.out == ""
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"offsets": {1: 5, 2: 101}, "held_out": []}, ("label", "vocabulary")),
        ({"offsets": {1: 5, 2: -60}, "held_out": []}, ("label", "vocabulary")),
        ({"held_out": [(4, 3)], "exceptions": [{"pair": (4, 3), "offset": 1}]}, ("(4, 3)", "held out but also trained")),
        ({"seq_len": 2}, ("seq_len is 2", "at least 3")),
    ],
)
def test_a_task_that_makes_no_sense_is_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: dict[str, object], said: tuple[str, ...]
) -> None:
    monkeypatch.setitem(PRESETS, "paper-pami", TINY.override({"task_config": config}))
    refused = cli("run", "--preset", "paper-pami", "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_used_is_one_sentence(cli: Cli, sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("text")
    for out, arguments, said in [
        (tmp_path / "file", (), "cannot be written: File exists"),
        (tmp_path / "file" / "below", (), "cannot be written: Not a directory"),
        (tmp_path / "full", (), "is not empty"),
        (sweep, ("--steps", "9"), "steps: 6 there, 9 here"),
        (sweep, ("--variant", "conflict"), "variant: 'heldout-both' there, 'conflict' here"),
        (sweep, ("--task", "identity"), "task: 'composite' there, 'identity' here"),
    ]:
        refused = cli(*SWEEP, *arguments, "--out", out)
        assert refused.code == 2
        require_one_sentence(refused.err)
        assert said in refused.err
        assert str(out) in refused.err


@pytest.mark.parametrize("file", ["sweep.json", "weights.safetensors", "result.json", "results.jsonl", "results.csv"])
def test_a_full_disk_is_one_sentence_and_the_next_call_goes_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The disk is full from the first flush of `file` on; of a run's files, from the second run's."""
    flushed: list[str] = []

    def full(handle: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        seen = [path for path in flushed if file in path.rpartition("/")[2]]
        if len(seen) > (file in ("weights.safetensors", "result.json")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        refused = cli(*SWEEP, "--out", out)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "No space left on device" in refused.err
    assert not list(out.rglob(".*.json.*")) + list(out.glob("runs/.*"))  # nothing half-written
    assert not (out / file).exists()
    finished = list((out / "runs").glob("*")) if (out / "runs").exists() else []
    assert len(finished) == {"sweep.json": 0, "weights.safetensors": 1, "result.json": 1}.get(file, RUNS)
    for folder in finished:
        read_run(folder)
    again = cli(*SWEEP, "--out", out)
    assert again.code == 0
    assert len(rows_of(out)) == RUNS


def test_a_figure_that_cannot_be_written_is_one_sentence_after_the_results(cli: Cli, sweep: Path) -> None:
    (sweep / "phase.png").unlink()
    (sweep / "phase.png").mkdir()
    shown = cli(*SWEEP, "--out", sweep)
    assert (shown.code, shown.err) == (0, "")
    assert f"figure {sweep / 'phase.png'} was not drawn: it exists and is not a plain file" in shown.out
    assert not list(sweep.glob(".phase.png*"))


@pytest.mark.parametrize("variant", ["heldout-both", "conflict", "conflict-control"])
def test_run(cli: Cli, tmp_path: Path, variant: str) -> None:
    out = tmp_path / "a [/b] folder"  # brackets are not markup
    shown = cli(*SWEEP, "--variant", variant, "--out", out)
    assert (shown.code, shown.err) == (0, "")
    text = shown.out.replace("\n", "")
    assert f"Results: {out / 'results.jsonl'}" in text
    assert f"Figures: {out / 'phase.png'}" in text
    for gamma in ("0.5", "0.7"):
        assert any(line.split()[:2] == [gamma, "2"] for line in shown.out.splitlines())  # a row: gamma, members
    rows = rows_of(out)
    assert [(row["gamma"], row["seed"]) for row in rows] == [(0.5, 0), (0.5, 1), (0.7, 0), (0.7, 1)]
    for row in rows:
        assert row.keys() >= {"run_id", "task", "variant", "gamma", "seed", "steps", "seconds", "verdict"}
        assert (row["task"], row["variant"], row["steps"], row["verdict"]) == ("composite", variant, TINY.steps, "underfit")
        assert 0 <= row["accuracy_train"] <= 1
        assert 0 <= row["accuracy_iid"] <= 1
        assert 0 <= row["inferential"] <= 1
        assert (row["symmetric"] is None) == (variant == "heldout-both")
        assert (row["exception"] is None) == (variant == "heldout-both")
    assert (out / "results.csv").exists()
    assert (out / "phase.png").exists()


def test_run_over_both_norms(cli: Cli, tmp_path: Path) -> None:
    shown = cli("run", "--gamma", "0.5", "--seeds", "1", "--norm", "pre,post", "--out", tmp_path / "out")
    assert shown.code == 0
    assert [row["norm"] for row in rows_of(tmp_path / "out")] == ["pre", "post"]
    assert "pre-LN" in shown.out
    assert "post-LN" in shown.out


def test_run_of_a_task_without_held_out_groups(cli: Cli, tmp_path: Path) -> None:
    shown = cli(*SWEEP, "--task", "identity", "--out", tmp_path / "out")
    assert shown.code == 0
    for row in rows_of(tmp_path / "out"):
        assert row["variant"] == "default"
        assert row["verdict"] is row["inferential"] is row["symmetric"] is None


def test_options_reach_the_recipe(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = cli("run", "--gamma", "0.6", "--seeds", "1", "--steps", "4", "--weight-decay", "0.5", "--out", out)
    assert shown.code == 0
    (row,) = rows_of(out)
    recipe = read_run(out / "runs" / str(row["run_id"])).recipe
    changes = {"variant": "heldout-both", "init.gamma": 0.6, "steps": 4, "optimizer.weight_decay": 0.5, "optimizer.warmup": 1}
    assert recipe == TINY.override(changes)


def test_the_output_folder_is_named_after_the_sweep(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("run", "--gamma", "0.5", "--seeds", "1", "--variant", "conflict").code == 0
    assert (tmp_path / "anchorbench-out" / "composite-conflict-laptop" / "results.jsonl").exists()


def test_export(cli: Cli, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    shown = cli("export", run.path, out)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == f"checkpoint: {out}\n"
    assert json.loads((out / "anchorbench.json").read_text())["run_id"] == run.result.run_id
    before = bytes_of(out)
    again = cli("export", run.path, out)
    assert again.code == 2
    require_one_sentence(again.err)
    assert "not an empty folder" in again.err
    assert bytes_of(out) == before


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_export_of_truncated_weights_is_one_sentence(cli: Cli, sweep: Path, tmp_path: Path, keep: int) -> None:
    folder = next((sweep / "runs").iterdir())
    weights = (folder / "weights.safetensors").read_bytes()
    assert len(weights) > 3000
    (folder / "weights.safetensors").write_bytes(weights[:keep])
    refused = cli("export", folder, tmp_path / "exported")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "weights.safetensors is damaged" in refused.err
    assert not (tmp_path / "exported").exists()


def test_the_phase_figure_is_a_picture(finished_sweep: Path) -> None:
    with Image.open(finished_sweep / "phase.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_installed_command_runs() -> None:
    """As a user calls it: the script of the installed package."""
    script = Path(sys.executable).with_name("anchorbench")
    done = subprocess.run([script, "run", "--seeds", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    require_one_sentence(done.stderr)
