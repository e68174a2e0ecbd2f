"""A sweep trains what is missing, whatever interrupted it, and never trains twice."""

import json
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import RUNS, SWEEP, TINY, Cli, WiderRecipe, bytes_of, require_one_sentence
from processes import child, environment

from anchorbench.sweeps.plan import STACK_MEMBERS, stacks
from anchorbench.sweeps.run_folder import DamagedRunError, read_run
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.sweeps.summary import conditions
from anchorbench.train.memory import memory_of_member
from anchorbench.train.stack import Stack, structure

BASE = TINY.override({"variant": "heldout-both"})
SMALL = Sweep(BASE, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})

INTERRUPTIONS = {
    "killed with no marker": 0,
    "killed after one run": 1,
    "killed while writing a run": 1,
    "killed before the tables": RUNS,
}
"""Name -> how many runs must be finished when it strikes."""


class Interrupted(NamedTuple):
    """What an interrupted command left."""

    folder: Path
    code: int
    err: str


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Interrupted]:
    """The same command, interrupted in each way: processes forked from one, so that torch is imported once."""
    root = tmp_path_factory.mktemp("interrupted")
    arguments = json.dumps([TINY.model_dump(mode="json"), list(INTERRUPTIONS), str(root), SWEEP])
    command, variables = child("interrupted_commands", arguments), environment(OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
    codes = [int(code) for code in done.stdout.split()]
    return {
        name: Interrupted(root / name, code, (root / f"{name}.err").read_text())
        for name, code in zip(INTERRUPTIONS, codes, strict=True)
    }


def run_folders(out: Path) -> list[Path]:
    """The folders that count: what a kill leaves behind is hidden."""
    return sorted(path for path in (out / "runs").glob("*") if not path.name.startswith("."))


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_an_interruption_loses_nothing_that_was_finished(interrupted: dict[str, Interrupted], name: str, cli: Cli) -> None:
    out, code, err = interrupted[name]
    assert not (out / "results.jsonl").exists()
    finished = run_folders(out)
    assert len(finished) == INTERRUPTIONS[name]
    for folder in finished:
        read_run(folder)  # whole, or it raises
    before = {folder.name: (folder.stat().st_ino, bytes_of(folder)) for folder in finished}
    assert code == -signal.SIGKILL
    assert err == ""

    again = cli(*SWEEP, "--out", out)
    assert again.code == 0, again.err
    said = "All 4 runs are finished" if len(before) == RUNS else f", {len(before)} of them finished"
    assert (said in again.out) == bool(before)
    after = run_folders(out)
    assert {name: (out / "runs" / name).stat().st_ino for name in before} == {name: inode for name, (inode, _) in before.items()}
    assert {name: bytes_of(out / "runs" / name) for name in before} == {name: content for name, (_, content) in before.items()}
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["run_id"] for row in rows] == [recipe.run_id for recipe in SMALL.runs()]
    assert sorted(row["run_id"] for row in rows) == [folder.name for folder in after]
    assert (out / "phase.png").exists()
    visible = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    kept = {
        "sweep.json",
        "index",
        "runs",
        "checkpoints",
        "locks",
        "results.jsonl",
        "results.csv",
        "plan.json",
        "phase.png",
        "attention_flow.png",
    }
    assert visible <= kept
    assert not list((out / "checkpoints").glob("*.safetensors"))


def test_a_second_call_trains_nothing(sweep: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes_of(sweep / "runs")
    rows = (sweep / "results.jsonl").read_bytes()
    (sweep / "results.jsonl").unlink()
    monkeypatch.setattr("anchorbench.train.loop.train", None)  # whoever calls it fails
    again = cli(*SWEEP, "--out", sweep)
    assert again.code == 0
    assert f"All {RUNS} runs are finished; nothing is trained." in again.out
    assert bytes_of(sweep / "runs") == before
    assert (sweep / "results.jsonl").read_bytes() == rows  # derived from the folders


def test_a_damaged_run_is_reported_and_trained_again(sweep: Path, cli: Cli) -> None:
    folders = run_folders(sweep)
    damaged, *whole = folders
    before = {folder: bytes_of(folder) for folder in folders}
    (damaged / "weights.safetensors").write_bytes(before[damaged]["weights.safetensors"][:100])
    unseen = cli(*SWEEP, "--out", sweep)
    assert f"All {RUNS} runs are finished" in unseen.out  # only the index is read
    found = cli("sweep", "check", sweep)
    assert found.code == 1
    assert f"{damaged.name}/weights.safetensors is damaged" in found.out
    assert f"{RUNS - 1} of {RUNS} runs are whole" in found.out
    assert f"index: {RUNS - 1} runs" in cli("sweep", "reindex", sweep).out
    again = cli(*SWEEP, "--out", sweep)
    assert again.code == 0
    assert f", {RUNS - 1} of them finished" in again.out
    said = again.out.replace("\n", "")
    assert f"{damaged.name}/weights.safetensors is damaged" in said
    assert "it is retrained" in " ".join(again.out.split())
    assert read_run(damaged).recipe.run_id == damaged.name
    assert {folder: bytes_of(folder) for folder in whole} == {folder: before[folder] for folder in whole}
    assert (cli("sweep", "check", sweep).code, cli("sweep", "check", sweep, "--sample", "2").out) == (0, "2 of 2 runs are whole\n")
    assert len((sweep / "results.jsonl").read_text().splitlines()) == RUNS


def test_a_run_under_anothers_name_is_trained_again(sweep: Path, cli: Cli) -> None:
    first, second, *_ = run_folders(sweep)
    for path in second.iterdir():
        path.write_bytes((first / path.name).read_bytes())
    assert read_run(second).recipe.run_id == first.name
    assert f"{second} holds another run's recipe" in cli("sweep", "check", sweep).out
    assert f"left out: {second} holds another run's recipe" in cli("sweep", "reindex", sweep).out
    again = cli(*SWEEP, "--out", sweep)
    assert "holds another run's recipe" in " ".join(again.out.split())
    assert read_run(second).recipe.run_id == second.name


def test_axes_may_grow_and_shrink(sweep: Path, cli: Cli) -> None:
    before = bytes_of(sweep / "runs")
    grown = cli("run", "--gamma", "0.5,0.7,0.9", "--seeds", "2", "--out", sweep)
    assert f"{RUNS + 2} runs, {RUNS} of them finished" in grown.out
    assert before.items() <= bytes_of(sweep / "runs").items()
    shrunk = cli("run", "--gamma", "0.9", "--seeds", "1", "--out", sweep)
    assert "All 1 runs are finished" in shrunk.out
    assert len((sweep / "results.jsonl").read_text().splitlines()) == RUNS + 2  # the tables tell of all that is finished


def test_runs_are_all_combinations_once_and_in_order() -> None:
    runs = Sweep(BASE, {"model.norm": ("post", "pre"), "init.gamma": (0.7, 0.5, 0.7), "seed": (0, 1)}).runs()
    found = [(run.model.norm, run.init.gamma, run.seed) for run in runs]
    assert found == [(norm, gamma, seed) for norm in ("post", "pre") for gamma in (0.7, 0.5) for seed in (0, 1)]
    assert len({run.run_id for run in runs}) == 8


def test_a_sweep_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="axis seed has no values"):
        Sweep(BASE, {"init.gamma": (0.5,), "seed": ()}).runs()


def test_stacks_hold_one_structure_each_and_every_run_once() -> None:
    runs = Sweep(BASE, {"model.norm": ("pre", "post"), "init.gamma": (0.5, 0.7), "seed": tuple(range(5))}).runs()
    # Two structures of ten runs each; a stack holds at most eight, so that ten become two alike.
    grouped = stacks(runs, memory=2.0**40)
    assert STACK_MEMBERS == 8
    assert [len(stack) for stack in grouped] == [5, 5, 5, 5]
    assert all(len({structure(run) for run in stack}) == 1 for stack in grouped)
    assert [run for norm in ("pre", "post") for stack in grouped for run in stack if run.model.norm == norm] == runs


def test_runs_of_one_structure_share_a_stack_wherever_they_stand() -> None:
    runs = Sweep(BASE, {"seed": (0, 1, 2), "model.norm": ("pre", "post"), "optimizer.lr": (1e-3, 1e-2)}).runs()
    grouped = stacks(runs, memory=2.0**40)
    assert sorted((*{run.model.norm for run in stack}, len(stack)) for stack in grouped) == [("post", 6), ("pre", 6)]


def test_stacks_fit_in_memory() -> None:
    runs = Sweep(BASE, {"seed": tuple(range(7))}).runs()
    each = memory_of_member(runs[0])
    assert [len(stack) for stack in stacks(runs, memory=3.5 * each)] == [2, 2, 3]
    assert [len(stack) for stack in stacks(runs, memory=2 * each)] == [1, 2, 2, 2]  # a lone member takes the room of two
    with pytest.raises(ValueError, match=r"the smallest stack takes .* GiB of memory; allowed here"):
        stacks(runs, memory=1.9 * each)


def refusal(out: Path, sweep: Sweep = SMALL) -> str:
    with pytest.raises(ValueError, match=str(out)) as refused:
        SweepFolder(out, sweep)
    assert not isinstance(refused.value, DamagedRunError)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_folder_of_another_recipe_is_refused_and_kept(tmp_path: Path) -> None:
    SweepFolder(tmp_path / "out", SMALL)
    before = bytes_of(tmp_path)
    other = Sweep(BASE.override({"optimizer.weight_decay": 1.0}), SMALL.axes)
    assert "(optimizer.weight_decay: 0.01 there, 1.0 here)" in refusal(tmp_path / "out", other)
    assert "(steps: 6 there, 7 here)" in refusal(tmp_path / "out", Sweep(BASE.override({"steps": 7}), SMALL.axes))
    assert bytes_of(tmp_path) == before


def test_a_folder_of_other_things_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear to someone")
    assert "is not empty and holds no sweep" in refusal(tmp_path)
    assert bytes_of(tmp_path) == {"thesis.tex": b"dear to someone"}


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refusal(tmp_path / "file" / below)
    assert bytes_of(tmp_path) == {"file": b"not a folder"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[1]", b"{}", b'{"axes": [], "base": 3}', b"[" * 100_000])
def test_a_damaged_marker_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    refusal(tmp_path)
    assert bytes_of(tmp_path) == {"sweep.json": content}


def test_runs_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    SweepFolder(tmp_path, SMALL)
    (tmp_path / "runs").rmdir()
    (tmp_path / "runs").write_text("a file")
    assert "cannot be written" in refusal(tmp_path)


def test_a_folder_is_opened_by_a_version_with_another_field(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same runs, and nothing is trained again."""
    before = bytes_of(sweep / "runs")
    base = TINY.override({"variant": "heldout-both", "model.norm": "pre"})
    narrow = Sweep(base, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})
    monkeypatch.setattr("anchorbench.recipe.Recipe", WiderRecipe)
    monkeypatch.setattr("anchorbench.train.loop.train", lambda *_: pytest.fail("a finished run is trained again"))
    wide = Sweep(WiderRecipe.model_validate(base.model_dump()), narrow.axes)
    runs = run_sweep(wide, SweepFolder(sweep, wide))
    assert [run.result.run_id for run in runs] == [recipe.run_id for recipe in narrow.runs()]
    assert bytes_of(sweep / "runs") == before
    other = Sweep(wide.base.model_copy(update={"jitter": 0.5}), narrow.axes)
    with pytest.raises(ValueError, match=r"belongs to another recipe \(jitter: 0.0 there, 0.5 here\)"):
        SweepFolder(sweep, other)


def test_a_folder_of_other_run_ids_is_refused(sweep: Path, cli: Cli) -> None:
    marker = json.loads((sweep / "sweep.json").read_text())
    del marker["schema"]
    (sweep / "sweep.json").write_text(json.dumps(marker))
    refused = cli(*SWEEP, "--out", sweep)
    require_one_sentence(refused.err)
    assert "a version of anchorbench with other run ids" in refused.err


def test_seeds_are_streams_of_their_own(tmp_path: Path) -> None:
    """Each seed changes what it is the seed of and nothing else; members that differ in it are one condition."""
    base = TINY.override({"variant": "heldout-both", "seed": 5})
    names = ("seed", "init_seed", "data_seed", "order_seed", "noise_seed")
    recipes = [base, *(base.override({name: 7}) for name in names)]
    stack = Stack(recipes)
    initial = [weights.tobytes() for weights in stack.weights.numpy()]
    assert [one == initial[0] for one in initial] == [True, False, False, True, True, True]
    batches = [set(map(tuple, tokens.tolist())) for tokens in stack._batches.batch(1)[0]]
    assert [batch == batches[0] for batch in batches] == [True, False, True, False, False, True]
    examples = [{tuple(row) for row in stack._batches._examples[draw.source][0].tolist()} for draw in stack._batches._draws]
    assert [one == examples[0] for one in examples] == [True, False, True, False, True, True]
    assert [recipe.seeds.noise for recipe in recipes] == [5, 7, 5, 5, 5, 7]
    sweep = Sweep(base, {"init_seed": (0, 1), "data_seed": (0, 1)})
    runs = run_sweep(sweep, SweepFolder(tmp_path / "out", sweep))
    [condition] = conditions(runs)
    assert len(condition.runs) == 4
