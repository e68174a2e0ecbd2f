"""The library built from step.cpp: shipped with the package, or compiled at first use and kept in a cache folder.

The cache is `$ANCHORBENCH_CACHE`, else `$XDG_CACHE_HOME/anchorbench`, else `~/.cache/anchorbench`. `ANCHORBENCH_NATIVE=0` disables
the library.
"""

import ctypes
import hashlib
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from anchorbench.files import read_bytes, write_atomically
from anchorbench.train.gradients.compile import FLAGS, SECONDS, SOURCE, compile_step, find_compiler

SHIPPED = Path(__file__).with_name("step.so")
"""Compiled when the package was built, for any x86-64 processor with AVX2; absent if there was no compiler."""
HERE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"

MAX_BYTES = 2**24
"""More than any library has."""


@dataclass(frozen=True)
class Found:
    """The library, or why there is none."""

    library: ctypes.CDLL | None
    about: str
    """Compiler and instruction set, which the last bits of a result depend on; without a library, the reason."""
    compiled_in: float = 0.0
    """Seconds that this process spent on compiling it."""


def capability() -> str:
    """The instruction set that the library would use here: AVX512, AVX2, NEON, or none."""
    import torch

    if platform.machine() in ("arm64", "aarch64"):
        return "NEON"
    known = torch.backends.cpu.get_cpu_capability()
    return known if known in ("AVX2", "AVX512") else "none"


@cache
def find_library() -> Found:
    """Loads the library, compiling it if necessary; the result is fixed for the whole process."""
    if os.environ.get("ANCHORBENCH_NATIVE") == "0":
        return Found(None, "ANCHORBENCH_NATIVE is 0")
    instructions = capability()
    if instructions == "none":
        return Found(None, "the processor has no AVX2")
    compiler = find_compiler()
    shipped = platform.machine() == "x86_64" and SHIPPED.is_file()
    if shipped and (compiler is None or instructions == "AVX2"):
        with suppress(OSError):
            return Found(_loaded(SHIPPED), "shipped AVX2")
    if compiler is None:
        return Found(None, "no C++ compiler found; with one (Debian: apt-get install g++) training takes about half the time")
    try:
        version = _version(compiler)
        library, seconds = _compiled(compiler, version)
        return Found(library, f"{version} {instructions}", seconds)
    except (OSError, subprocess.SubprocessError) as error:
        return Found(None, f"{compiler} could not compile it ({_reason(error)})")


def announce(say: Callable[[str], None]) -> None:
    """Loads the library, and says in one line that it was compiled, or why training is slower than it could be."""
    found = find_library()
    if found.library is None:
        say(f"training runs on PyTorch, without the compiled step: {found.about}")
    elif found.compiled_in > 0:
        say(f"compiled the training step in {found.compiled_in:.0f} s, once for this machine")


def cache_folder() -> Path:
    """Where compiled code is kept."""
    given = os.environ.get("ANCHORBENCH_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anchorbench"


def _compiled(compiler: str, version: str) -> tuple[ctypes.CDLL, float]:
    """The library, and the seconds spent compiling it; 0 if it was cached."""
    start = time.perf_counter()
    key = _digest(read_bytes(SOURCE, most=MAX_BYTES), " ".join([*FLAGS, HERE, compiler, version, _processor()]).encode())
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(folder)
        with FileLock(folder / f"step-{key}.lock", timeout=2 * SECONDS):  # another process may be compiling it
            kept = _kept(folder, key)
            return (kept, 0.0) if kept else (_kept_now(folder, key, compiler), time.perf_counter() - start)
    except (OSError, RuntimeError):  # the folder cannot be written, or there is no home: compile for this process only
        with tempfile.TemporaryDirectory(prefix="anchorbench-") as folder:
            out = Path(folder, "step.so")
            compile_step(compiler, out, HERE)
            return _loaded(out), time.perf_counter() - start


def _kept(folder: Path, key: str) -> ctypes.CDLL | None:
    """The cached library, if it is intact: loading a truncated one would crash the process."""
    for path in sorted(folder.glob(f"step-{key}-*.so")):
        with suppress(OSError, ValueError):
            if path.name == f"step-{key}-{_digest(read_bytes(path, most=MAX_BYTES))}.so":
                return _loaded(path)
    return None


def _kept_now(folder: Path, key: str, compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="anchorbench-") as making:
        out = Path(making, "step.so")
        compile_step(compiler, out, HERE)
        content = read_bytes(out, most=MAX_BYTES)
    path = folder / f"step-{key}-{_digest(content)}.so"
    write_atomically(path, content)
    return _loaded(path)


def _require_own(folder: Path) -> None:
    """Raises OSError if another user could put code there."""
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")


def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.work_new.restype = ctypes.c_void_p
    library.work_new.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.work_free.restype = library.train.restype = library.answer_all.restype = None
    library.work_free.argtypes = [ctypes.c_void_p]
    library.train.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.peak.restype = ctypes.c_double
    library.peak.argtypes = [ctypes.c_int32, ctypes.c_double]
    library.answer_all.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int32] * 3 + [ctypes.c_void_p]
    return library


def _version(compiler: str) -> str:
    told = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=SECONDS).stdout
    name = "clang" if "clang" in told else "g++"
    number = re.search(r"\d+\.\d+(\.\d+)?", told.partition("\n")[0].rpartition(")")[2] or told)
    return f"{name} {number[0] if number else 'unknown'}"


def _processor() -> str:
    """What `-march=native` depends on."""
    with suppress(OSError):
        found = re.search(r"^flags\s*:.*$|^Features\s*:.*$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if found:
            return found[0]
    return platform.processor()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def _reason(error: Exception) -> str:
    told = getattr(error, "stderr", None)
    lines = told.decode(errors="replace").splitlines() if isinstance(told, bytes) else []
    return next((line for line in lines if "error" in line), str(error).partition("\n")[0])[:200]
