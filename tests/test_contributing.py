"""The examples of CONTRIBUTING.md are those of docs/template: another package, found by its entry points, held to our own tests."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from anchorbench.claim import claims
from anchorbench.parts import REGISTRIES
from anchorbench.probes import probes
from anchorbench.task import tasks

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```python\n# (.+?)\n(.*?)```", TEXT, re.DOTALL)
"""Where each block goes, and the block."""
TEMPLATE = ROOT / "docs" / "template"
ENTRY_POINTS: dict[str, dict[str, str]] = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["entry-points"]

OTHERS = ("probe", "kind", "squared_relu", "golden_cases")
"""Words in the names of further tests that are run."""
PATTERNS = ("train/test_part*.py", "model/test_variants.py", "tasks/test_task*.py", "probes/test_attention_on_key.py")
"""Where these tests are."""


def write_package(folder: Path) -> None:
    """The template as an installed distribution, with its entry points."""
    shutil.copytree(TEMPLATE / "my_parts", folder / "my_parts", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    groups = (f"[{group}]\n" + "".join(f"{name} = {of}\n" for name, of in names.items()) for group, names in ENTRY_POINTS.items())
    (info / "entry_points.txt").write_text("\n".join(groups))


def write_tests(folder: Path) -> None:
    """Our tests with the rows, references and tests of the examples."""
    shutil.copytree(ROOT / "tests", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for where, code in BLOCKS:
        name, _, table = where.removeprefix("tests/").partition(", in ")
        text = (folder / name).read_text()
        if table:
            kind = re.fullmatch(r'WAYS\["(\w+)"\]', table)
            start = f'\n    "{kind[1]}": {{' if kind else f"\n{table} = ["
            assert text.count(start) == 1, start
            text = text.replace(start, f"{start}\n{code}")
        else:
            text = f"{text}\n\n{code}"
        (folder / name).write_text(text)
    shutil.copy(folder / "children" / "attention_on_key.py", folder / "probes" / "test_attention_on_key.py")
    tasks, found = folder / "every_task.py", "\nTASKS = list_tasks()\n"  # the tests of other tasks take seconds to be left out
    text = tasks.read_text()
    assert text.count(found) == 1
    tasks.write_text(text.replace(found, '\nTASKS = [task for task in list_tasks() if task[0] == "successor"]\n'))


def test_the_examples_pass_our_tests_as_another_package(tmp_path: Path) -> None:
    package, tests = tmp_path / "package", tmp_path / "tests"
    write_package(package)
    write_tests(tests)
    path = os.pathsep.join(map(str, [package, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]))
    names = [name for names in ENTRY_POINTS.values() for name in names]
    command = [sys.executable, "-m", "pytest", "-v", "-n", "0", "--assert=plain", "-k", " or ".join([*names, *OTHERS])]
    command += [f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={tests}", f"--basetemp={tmp_path / 'temporary'}"]
    command += [str(path) for pattern in PATTERNS for path in sorted(tests.glob(pattern))]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for passed in (
        "test_every_registered_kind_is_in_the_table",
        "test_it_trains[optimizer: signum]",
        "test_a_resumed_run_ends_with_the_same_bits[penalty: l2]",
        "test_a_member_ends_as_it_would_alone[model: squared-relu]",
        "test_squared_relu",
        "test_optimizers[signum]",
        "test_schedules[triangle]",
        "test_it_trains[initializer: truncated]",
        "test_penalties[l2]",
        "test_the_probe",
        "test_examples_read_back[successor-default]",
        "test_golden[successor-default-iid-1]",
        "test_golden_invalid[successor-default-0]",
    ):
        assert f"::{passed} PASSED" in done.stdout, done.stdout


def test_every_group_is_named() -> None:
    groups = {registry._group for registry in (*REGISTRIES.values(), tasks, probes, claims)}
    assert {name for name in groups if name in TEXT} == groups
    assert set(ENTRY_POINTS) <= groups
    files = {path.stem for path in (TEMPLATE / "my_parts").glob("[a-z]*.py")}
    assert {of.split(":")[0].removeprefix("my_parts.") for names in ENTRY_POINTS.values() for of in names.values()} == files
    assert {name for name in files if f"docs/template/my_parts/{name}.py" in TEXT} == files


# --- Where things live

LINES = [line.split(", ") for line in re.findall(r"```text\n(cli.*?)\n```", TEXT, re.DOTALL)[0].splitlines()]
HEIGHT = {name: height for height, names in enumerate(reversed(LINES)) for name in names}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports by their whole name, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_a_module_imports_from_its_own_line_and_below() -> None:
    packages = {path.name for path in (ROOT / "anchorbench").iterdir() if (path / "__init__.py").exists()}
    assert packages <= HEIGHT.keys()
    for name, height in HEIGHT.items():
        at = ROOT / "anchorbench" / name
        for path in sorted(at.rglob("*.py")) if at.is_dir() else [at.with_suffix(".py")]:
            for module in imported(path):
                package, _, rest = module.partition(".")
                other = rest.split(".")[0]
                if package == "anchorbench" and other in HEIGHT:
                    assert HEIGHT[other] <= height, f"{path} imports {module}"
                    assert name != "tasks" or other in ("task", "tasks"), f"{path} imports {module}"


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`((?:anchorbench|tasks|probes|tests|\.ci)/[\w./]*)`", TEXT))))
def test_the_places_that_it_names_exist(place: str) -> None:
    assert (ROOT / place).exists()
