"""Training goes on after kill -9 at any moment with the same bits, shares a folder with other processes, and keeps steps."""

import functools
import hashlib
import json
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import TINY, Cli, patch_training, require_one_sentence
from processes import child, environment
from safetensors.torch import load_file

from anchorbench.sweeps.folder import checkpoint_runs
from anchorbench.sweeps.lock import StackLock
from anchorbench.sweeps.run_folder import Run, read_run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.sweeps.store import stack_name
from anchorbench.train.checkpoint import resume
from anchorbench.train.evaluation import evaluation_steps
from anchorbench.train.execution import Execution
from anchorbench.train.stack import Stack

BASE = TINY.override({"variant": "heldout-both", "steps": 16})
SWEEP = Sweep(BASE, {"model.norm": ("pre", "post"), "seed": (0, 1, 2)})
"""Two stacks of three."""
QUICK = {"CHECKPOINT_SECONDS": 0.0, "FIRST_EVALUATION": 2, "EVALUATION_SIZE": 32, "FINAL_SIZE": 60}
"""A checkpoint a step, and small evaluations at many steps."""


class Told(NamedTuple):
    root: Path
    told: dict[str, Any]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One process that is forked for every life, so that torch is imported once."""
    root = tmp_path_factory.mktemp("lives")
    arguments = json.dumps([BASE.model_dump(mode="json"), SWEEP.axes, QUICK])
    done = subprocess.run(
        child("killed_sweeps", root, arguments),
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return Told(root, json.loads(done.stdout))


def contents(out: Path) -> dict[str, Any]:
    """All that a sweep's runs hold, seconds aside: name -> content."""
    found: dict[str, Any] = {}
    for folder in sorted(path for path in (out / "runs").iterdir() if not path.name.startswith(".")):
        assert read_run(folder).result.seconds > 0  # whole, or it raises
        for path in folder.iterdir():
            found[f"{folder.name}/{path.name}"] = path.read_bytes() if path.suffix != ".json" else json.loads(path.read_bytes())
        del found[f"{folder.name}/result.json"]["seconds"], found[f"{folder.name}/digests.json"]["result.json"]
    return found


def require_the_same(out: Path, plain: Path) -> None:
    """Weights, trajectories and results are those of the uninterrupted sweep; no checkpoint is left, and no lock that holds."""
    found, expected = contents(out), contents(plain)
    assert found.keys() == expected.keys()
    assert len(expected) == 5 * len(SWEEP.runs())
    for name, content in expected.items():
        assert found[name] == content, name
    assert list((out / "checkpoints").iterdir()) == []
    run_ids = [recipe.run_id for recipe in SWEEP.runs()]
    lock = StackLock.acquire(out / "locks" / "another", run_ids)
    assert lock is not None
    assert lock.owner.runs == tuple(run_ids)
    lock.release()
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["run_id"] for line in lines] == [recipe.run_id for recipe in SWEEP.runs()]


@pytest.fixture
def plain(lives: Told) -> Path:
    return lives.root / "plain"


def test_the_uninterrupted_sweep_is_worth_comparing(plain: Path, quick: None) -> None:
    require_the_same(plain, plain)
    runs = [read_run(plain / "runs" / recipe.run_id) for recipe in SWEEP.runs()]
    assert len({(run.path / "weights.safetensors").read_bytes() for run in runs}) == 6
    for run in runs:
        steps = [point["step"] for point in run.trajectory()]
        assert steps == sorted(evaluation_steps(run.recipe))
        assert len(steps) > 5


@pytest.mark.parametrize("seed", range(2))
def test_random_kills_change_nothing(lives: Told, plain: Path, seed: int) -> None:
    kinds = lives.told[f"random {seed}"]
    assert len(kinds) >= 5
    assert len({kind for other in range(2) for kind in lives.told[f"random {other}"]}) >= 3  # in moments of several kinds
    require_the_same(lives.root / f"random {seed}", plain)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_kill_between_the_writes_of_two_members_changes_nothing(lives: Told, plain: Path, checkpoint: bool) -> None:
    """One of three is written; the others go on from the stack's checkpoint, or are trained again as a stack of two."""
    name = "after one" if checkpoint else "after one, no checkpoint"
    code, left, steps = lives.told[name]
    assert code == -signal.SIGKILL
    results = [path for path in left if path.startswith("runs/") and path.endswith("/result.json")]
    assert len([path for path in results if not path.startswith("runs/.")]) == 1
    assert list(steps.values()) == ([BASE.steps] if checkpoint else [])
    require_the_same(lives.root / name, plain)


@pytest.mark.parametrize("moment", ["before the rename", "before all is on disk"])
def test_a_kill_while_saving_leaves_the_checkpoint_before(lives: Told, plain: Path, moment: str) -> None:
    code, left, steps = lives.told[moment]
    assert code == -signal.SIGKILL
    assert list(steps.values()) == [4]  # of the fifth there is only a file of another name
    assert any(path.startswith("checkpoints/.") for path in left)
    require_the_same(lives.root / moment, plain)


def logged(root: Path, *names: str) -> list[list[str]]:
    return [words for line in (root / "log").read_text().splitlines() if (words := line.split())[0] in names]


def test_two_processes_at_once_train_each_run_once(lives: Told, plain: Path) -> None:
    assert lives.told["at once"] == [0, 0]
    written = logged(lives.root, "one", "other")
    assert Counter(run_id for _, run_id in written) == Counter(recipe.run_id for recipe in SWEEP.runs())
    assert {name for name, _ in written} == {"one", "other"}
    for name in ("one", "other"):
        assert json.loads((lives.root / f"at once.{name}").read_text()) == [recipe.run_id for recipe in SWEEP.runs()]
    require_the_same(lives.root / "at once", plain)


def test_the_locks_of_a_killed_process_are_taken_over(lives: Told, plain: Path) -> None:
    second, first, locks = lives.told["taken over"]
    assert (second, first) == (0, -signal.SIGKILL)
    stack = [recipe.run_id for recipe in SWEEP.runs() if recipe.model.norm == "pre"]
    assert [stack_name(stack)] == locks
    assert Counter(run_id for _, run_id in logged(lives.root, "first", "second")) == Counter(r.run_id for r in SWEEP.runs())
    assert {name for name, _ in logged(lives.root, "first", "second")} == {"second"}
    found, begun = json.loads((lives.root / "taken over.second").read_text())
    assert found == [recipe.run_id for recipe in SWEEP.runs()]
    assert begun == [5]  # goes on from the first one's checkpoint
    require_the_same(lives.root / "taken over", plain)


def test_two_processes_may_make_the_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other makes it just after this one has looked whether it is there."""
    real, others = Path.exists, []

    def exists(path: Path, **options: Any) -> bool:
        answer = real(path, **options)
        if path.name == "sweep.json" and not others:
            others.append(None)
            SweepFolder(tmp_path / "out", SWEEP)
        return answer

    monkeypatch.setattr(Path, "exists", exists)
    SweepFolder(tmp_path / "out", SWEEP)
    assert others
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["axes"] == list(SWEEP.axes)


# Damaged checkpoints


class StoppedError(Exception):
    """What ends a sweep in a test."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    patch_training(monkeypatch, **QUICK)
    yield
    torch.set_num_threads(threads)


ONE = Sweep(BASE, {"seed": (0, 1)})
Stop = Callable[..., Path]
Weights = list[dict[str, bytes]]


@pytest.fixture
def stopped(quick: None, tmp_path: Path) -> Stop:
    """Stops a sweep in a step, before it is saved; gives its folder's only checkpoint, which is of the step before."""

    def stop(sweep: Sweep = ONE, step: int = 5, keep_steps: tuple[int, ...] = (), out: str = "out") -> Path:
        def report(event: Progress) -> None:
            if event.step == step:
                raise StoppedError

        with pytest.raises(StoppedError):
            run_sweep(sweep, SweepFolder(tmp_path / out, sweep), report, Execution(keep_steps=keep_steps))
        [path] = (tmp_path / out / "checkpoints").iterdir()
        return path

    return stop


def weights_of(runs: list[Run], step: int | None = None) -> Weights:
    return [{name: tensor.numpy().tobytes() for name, tensor in run.weights(step).items()} for run in runs]


def finish(out: Path, keep_steps: tuple[int, ...] = (), sweep: Sweep = ONE) -> tuple[list[Run], list[int]]:
    """Runs the sweep to its end; gives its runs and the steps that were trained."""
    steps: list[int] = []
    runs = run_sweep(sweep, SweepFolder(out, sweep), lambda event: steps.append(event.step), Execution(keep_steps=keep_steps))
    return runs, [step for step in dict.fromkeys(steps) if step]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """The weights of the sweep ONE, trained without an interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, **QUICK)
        return weights_of(finish(tmp_path_factory.mktemp("whole"))[0])


def test_a_whole_checkpoint_is_gone_on_from(stopped: Stop, whole: Weights) -> None:
    path = stopped()
    assert checkpoint_runs(path) == [recipe.run_id for recipe in ONE.runs()]
    runs, steps = finish(path.parent.parent)
    assert steps == list(range(5, 17))
    assert weights_of(runs) == whole
    assert list(path.parent.iterdir()) == []


def truncated(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": truncated(0),
    "4 bytes": lambda content: content[:4],
    "a length and no header": lambda content: content[:8],
    "half a header": lambda content: content[: 8 + struct.unpack("<Q", content[:8])[0] // 2],
    "a header": lambda content: content[: 8 + struct.unpack("<Q", content[:8])[0]],
    "half": truncated(0.5),
    "all but a byte": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "a header of the largest length": lambda content: b"\xff" * 8 + content[8:],
    "another step": lambda content: content.replace(b'\\"step\\": 4, \\"machines', b'\\"step\\": 3, \\"machines'),
    "another type": lambda content: content.replace(b'"F32"', b'"I32"', 1),
    "another name": lambda content: content.replace(b'"optimizer.exp_avg"', b'"optimizer.exp_awg"', 1),
    "another run": lambda content: content.replace(ONE.runs()[0].run_id.encode(), b"0" * 16),
    "a weight's lowest bit": lambda content: content[:-4] + bytes([content[-4] ^ 1]) + content[-3:],
}


def test_a_damaged_checkpoint_is_refused(stopped: Stop) -> None:
    path = stopped()
    content = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(content))
        assert path.read_bytes() != content, name
        with pytest.raises(ValueError, match=r"^checkpoint [^\n]* is damaged$"):
            resume(ONE.runs(), path)


@pytest.mark.parametrize("name", ["half", "another step"])
def test_training_with_a_damaged_checkpoint_starts_over(name: str, stopped: Stop, whole: Weights) -> None:
    path = stopped()
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    runs, steps = finish(path.parent.parent)
    assert steps == list(range(1, 17))
    assert weights_of(runs) == whole
    assert list(path.parent.iterdir()) == []


def test_no_flipped_bit_goes_unnoticed(stopped: Stop) -> None:
    """One bit in every seventh byte of the header's first thousand, and in some of the rest."""
    path = stopped()
    content = path.read_bytes()
    places = [*range(0, 1000, 7), *range(1000, len(content), len(content) // 50)]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"^checkpoint [^\n]* is damaged$"):
            resume(ONE.runs(), path)


def test_another_stacks_checkpoint_is_not_gone_on_from(stopped: Stop, whole: Weights, tmp_path: Path) -> None:
    path = stopped()
    another = stopped(Sweep(BASE.override({"optimizer.lr": 0.1}), ONE.axes), out="another")
    path.write_bytes(another.read_bytes())
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]* belongs to another stack$"):
        resume(ONE.runs(), path)
    runs, steps = finish(path.parent.parent)
    assert steps == list(range(1, 17))
    assert weights_of(runs) == whole


def test_checkpoints_of_a_larger_sweep_stay(stopped: Stop, tmp_path: Path) -> None:
    """A stack of three seeds is stopped; a call for the first seed alone trains that and leaves the checkpoint to the others."""
    three = Sweep(BASE, {"seed": (0, 1, 2)})
    path = stopped(three)
    before = path.read_bytes()
    one = Sweep(BASE, {"seed": (0,)})
    [run], steps = finish(tmp_path / "out", sweep=one)
    assert steps == list(range(1, 17))
    assert [left.read_bytes() for left in path.parent.iterdir()] == [before]
    runs, steps = finish(tmp_path / "out", sweep=three)
    assert steps == list(range(5, 17))
    assert weights_of([run]) == weights_of(runs)[:1]
    assert list(path.parent.iterdir()) == []


def test_members_that_ended_early_stay_ended(stopped: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three ends at step 8; the sweep is stopped in step 12, of the two that are left."""
    monkeypatch.setattr(Stack, "settled", lambda self, member: self.step == 8 and self.recipes[member].seed == 1)
    three = Sweep(BASE.override({"stop": "settled"}), {"seed": (0, 1, 2)})
    expected, _ = finish(tmp_path / "whole", sweep=three)
    assert [run.result.steps_trained for run in expected] == [16, 8, 16]
    stopped(three, step=12)
    runs, steps = finish(tmp_path / "out", sweep=three)
    assert steps == list(range(12, 17))
    assert weights_of(runs) == weights_of(expected)
    assert [run.trajectory() for run in runs] == [run.trajectory() for run in expected]


def test_a_lost_lock_ends_in_whole_runs(quick: None, tmp_path: Path, whole: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run's lock is said to be lost when it is to be written: it is not written, but trained again."""
    answers = iter([False])
    monkeypatch.setattr(StackLock, "still_mine", lambda self, real=StackLock.still_mine: next(answers, True) and real(self))
    runs, _ = finish(tmp_path / "out")
    assert weights_of(runs) == whole


# Steps that are kept


@functools.cache
def advanced(steps: int) -> Weights:
    """The sweep ONE's weights after so many steps, by hand."""
    stack = Stack(ONE.runs())
    for _ in range(steps):
        stack.advance()
    return [
        {name: weight[member].detach().numpy().tobytes() for name, weight in stack.model.named_parameters()} for member in (0, 1)
    ]


def test_kept_steps_are_those_of_a_run_stopped_there(quick: None, tmp_path: Path, whole: Weights) -> None:
    runs, _ = finish(tmp_path / "out", keep_steps=(3, 10))
    assert weights_of(runs) == whole
    for run in runs:
        assert run.result.kept_steps == [3, 10]
        assert {path.name for path in run.path.glob("weights*")} == {
            "weights.safetensors", "weights-3.safetensors", "weights-10.safetensors"
        }  # fmt: skip
    for step in (3, 10):
        assert weights_of(runs, step) == advanced(step)
        assert weights_of(runs, step) != whole


@pytest.mark.parametrize(("before", "begins"), [((), 1), ((10,), 1), ((3,), 5), ((3, 10), 5)])
def test_kept_steps_survive_an_interruption(stopped: Stop, before: tuple[int, ...], begins: int) -> None:
    """Stopped in step 5 while keeping `before`, then steps 3 and 10 are asked for: if 3 was not kept, it is trained again."""
    path = stopped(keep_steps=before)
    runs, steps = finish(path.parent.parent, keep_steps=(3, 10))
    assert steps == list(range(begins, 17))
    for step in (3, 10):
        assert weights_of(runs, step) == advanced(step)


def test_a_finished_sweep_asked_for_steps_trains_again_and_keeps_them(quick: None, tmp_path: Path, whole: Weights) -> None:
    out = tmp_path / "out"
    assert [run.result.kept_steps for run in finish(out)[0]] == [[], []]
    assert finish(out)[1] == []
    runs, steps = finish(out, keep_steps=(4,))
    assert steps == list(range(1, 17))
    assert weights_of(runs) == whole
    assert weights_of(runs, 4) == advanced(4)
    assert finish(out, keep_steps=(4,))[1] == []
    again, steps = finish(out)
    assert steps == []
    assert [run.result.kept_steps for run in again] == [[4], [4]]


def test_a_member_that_ended_before_a_kept_step_is_not_trained_again(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "settled", lambda self, member: self.step >= 8)
    sweep = Sweep(BASE.override({"stop": "settled"}), ONE.axes)
    runs, _ = finish(tmp_path / "out", keep_steps=(3, 14), sweep=sweep)
    assert [(run.result.steps_trained, run.result.kept_steps) for run in runs] == [(8, [3])] * 2
    assert finish(tmp_path / "out", keep_steps=(3, 14), sweep=sweep)[1] == []


RUN = ("run", "--precision", "fp32", "--gamma", "0.5", "--seeds", "1")


def test_kept_steps_are_exported(cli: Cli, quick: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli(*RUN, "--keep-steps", "2,4", "--out", out).code == 0
    [folder] = (out / "runs").iterdir()
    exported: dict[int | None, dict[str, torch.Tensor]] = {}
    for step in (2, 4, None):
        target = tmp_path / f"exported-{step}"
        shown = cli("export", folder, target, *(() if step is None else ("--step", step)))
        assert (shown.code, shown.err) == (0, "")
        exported[step] = load_file(target / "model.safetensors")
    run = read_run(folder)
    for step, tensors in exported.items():
        own = run.weights(step)
        assert torch.equal(tensors["transformer.wte.weight"], own["token_embedding"])
        assert torch.equal(tensors["transformer.ln_f.bias"], own["final_norm.bias"])
    hashes = {hashlib.sha256(str(sorted(map(str, tensors.values()))).encode()).hexdigest() for tensors in exported.values()}
    assert len(hashes) == 3

    for step in ("3", "0", "-2", "999999"):
        refused = cli("export", folder, tmp_path / "refused", "--step", step)
        assert refused.code == 2
        require_one_sentence(refused.err)
        assert f"step is {step}" in refused.err
        assert "2, 4" in refused.err
        assert not (tmp_path / "refused").exists()


def test_a_damaged_kept_step_is_one_sentence_and_trained_again(cli: Cli, quick: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli(*RUN, "--keep-steps", "2", "--out", out)
    [folder] = (out / "runs").iterdir()
    kept = (folder / "weights-2.safetensors").read_bytes()
    (folder / "weights-2.safetensors").write_bytes(kept[:-1])
    refused = cli("export", folder, tmp_path / "exported", "--step", "2")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "weights-2.safetensors is damaged" in refused.err
    cli("sweep", "reindex", out)
    assert cli(*RUN, "--keep-steps", "2", "--out", out).code == 0
    assert (folder / "weights-2.safetensors").read_bytes() == kept


@pytest.mark.parametrize("steps", ["0", "6", "7", "-1", "2,0", "two", "", "1.5", "2,,3"])
def test_steps_that_make_no_sense_are_one_sentence(cli: Cli, tmp_path: Path, steps: str) -> None:
    refused = cli(*RUN, "--keep-steps", steps, "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "keep-steps" in refused.err
    assert "allowed" in refused.err
    assert not (tmp_path / "out").exists()
