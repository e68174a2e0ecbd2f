"""What is built holds the whole package under its own name, and nothing beside it."""

import os
import platform
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import trove_classifiers
from conftest import ROOT

import anchorbench

EVERYWHERE = {"__pycache__", ".pytest_cache"}


COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo compiled > "$2"
"""
"""Stands in for a C++ compiler, which takes seconds."""


def build(source: Path, kind: str, out: Path) -> Path:
    """Builds a wheel or sdist of the folder `source`, without a network."""
    compiler = out.with_name(f"{out.name}-c++")
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"CXX": str(compiler)})
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    """Name -> content of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def modules() -> set[str]:
    """Every module in the working tree, by its path in the package."""
    engine = {str(path.relative_to(ROOT)) for path in (ROOT / "anchorbench").rglob("*.py")}
    inside = {f"anchorbench/{kind}/{path.name}" for kind in ("tasks", "probes") for path in (ROOT / kind).glob("*.py")}
    template = {f"anchorbench/{path.relative_to(ROOT / 'docs')}" for path in (ROOT / "docs" / "template").rglob("*.py")}
    assert len(engine) > 10
    assert len(inside) > 10
    assert len(template) > 10
    return engine | inside | template


def test_the_wheel_holds_every_module_once_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    assert {"anchorbench/tasks/composite.py", "anchorbench/probes/attention_flow.py"} <= names
    assert {"anchorbench/py.typed", "anchorbench/template/pyproject.toml", "anchorbench/inspect/forecast.json"} <= names
    assert {name for name in names if name.endswith(".py")} == modules()
    assert {name.split("/")[0] for name in names} == {"anchorbench", f"anchorbench-{anchorbench.__version__}.dist-info"}


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="only wheels for Linux on x86-64 carry it")
def test_the_wheel_carries_the_compiled_step(wheel: Path) -> None:
    assert contents(wheel)["anchorbench/train/gradients/step.so"] == b"compiled\n"
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    info = f"anchorbench-{anchorbench.__version__}.dist-info"
    files = contents(wheel)
    metadata = files[f"{info}/METADATA"].decode()
    assert "Name: anchorbench\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert metadata.count("Project-URL: Paper") == 3
    for extra in ("docs", "test"):
        assert f"Provides-Extra: {extra}\n" in metadata
    stated = set(re.findall(r"^Classifier: (.+)$", metadata, re.MULTILINE))
    assert "Typing :: Typed" in stated
    assert stated <= trove_classifiers.classifiers
    assert "anchorbench = anchorbench.__main__:main" in files[f"{info}/entry_points.txt"].decode()
    assert f"{info}/licenses/LICENSE" in files
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(required) == len(dependencies)


def test_the_wheel_imports_on_its_own(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, with the working tree out of sight; public names are what they say, also when asked for again."""
    for name, content in contents(wheel).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import anchorbench, anchorbench.probes; "
        "print(anchorbench.__file__, len(anchorbench.load_task('composite').sample('ood', 5, 0))); "
        "names = [getattr(anchorbench, name) for name in anchorbench.__all__ for _ in range(2)]; "
        "from anchorbench import classify; assert all(map(callable, [*names, classify])), names"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.split() == [str(tmp_path / "anchorbench" / "__init__.py"), "5"]


def test_the_sdist_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path / "source"], check=True)  # tarfile's filter came with Python 3.11.4
    (folder,) = (tmp_path / "source").iterdir()
    assert folder.name == f"anchorbench-{anchorbench.__version__}"
    assert contents(build(folder, "wheel", tmp_path / "wheel")) == contents(wheel)
    for name in (
        "README.md",
        "LICENSE",
        "pyproject.toml",
        "tests/golden.py",
        "tests/train/test_parts.py",
        "tests/train/step_sweep.cpp",
    ):
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert not [path for path in folder.rglob("*") if path.name in EVERYWHERE]


def test_everything_that_the_image_copies_is_in_its_context() -> None:
    """The Dockerfile installs from a copy of the repository; `.ci/docker` builds it where there is a Docker daemon."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (install,) = (line for line in lines if line.startswith("RUN pip install"))
    assert "COPY . /src" in lines
    assert "-c /src/constraints.txt /src" in install
    left_out = (ROOT / ".dockerignore").read_text().split()
    assert not {"constraints.txt", "pyproject.toml", "hatch_build.py", "anchorbench", "tasks", "probes", "docs"} & set(left_out)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'clasify'"):
        anchorbench.clasify  # noqa: B018
