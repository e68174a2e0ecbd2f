"""The notebooks lie in the repository with light outputs, and run as they stand to the outcome that these and their text show."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT

import anchorbench

sys.path.insert(0, str(ROOT / "notebooks"))
from execute import execute

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUTCOMES = {  # figures, and what its cells are to return
    "attention_flow": (3, [r"'pre-LN, gamma 0.7': \('inferential'", r"gamma 0.55': \('memorizing'", r"gamma 0.4': \('memorizing'"]),
    "bring_your_own_model": (
        2,
        [r"'GPT-2': \('inferential', 0\.\d+, 0\.\d+\)", r"'Llama': \('underfit', 0\.", r"'Llama': \('cannot be told', None"],
    ),
    "datasets": (
        1,
        [r"\(\[57, -1\], \{1: 'it does not hold", r"'cells in both: 0'", "'foil_symmetric': 21"],
    ),
    "mechanisms": (7, [r"LN, gamma 0.7\)': \('inferential',\s+Share", r"LN, gamma 0.55\)': \('memorizing',\s+Share"]),
    "own_figure": (2, [r"b3a7d257d03cdf06 +0\.4 +0\.0 +0", r"^8$"]),
    "own_task": (0, [r"\(\[51, 55\], \[0, -1\]\)", r"\('memorizing',\n \{'3': Share\(hits=5", r"\[\(-4, \d{3}\)"]),
    "trainer_to_classify": (1, [r"\('inferential', (0\.9|1)", r"\('(inferential|cannot be told)',\s+Share"]),
    "phase_diagram": (1, [r"0\.42 +\S+ +0\.[0-4]", r"0\.70 +\S+ +(0\.[89]|1\.0)", r"\(700, 0\.[89]"]),
}
ABSOLUTE = re.compile(r"""(?:^|[\s"'(=])(?:/|~/|[A-Za-z]:\\+)\w""", re.MULTILINE)


def test_each_notebook_has_an_expected_outcome() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(OUTCOMES)


EVERY = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def require_outcome(name: str, notebook: Any) -> None:
    """Its figures, and what is stable in what its cells return."""
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    figures, expected = OUTCOMES[name]
    assert sum("image/png" in item for item in data) == figures
    said = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", item.get("text/plain", "")) for item in data)
    for pattern in expected:
        assert re.search(pattern, said, re.MULTILINE), (pattern, said)


@EVERY
def test_it_lies_here_with_its_outcome_and_names_no_place_of_one_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    require_outcome(path.stem, notebook)
    assert path.stat().st_size < 300_000, "run notebooks/execute.py, which makes figures light"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert not ABSOLUTE.search(cell.source), cell.source
        for output in cell.get("outputs", []):
            assert output.output_type in ("execute_result", "display_data")
            assert not re.search(r"/(tmp|root|home|work)/", str(output.get("data", {}).get("text/plain", "")))


@EVERY
def test_it_says_how_to_open_it_and_installs_only_in_colab(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    first = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    assert [cell.source for cell in cells[1:3]] == [cell.source for cell in first[1:3]]
    assert "In Colab, upload" in cells[1].source
    assert cells[2].source.startswith('import sys\n\nif "google.colab" in sys.modules:\n    %pip install')
    assert not [cell.source for cell in cells[3:] if "pip install" in cell.source]


@EVERY
def test_it_uses_what_the_reference_documents(path: Path) -> None:
    """The public names, probes, the objects that docs/hooks.py lists, and, to write a task, what the template's task imports."""
    listed = set(re.findall(r'"(anchorbench[\w.]+)",\n', (ROOT / "docs" / "hooks.py").read_text()))
    for_tasks = ("anchorbench.task.", "anchorbench.tasks.", "anchorbench.probes.")
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    imported = re.findall(r"^from (anchorbench[\w.]*) import (.+)$", code, re.MULTILINE)
    for module, names in imported:
        for name in (f"{module}.{name}" for name in names.split(", ")):
            public = module == "anchorbench" and name.rpartition(".")[2] in {*anchorbench.__all__, "probes"}
            assert public or name in listed or name.startswith(for_tasks), name
    assert set(re.findall(r"anchorbench\.(\w+)\(", code)) <= set(anchorbench.__all__)


@pytest.mark.parametrize("place", ['open("/data/x")', "path = ~/runs", "Path('C:\\\\runs')", "/tmp/x"])  # noqa: S108 - only looked at
def test_an_absolute_path_would_be_found(place: str) -> None:
    assert ABSOLUTE.search(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run: what one has trained, another reads."""
    return tmp_path_factory.mktemp("notebooks")


@EVERY
def test_it_runs_to_its_outcome(path: Path, folder: Path) -> None:
    require_outcome(path.stem, execute(path, folder))
    assert {path.name for path in folder.iterdir()} <= {"anchorbench-out"}  # all else goes with a temporary folder
