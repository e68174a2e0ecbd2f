"""A lock on a stack, so that two processes on one output folder never train a run twice.

A lock is a small JSON file, created exclusively, that names its owner and the runs of the stack. While a process holds any locks,
one heartbeat thread touches all of them. A lock is taken over by a higher attempt at the same stack, numbered by a coordinator
that knows that the lower one has ended or is cut off (SLURM, Kubernetes, Ray); and if its owner is dead. An owner is dead

- on the same machine, if its process has ended, or its pid now belongs to another process. A process known to be alive keeps its
  lock even without a heartbeat: it may be hanging or suspended, or the laptop may have slept;
- where its process is not visible (another machine or container), if its last heartbeat is more than STALE seconds away from
  now by the file system's clock - in the future too, as after a clock was set back. The same holds for a file that names no owner
  (truncated by a full disk, or just being written): only its modification time is informative.

Locks change hands only under a guard that the system releases when its holder dies (`flock`), one per folder of locks. On a
file system without flock, two processes could take over the same dead lock at the same instant; if a clock jumps, another machine
could take over a live lock before its next heartbeat. `still_mine` tells an owner that it lost the lock: it is asked before
anything final is written.
"""

import errno
import os
import secrets
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

HEARTBEAT = 10.0
MAX_BYTES = 2**16
STALE = 120.0
"""Twelve missed heartbeats: longer than a network file system may cache file times (a minute)."""
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors with which file systems report missing flock support: some NFS, Lustre and FUSE mounts."""


class Owner(BaseModel):
    """The holder of a lock."""

    model_config = ConfigDict(frozen=True)

    pid: int = Field(gt=0, lt=2**31)
    born: str | None
    """Start time of the process as the system reports it: tells it from a later process with the same pid. None if unknown."""
    host: str
    """Digest that identifies the namespace in which the pid is valid."""
    token: str
    """Random, unique to this lock."""
    started: datetime
    machine: str = ""
    """Name of the machine, to show."""
    attempt: int = Field(default=0, ge=0, lt=2**31)
    runs: tuple[str, ...] = ()
    """Ids of the runs that nobody else may train."""


@dataclass(frozen=True, eq=False)
class StackLock:
    """A lock held by this process until `release` or the end of its `with` block."""

    path: Path
    owner: Owner

    @classmethod
    def acquire(cls, path: Path, runs: Sequence[str] = (), attempt: int | None = None) -> "StackLock | None":
        """Acquires the lock at `path`, creating its folder, on those of `runs` that no other lock in the folder covers.

        None if a living owner of no lower attempt holds it, or all runs are covered. Raises OSError if it is unwritable.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with _guard(path.parent) as now:
            before, held = _look(path, now)
            earlier = 0 if before is None else before.attempt
            if held and (before is None or attempt is None or attempt <= earlier):
                return None
            covered = _covered(path, now) if runs else set[str]()
            free = [run for run in runs if run not in covered]
            if runs and not free:
                return None
            owner = _me(free, max(attempt or 0, earlier))
            path.unlink(missing_ok=True)
            try:
                with path.open("x") as file:
                    file.write(owner.model_dump_json())
            except FileExistsError:  # by another machine, which our guard does not cover
                return None
            except OSError:
                path.unlink(missing_ok=True)
                raise
        lock = cls(path, owner)
        _heart.add(lock)
        return lock

    def still_mine(self) -> bool:
        """Whether this process still holds the lock: check after training and before writing the result."""
        with suppress(OSError):
            known = _parse(self.path.read_bytes()) if self.path.is_file() else None
            # A forked child inherits the object, but not the lock.
            return known is not None and known.token == self.owner.token and self.owner.pid == os.getpid()
        return False

    def release(self) -> None:
        """Releases the lock; a file that now belongs to another owner is left in place."""
        _heart.remove(self)
        if self.still_mine():  # else touch nothing: the whole folder may be gone
            with suppress(OSError), _guard(self.path.parent):  # a lock that cannot be removed expires with this process
                if self.still_mine():
                    self.path.unlink()

    def __enter__(self) -> "StackLock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


@contextmanager
def _guard(folder: Path) -> Generator[float]:
    """Keeps other processes from changing locks in the folder; yields the time by the file system's clock, which machines share."""
    file = folder / ".guard"
    guard = FileLock(file, timeout=STALE, fallback_to_soft=False)  # a soft lock outlives its holder's death
    try:
        guard.acquire()
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
    try:
        file.touch()
        yield file.stat().st_mtime
    finally:
        guard.release()


@contextmanager
def nobody_inside(folder: Path) -> Generator[float | None]:
    """Yields the time by the file system's clock if no living owner holds a lock in `folder`, else None; none is taken meanwhile.

    Locks of dead owners are removed.
    """
    if not folder.is_dir():
        yield None
        return
    with _guard(folder) as now:
        locks = list(folder.glob("[!.]*"))
        for path in locks:
            if not _held(path, now):
                path.unlink(missing_ok=True)
        yield None if any(path.exists() for path in locks) else now


def is_held(path: Path) -> bool:
    """Whether a living owner holds the lock at `path`."""
    if not path.exists():
        return False
    with _guard(path.parent) as now:
        return _held(path, now)


def living(folder: Path) -> dict[str, Owner]:
    """The living owners of the locks in `folder`, by the lock's name; those whose file names no owner are left out."""
    found: dict[str, Owner] = {}
    if folder.is_dir():
        with _guard(folder) as now:
            for path in folder.glob("[!.]*"):
                owner, held = _look(path, now)
                if owner is not None and held:
                    found[path.name] = owner
    return found


def _covered(path: Path, now: float) -> set[str]:
    """The runs of all other living locks in the folder."""
    looks = (_look(other, now) for other in path.parent.glob("[!.]*") if other != path)
    return {run for owner, held in looks if owner is not None and held for run in owner.runs}


def _me(runs: Sequence[str], attempt: int) -> Owner:
    pid, token, started = os.getpid(), secrets.token_hex(16), datetime.now(UTC)
    name = socket.gethostname()
    return Owner(
        pid=pid, born=_born(pid), host=_host(), token=token, started=started, machine=name, attempt=attempt, runs=tuple(runs)
    )


def _held(path: Path, now: float) -> bool:
    return _look(path, now)[1]


def _look(path: Path, now: float) -> tuple[Owner | None, bool]:
    """The owner that the file names, if any, and whether it holds the lock."""
    if not path.is_file():  # opening a pipe would block
        return None, False
    try:
        with path.open("rb") as file:
            owner, touched = _parse(file.read(MAX_BYTES)), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, False
    alive = None if owner is None else _alive(owner)
    return owner, abs(now - touched) <= STALE if alive is None else alive


def _parse(content: bytes) -> Owner | None:
    with suppress(ValidationError):
        return Owner.model_validate_json(content)
    return None


def _alive(owner: Owner) -> bool | None:
    """Whether the owner's process is alive; None if it is not visible from here."""
    if owner.host != _host() or os.name != "posix":
        return None
    try:
        os.kill(owner.pid, 0)  # signal 0: existence check only
    except ProcessLookupError:
        return False
    except PermissionError:  # exists, but belongs to another user
        pass
    born = _born(owner.pid)
    return None if born is None or owner.born is None else born == owner.born


def _born(pid: int) -> str | None:
    """Start time of a process as the system reports it; "" if it has ended but is still a zombie; None if unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
    except OSError:  # not Linux, or /proc is hidden
        with suppress(psutil.Error):
            return str(psutil.Process(pid).create_time())
        return None
    return "" if state in "ZX" else fields[18]


def _host() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):  # hostnames may be shared by machines and containers, these are not (Linux)
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


class _Heart:
    """The heartbeat thread of this process's locks; it lives as long as there are any."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._locks: set[StackLock] = set()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def add(self, lock: StackLock) -> None:
        with self._mutex:
            self._locks.add(lock)
            if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._beat, args=(self._stop,), name="anchorbench heartbeat", daemon=True)
                self._thread.start()

    def remove(self, lock: StackLock) -> None:
        with self._mutex:
            self._locks.discard(lock)
            if self._locks or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._stop.set()
        thread.join()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT):
            with self._mutex:
                locks = list(self._locks)
            for lock in locks:
                if lock.still_mine():  # never touch another owner's lock
                    with suppress(OSError):
                        os.utime(lock.path)


_heart = _Heart()
