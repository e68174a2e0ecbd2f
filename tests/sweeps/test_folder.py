"""An output folder with things in the way: found before training, gone around or cleaned up; nothing finished is lost."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, patch_training

from anchorbench.sweeps import folder as module
from anchorbench.sweeps.failures import FailedStacksError
from anchorbench.sweeps.folder import LEFTOVERS
from anchorbench.sweeps.lock import STALE, StackLock
from anchorbench.sweeps.run_folder import DamagedRunError, read_run
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, run_sweep
from anchorbench.train.stack import Member

TWO_STACKS = Sweep(TINY.override({"variant": "heldout-both"}), {"model.norm": ("pre", "post"), "seed": (0, 1)})
RECIPES = TWO_STACKS.runs()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_training(monkeypatch, CHECKPOINT_SECONDS=0.0, EVALUATION_SIZE=32, FINAL_SIZE=60)


def finish(out: Path, at_step: Callable[[Progress], None] = lambda event: None) -> tuple[dict[str, bytes], list[str], int]:
    """Runs the sweep; gives each run's weights, what was said, and how many steps were trained."""
    said: list[str] = []
    steps = 0

    def report(event: Progress) -> None:
        nonlocal steps
        steps += event.step > 0 and event.finished is None
        said.extend(filter(None, [event.message]))
        at_step(event)

    runs = run_sweep(TWO_STACKS, SweepFolder(out, TWO_STACKS), report)
    return {run.result.run_id: (run.path / "weights.safetensors").read_bytes() for run in runs}, said, steps


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, FINAL_SIZE=60)
        run_sweep(TWO_STACKS, SweepFolder(out, TWO_STACKS))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture(scope="module")
def weights(finished: Path) -> dict[str, bytes]:
    return {recipe.run_id: (finished / "runs" / recipe.run_id / "weights.safetensors").read_bytes() for recipe in RECIPES}


# Checkpoints that cannot be saved


def full(out: Path, patch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int, real: Callable[[int], None] = os.fsync) -> None:
        if "checkpoints" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    patch.setattr(os, "fsync", fsync)


def removed(out: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(out / "checkpoints")


def a_file(out: Path, patch: pytest.MonkeyPatch) -> None:
    removed(out, patch)
    (out / "checkpoints").touch()


def folders(out: Path, patch: pytest.MonkeyPatch) -> None:
    for stack in (RECIPES[:2], RECIPES[2:]):
        (SweepFolder(out, TWO_STACKS).checkpoint(stack) / "inside").mkdir(parents=True)


@pytest.mark.parametrize("hinder", [full, removed, a_file, folders])
def test_a_checkpoint_that_cannot_be_saved_is_said_once(
    tmp_path: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, hinder: Callable[..., None]
) -> None:
    """It fails after every step of two stacks."""
    out = tmp_path / "out"
    begun: list[int] = []

    def begin(event: Progress) -> None:
        if event.step == 1 and not begun:
            begun.append(1)
            hinder(out, monkeypatch)

    trained, said, steps = finish(out, begin)
    assert trained == weights
    assert steps == 2 * TINY.steps
    damaged = [sentence for sentence in said if sentence.startswith("starting over: ")]
    assert len(damaged) == (hinder is folders)  # the second stack finds a folder where its checkpoint would be
    [sentence] = [sentence for sentence in said if sentence not in damaged]
    assert sentence.startswith(f"training continues without checkpoints: {out / 'checkpoints'} cannot be written (")


# Something in a run's place


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    "block",
    [Path.touch, link_to("/etc"), link_to("/etc/hostname"), link_to("nowhere"), os.mkfifo],
    ids=["file", "link to a folder", "link to a file", "dangling link", "pipe"],
)
def test_a_run_that_could_not_be_written_is_found_before_training(out: Path, block: Callable[[Path], None]) -> None:
    path = out / "runs" / RECIPES[2].run_id
    shutil.rmtree(path)
    shutil.rmtree(out / "runs" / RECIPES[0].run_id)
    block(path)
    before = os.lstat(path)[:3]
    with pytest.raises(ValueError, match=f"{RECIPES[2].run_id} is a link or file in the place of a run folder; remove it"):
        finish(out, lambda event: pytest.fail(f"it trains: {event}"))
    assert os.lstat(path)[:3] == before  # kind, inode and device
    for recipe in (RECIPES[1], RECIPES[3]):
        read_run(out / "runs" / recipe.run_id)
    path.unlink()
    assert finish(out)[2] > 0


def test_a_link_to_a_finished_run_will_do(out: Path, tmp_path: Path, weights: dict[str, bytes]) -> None:
    path = out / "runs" / RECIPES[0].run_id
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert finish(out) == (weights, [], 0)


@pytest.mark.parametrize("name", ["runs", "checkpoints", "locks", "sweep.json"])
def test_a_file_or_folder_of_another_kind_is_named_before_training(out: Path, name: str) -> None:
    shutil.rmtree(out / "runs" / RECIPES[0].run_id)
    if name == "sweep.json":
        (out / name).unlink()
        (out / name).mkdir()
    else:
        shutil.rmtree(out / name)
        (out / name).touch()
    with pytest.raises((ValueError, OSError)) as refused:
        finish(out, lambda event: pytest.fail(f"it trains: {event}"))
    assert str(out / name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_run_that_cannot_be_written_costs_no_other(
    tmp_path: Path, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stack's first member meets a full disk; the second member is written, and the next call goes on with the first."""
    out = tmp_path / "out"
    real = module.write_run

    def write_run(folder: Path, member: Member, confirm: Callable[[], None]) -> None:
        if folder.name == RECIPES[0].run_id:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(folder, member, confirm)

    with (
        monkeypatch.context() as patch,
        pytest.raises(FailedStacksError, match=r"1 stack failed, and 1 run is missing: .*No space left"),
    ):
        patch.setattr(module, "write_run", write_run)
        finish(out)
    assert read_run(out / "runs" / RECIPES[1].run_id).result.run_id == RECIPES[1].run_id
    trained, _, steps = finish(out)
    assert trained == weights
    assert steps < 2 * TINY.steps  # the first stack was saved just before its end


# What kills left behind

HALF_WRITTEN = {
    "runs/.0123456789abcdef.1a2b3c4d",
    "runs/.0123456789abcdef.tmp_x1y2",
    "checkpoints/.0123456789abcdef.safetensors.1a2b3c4d",
    ".sweep.json.1a2b3c4d",
    ".results.jsonl.1a2b3c4d",
    ".results.csv.tmp_x1y2",
    ".phase.png.1a2b3c4d",
    ".attention_flow.svg.1a2b3c4d",
    ".report.html.1a2b3c4d",
    ".boundary.json.1a2b3c4d",
    ".plan.json.1a2b3c4d",
    "index/.0-1a2b3c4d.parquet.1a2b3c4d",
    "failed/.0123456789abcdef.json.1a2b3c4d",
    "stacks/01/.0123456789abcdef.1a2b3c4d",
    "stacks/index/.0-00-1a2b3c4d.parquet.1a2b3c4d",
    "forecasts/.0123456789abcdef.json.1a2b3c4d",
    "recut/.0123456789abcdef.json.1a2b3c4d",
    "locks/.asked-0123456789abcdef",
}
OWN = {".notes", ".git/config", ".results", "phase.of.last.week.png", "runs/.keep", "runs/notes.txt", "checkpoints/mine.pt"}


def litter(out: Path, age: float) -> None:
    for name in HALF_WRITTEN | OWN:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith(("runs/.0", "stacks/01/.0")):
            path.mkdir()
            (path / "recipe.json").touch()
        else:
            path.touch()
        os.utime(path, (time.time() - age,) * 2)


def left(out: Path, names: set[str]) -> set[str]:
    return {name for name in names if (out / name).exists()}


@pytest.mark.parametrize("age", [STALE + 60, -STALE - 60])
def test_what_kills_left_behind_is_removed_and_nothing_else(out: Path, age: float) -> None:
    litter(out, age)
    lock = StackLock.acquire(out / "locks" / "of-another-sweep")
    assert lock is not None
    lock.release()
    lock.path.write_text(lock.owner.model_copy(update={"born": "long ago"}).model_dump_json())
    assert finish(out)[1:] == ([], 0)
    assert left(out, HALF_WRITTEN) == set()
    assert left(out, OWN) == OWN
    assert [path.name for path in (out / "locks").iterdir()] == [".guard"]


def test_nothing_is_removed_while_somebody_trains(out: Path) -> None:
    litter(out, STALE + 60)
    lock = StackLock.acquire(out / "locks" / "another's")
    assert lock is not None
    with lock:
        finish(out)
        assert left(out, HALF_WRITTEN) == HALF_WRITTEN
    finish(out)
    assert left(out, HALF_WRITTEN) == set()


def test_what_may_be_written_at_this_moment_stays(out: Path) -> None:
    """Tables and figures are written by processes that hold no lock any more."""
    litter(out, 0)
    finish(out)
    assert left(out, HALF_WRITTEN) == {name for name in HALF_WRITTEN if "/" not in name}


def test_every_leftover_is_tried() -> None:
    for pattern in LEFTOVERS:
        assert any(Path(name).match(pattern) for name in HALF_WRITTEN), pattern


def test_a_folder_that_is_a_file_system_of_its_own(tmp_path: Path) -> None:
    """It is there already, and holds the file system's own folder."""
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    SweepFolder(tmp_path / "out", TWO_STACKS)
    SweepFolder(tmp_path / "out", TWO_STACKS)
    (tmp_path / "other" / "lost").mkdir(parents=True)
    with pytest.raises(ValueError, match="is not empty and holds no sweep"):
        SweepFolder(tmp_path / "other", TWO_STACKS)


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is mounted read-only, whatever its permissions say."""

    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir / "x"))

    SweepFolder(tmp_path / "out", TWO_STACKS)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match=r"out/runs/x cannot be written: Read-only file system; choose another --out"):
        SweepFolder(tmp_path / "out", TWO_STACKS)
    with pytest.raises(DamagedRunError):
        read_run(tmp_path / "out" / "runs")
