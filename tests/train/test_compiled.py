"""How the compiled step comes to a machine: shipped, compiled once, kept in a cache that is trusted with nothing."""

import multiprocessing
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anchorbench.train.gradients import compiled
from anchorbench.train.gradients.compile import FLAGS, SOURCE, compile_step, find_compiler

COMPILER = find_compiler()
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
Look = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as the other tests use it, or compiled here."""
    assert COMPILER is not None
    out = tmp_path_factory.mktemp("real") / "step.so"
    library = compiled.find_library().library
    if library is not None and Path(library._name).is_file():
        shutil.copy(library._name, out)
    else:
        compile_step(COMPILER, out, compiled.HERE)
    return out


@pytest.fixture
def fake(tmp_path: Path, real: Path) -> Path:
    """A compiler of its own version that copies the library, and counts its calls in `calls`."""
    path = tmp_path / "bin" / "c++"
    path.parent.mkdir()
    path.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "g++ (Fake) ${{FAKE:-9.8.7}}"; exit; fi
echo called >> {tmp_path}/calls
while [ "$1" != -o ]; do shift; done
cp {real} "$2"
"""
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """What a process finds that has not looked before: what is announced, and the library."""

    def find(fake: Path, home: Path, **more: str) -> tuple[str, str]:
        for name, value in {"CXX": str(fake), "ANCHORBENCH_CACHE": str(home), **more}.items():
            monkeypatch.setenv(name, value)
        compiled.find_library.cache_clear()
        said: list[str] = []
        compiled.announce(said.append)
        found = compiled.find_library()
        return " ".join(said), f"{found.library is not None} {found.about}"

    yield find
    compiled.find_library.cache_clear()


def look_alone(fake: Path, home: Path) -> str:
    """What is found in a process that another test forked."""
    os.environ |= {"CXX": str(fake), "ANCHORBENCH_CACHE": str(home)}
    compiled.find_library.cache_clear()
    found = compiled.find_library()
    return f"{found.library is not None} {found.about}"


def calls(fake: Path) -> int:
    path = fake.parents[1] / "calls"
    return path.read_text().count("called") if path.exists() else 0


def test_it_is_compiled_once_and_again_when_kept_bytes_or_the_compiler_change(fake: Path, tmp_path: Path, look: Look) -> None:
    home = tmp_path / "cache"
    said, found = look(fake, home)
    assert said.startswith("compiled the training step in ")
    assert found == "True g++ 9.8.7 " + compiled.capability()
    assert (look(fake, home), calls(fake)) == (("", found), 1)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    (library,) = home.glob("*.so")
    content = library.read_bytes()
    library.unlink()  # this process has it mapped
    library.write_bytes(content[:50_000])  # loading it would end the process
    assert look(fake, home)[1] == found
    assert calls(fake) == 2
    os.mkfifo(home / library.name.replace(library.name[-10:], "000000.so"))  # a pipe of a library's name is not waited for
    assert look(fake, home, FAKE="10.0.0")[1].startswith("True g++ 10.0.0")
    assert calls(fake) == 3


def test_a_cache_that_others_can_write_is_not_trusted(fake: Path, tmp_path: Path, look: Look) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    home.chmod(0o777)
    assert "True" in look(fake, home)[1]
    assert list(home.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "True" in look(fake, tmp_path / "file" / "cache")[1]  # cannot be made


def test_processes_at_once_compile_it_once(fake: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.starmap(look_alone, [(fake, tmp_path / "cache")] * 3, chunksize=1)
    assert all("True" in line for line in found)
    assert calls(fake) == 1


def test_where_it_is_not_training_says_what_would_help(
    fake: Path, tmp_path: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "SHIPPED", tmp_path / "none")
    with monkeypatch.context() as patch:
        patch.setattr("anchorbench.train.gradients.compiled.find_compiler", lambda: None)
        said, found = look(fake, tmp_path)
    assert said.startswith("training runs on PyTorch, without the compiled step: no C++ compiler found; with one (Debian: apt-get")
    assert found.startswith("False")
    with monkeypatch.context() as patch:
        patch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
        assert look(fake, tmp_path) == (
            "training runs on PyTorch, without the compiled step: the processor has no AVX2",
            "False the processor has no AVX2",
        )
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "g++ 1.0"; exit; fi\necho "step.cpp:1: error: no such thing" >&2; exit 1\n'
    )
    said, found = look(fake, tmp_path / "cache")
    assert (
        said
        == f"training runs on PyTorch, without the compiled step: {fake} could not compile it (step.cpp:1: error: no such thing)"
    )
    assert "ANCHORBENCH_NATIVE is 0" in look(fake, tmp_path, ANCHORBENCH_NATIVE="0")[0]


def syntax(compiler: str, *flags: str) -> subprocess.CompletedProcess[str]:
    wanted = [flag for flag in FLAGS if flag not in ("-O3", "-shared")]
    command = [compiler, *wanted, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *flags, str(SOURCE)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
def test_it_compiles_without_warnings(target: str) -> None:
    assert COMPILER is not None
    done = syntax(COMPILER, f"-march={target}")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_simd_it_declines() -> None:
    assert COMPILER is not None
    done = syntax(COMPILER, "-march=x86-64")
    assert "no SIMD that this step knows" in done.stderr


def test_it_compiles_for_arm() -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no compiler for ARM; on Debian: apt-get install g++-aarch64-linux-gnu")
    done = syntax(compiler)
    assert (done.returncode, done.stderr) == (0, "")


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Out-of-bounds reads, leaks and undefined behaviour over a sweep of shapes."""
    assert COMPILER is not None
    program = tmp_path / "sweep"
    options = ["-std=c++20", "-O1", "-g", "-march=x86-64-v3", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = Path(__file__).with_name("step_sweep.cpp")
    made = subprocess.run(
        [COMPILER, *options, f"-I{SOURCE.parent}", str(source), "-o", str(program), "-pthread"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot find" in made.stderr or "unrecognized" in made.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert made.returncode == 0, made.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("shapes: 96")
