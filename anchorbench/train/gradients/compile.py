"""Compiles step.cpp. Uses only the standard library, as it also runs when the package is built."""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("step.cpp")
FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread"]
PORTABLE = "-march=x86-64-v3"
"""Compiler flags for any x86-64 processor with AVX2."""
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 120.0
"""Timeout of a compilation."""


def find_compiler() -> str | None:
    """Path of the C++ compiler: `$CXX`, or the first of the usual names that exists."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS)))), None)


def compile_step(compiler: str, out: Path, *flags: str) -> None:
    """Compiles the step to `out`. Raises OSError or subprocess.SubprocessError."""
    command = [compiler, *FLAGS, *flags, "-o", str(out), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS)
