"""The lock of a run: two processes never hold it at once, and a dead owner does not keep it."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from processes import child, environment

from anchorbench.sweeps import lock as module
from anchorbench.sweeps.lock import HEARTBEAT, STALE, Owner, StackLock, living, nobody_inside


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.lock"


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    with subprocess.Popen(child("hold_lock", path), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert Owner.model_validate_json(process.stdout.readline()).pid == process.pid
        yield process
        process.kill()


def forge(path, *, age=0.0, **changes):
    """Rewrites the lock as another owner's whose last heartbeat is `age` seconds old; what is not changed is of this process."""
    own = StackLock.acquire(path.with_name("own.lock"))
    own.release()
    path.write_text(own.owner.model_copy(update={"token": "another's", **changes}).model_dump_json())
    grow_old(path, age)


def grow_old(path, age):
    os.utime(path, (time.time() - age,) * 2)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "anchorbench heartbeat"]


def test_held_until_released(path):
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()
        assert StackLock.acquire(path) is None
        known = Owner.model_validate_json(path.read_text())
        assert known == lock.owner
        assert known.pid == os.getpid()
        assert abs((datetime.now(UTC) - known.started).total_seconds()) < 60
    assert not path.exists()
    assert not lock.still_mine()
    lock.release()  # twice does no harm
    with StackLock.acquire(path) as again:
        assert again.owner.token != lock.owner.token


def test_processes_exclude_each_other(tmp_path, dead):
    for name in range(3):
        (tmp_path / f"{name}.count").write_text("0")
    workers = [subprocess.Popen(child("hammer_locks", tmp_path, dead, seed), env=environment()) for seed in range(3)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    assert sum(int((tmp_path / f"{name}.count").read_text()) for name in range(3)) == 3 * 30


def test_threads_exclude_each_other(path, dead):
    for turn in range(12):
        if turn % 3:
            forge(path, pid=dead)
        barrier, taken = threading.Barrier(4), []

        def take(barrier=barrier, taken=taken):
            barrier.wait()
            taken.append(StackLock.acquire(path))

        takers = [threading.Thread(target=take) for _ in range(4)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        (lock,) = [lock for lock in taken if lock is not None]
        assert lock.still_mine()
        lock.release()


def test_killed_owner(path, holder):
    assert StackLock.acquire(path) is None
    grow_old(path, STALE + 1000)  # alive but silent, as after a laptop's sleep: it keeps its lock
    assert StackLock.acquire(path) is None
    holder.send_signal(signal.SIGSTOP)
    assert StackLock.acquire(path) is None
    grow_old(path, 0)  # its last heartbeat is fresh, but it is dead
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # ended, and its parent has not asked yet
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()
    forge(path, pid=holder.pid)
    holder.wait()
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()


def test_number_used_by_a_later_process(path):
    forge(path, born="1")  # our number, but of a process that began at another time
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()


@pytest.mark.parametrize(
    "changes",
    [{"host": "another"}, {"host": "another", "pid": 2**31 - 1}, {"born": None}],
    ids=["another machine", "unknown number there", "beginning unknown"],
)
def test_unseen_process_lives_by_its_heartbeat(path, changes):
    """One in the future is as dead as one of the past: a clock was set back, by hours or years."""
    for age in (STALE - 30, 30 - STALE, 0):
        forge(path, age=age, **changes)
        assert StackLock.acquire(path) is None
    for age in (STALE + 30, -STALE - 30, -3600, -1e9):
        forge(path, age=age, **changes)
        with StackLock.acquire(path) as lock:
            assert lock.still_mine()


def test_a_clock_that_jumps_takes_no_living_lock_of_this_machine(path, holder):
    for jump in (-1e9, -3600, 3600, 1e9):
        grow_old(path, jump)
        assert StackLock.acquire(path) is None


def test_a_beginning_is_known_without_proc(path, monkeypatch):
    """As on macOS: the same for a process at every call, and not that of another process."""
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(FileNotFoundError))
    own, parent = (module._born(pid) for pid in (os.getpid(), os.getppid()))
    assert own == module._born(os.getpid())
    assert None not in (own, parent)
    assert own != parent
    assert module._born(2**31 - 1) is None


def fill_soft(guard):
    """What a library that falls back to a lock by existence leaves behind when it is killed."""
    guard.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")


def fill_nothing(guard):
    guard.touch()
    grow_old(guard, 10**6)


@pytest.mark.parametrize("leftover", [None, fill_soft, fill_nothing])
@pytest.mark.parametrize("number", [None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_with_and_without_flock(path, monkeypatch, recwarn, dead, number, leftover):
    """The file system has no flock in one of three ways, or has it again; a guard of before holds nothing."""

    def missing(handle, operation):
        raise OSError(number, os.strerror(number))

    if leftover:
        leftover(path.with_name(".guard"))
    if number:
        monkeypatch.setattr("fcntl.flock", missing)
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()
        assert StackLock.acquire(path) is None
    assert not path.exists()
    forge(path, pid=dead)
    with StackLock.acquire(path) as lock:
        assert lock.still_mine()
    with nobody_inside(path.parent) as now:
        assert abs(time.time() - now) < 60
    assert list(recwarn) == []


def test_no_run_is_in_two_locks(tmp_path):
    """However stacks are cut, a lock covers what no living one does; the dead one's runs are free."""
    one = StackLock.acquire(tmp_path / "one", ["a", "b"])
    two = StackLock.acquire(tmp_path / "two", ["b", "c", "a", "d"])
    assert (one.owner.runs, two.owner.runs) == (("a", "b"), ("c", "d"))
    assert StackLock.acquire(tmp_path / "three", ["d", "a"]) is None
    assert set(living(tmp_path)) == {"one", "two"}
    one.release()
    with StackLock.acquire(tmp_path / "three", ["d", "a"]) as three:
        assert three.owner.runs == ("a",)
    two.path.write_text(two.owner.model_copy(update={"born": "long ago"}).model_dump_json())
    assert living(tmp_path) == {}
    two.release()
    with StackLock.acquire(tmp_path / "three", ["d", "a"]) as three:
        assert three.owner.runs == ("d", "a")


@pytest.mark.parametrize("number", [None, errno.ENOLCK])
def test_a_higher_attempt_takes_over_at_once(path, holder, monkeypatch, number):
    """From a living process, with and without flock; the same attempt or a lower one does not."""

    def missing(handle, operation):
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr("fcntl.flock", missing)
    assert StackLock.acquire(path, attempt=0) is None
    first = StackLock.acquire(path, attempt=1)
    assert first.owner.attempt == 1
    for attempt in (None, 0, 1):
        assert StackLock.acquire(path, attempt=attempt) is None
    second = StackLock.acquire(path, attempt=2)
    assert [lock.still_mine() for lock in (first, second)] == [False, True]
    first.release()
    assert second.still_mine()
    second.release()
    assert not path.exists()


def test_the_attempt_of_a_dead_owner_is_not_forgotten(path, dead):
    """Who takes over without a number fences the dead one's coordinator no less than the dead one did."""
    forge(path, pid=dead, attempt=3)
    with StackLock.acquire(path) as lock:
        assert lock.owner.attempt == 3
        assert StackLock.acquire(path, attempt=3) is None


def test_another_failure_of_the_guard_is_told(path, monkeypatch):
    def broken(handle, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        StackLock.acquire(path)
    assert not path.exists()


def test_a_lock_that_cannot_be_removed_harms_nobody(path, monkeypatch):
    """The disk is read-only by now: the lock dies with its process."""
    lock = StackLock.acquire(path)

    @contextmanager
    def read_only(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        yield

    monkeypatch.setattr(module, "_guard", read_only)
    lock.release()
    assert path.exists()
    assert threads() == []


def test_another_users_process(path, monkeypatch):
    """Its number is in use, but neither a signal nor its beginning tells more: only the heartbeat counts."""

    def refuse(pid, number):
        raise PermissionError

    forge(path, age=STALE - 30)
    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(module, "_born", lambda pid: None)
    assert StackLock.acquire(path) is None
    grow_old(path, STALE + 30)
    StackLock.acquire(path).release()


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_file_that_names_no_owner(path, keep):
    forge(path)
    path.write_bytes(path.read_bytes()[:keep])
    assert StackLock.acquire(path) is None  # perhaps it is being written
    grow_old(path, STALE + 30)
    with StackLock.acquire(path) as lock:
        assert Owner.model_validate_json(path.read_text()) == lock.owner


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"null", b'{"pid": -1}', b"[" * 100_000])
def test_other_content(path, content):
    path.write_bytes(content)
    grow_old(path, STALE - 30)
    assert StackLock.acquire(path) is None
    grow_old(path, STALE + 30)
    StackLock.acquire(path).release()
    assert not path.exists()


def test_lost_lock(path):
    lost = StackLock.acquire(path)
    forge(path, age=STALE + 30, host="another")
    assert not lost.still_mine()
    with StackLock.acquire(path) as lock:
        lost.release()
        assert lock.still_mine()
        assert path.exists()


def test_lost_while_releasing(path, monkeypatch):
    lost = StackLock.acquire(path)

    @contextmanager
    def slow_guard(folder):
        """Another owner takes the lock over while the guard is waited for."""
        monkeypatch.undo()
        forge(path, host="another")
        yield 0.0

    monkeypatch.setattr(module, "_guard", slow_guard)
    lost.release()
    assert Owner.model_validate_json(path.read_text()).host == "another"


def test_another_machine_is_faster(path, monkeypatch):
    """Its guard does not reach here: the lock appears after ours was found free."""
    monkeypatch.setattr(type(path), "unlink", lambda file, missing_ok=False: file.write_text("another's"))
    assert StackLock.acquire(path) is None
    assert path.read_text() == "another's"
    assert threads() == []


def test_clock_is_the_file_systems(path, monkeypatch):
    """A machine whose clock is an hour ahead does not take a lock that is fresh."""
    forge(path, host="another")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert StackLock.acquire(path) is None


def test_heartbeat(path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.001)
    other = path.with_name("other.lock")
    with StackLock.acquire(path), StackLock.acquire(other):
        assert len(threads()) == 1
        for file in (path, other):
            grow_old(file, 1000)
            deadline = time.monotonic() + 20
            while time.time() - file.stat().st_mtime > 500:
                assert time.monotonic() < deadline
        forge(path, age=1000, host="another")  # taken over: its heartbeat is not ours
        grow_old(other, 1000)
        while time.time() - other.stat().st_mtime > 500:
            assert time.monotonic() < deadline
        assert time.time() - path.stat().st_mtime > 500
    assert threads() == []
    assert path.exists()
    assert not other.exists()


def test_no_thread_is_left(path):
    first, second = StackLock.acquire(path), StackLock.acquire(path.with_name("second.lock"))
    assert len(threads()) == 1
    first.release()
    assert len(threads()) == 1
    begun = time.monotonic()
    second.release()
    assert threads() == []
    assert time.monotonic() - begun < HEARTBEAT / 2  # nobody waits for the next beat


def test_full_disk_leaves_no_lock(path, monkeypatch):
    def full(owner):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Owner, "model_dump_json", full)
    with pytest.raises(OSError, match="No space left"):
        StackLock.acquire(path)
    monkeypatch.undo()
    StackLock.acquire(path).release()


def test_folder_is_made_and_may_go(tmp_path):
    folder = tmp_path / "new" / "locks"
    lock = StackLock.acquire(folder / "run.lock")
    assert lock.still_mine()
    shutil.rmtree(folder)
    assert not lock.still_mine()
    lock.release()
    assert not folder.exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        StackLock.acquire(tmp_path / "file" / "run.lock")
    assert threads() == []


def test_forked_child_holds_nothing(path):
    with StackLock.acquire(path) as lock:
        # A child has the same object under another number: simulated by the number, since forking a threaded process warns.
        child = StackLock(path, lock.owner.model_copy(update={"pid": lock.owner.pid + 1}))
        assert not child.still_mine()
        child.release()
        assert lock.still_mine()


def test_nobody_is_inside_but_the_living(tmp_path, path, dead):
    with nobody_inside(tmp_path / "none") as now:
        assert now is None
    assert not (tmp_path / "none").exists()
    lock = StackLock.acquire(path)
    forge(tmp_path / "dead", pid=dead)
    forge(tmp_path / "silent", host="another", age=-3600)
    with nobody_inside(tmp_path) as now:
        assert now is None
    assert sorted(file.name for file in tmp_path.iterdir()) == [".guard", "run.lock"]
    lock.release()
    forge(tmp_path / "unseen", host="another")
    with nobody_inside(tmp_path) as now:
        assert now is None
    grow_old(tmp_path / "unseen", STALE + 30)
    with nobody_inside(tmp_path) as now:
        assert now is not None
    assert [file.name for file in tmp_path.iterdir()] == [".guard"]
