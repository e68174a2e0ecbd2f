"""The notebooks as they lie in the repository are stripped, and run as they stand to the outcome that their text speaks of."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OUTCOMES = {  # figures, and what its cells are to return
    "attention_flow": (3, [r"'pre-LN, gamma 0.7': \('inferential'", r"gamma 0.55': \('memorizing'", r"gamma 0.4': \('memorizing'"]),
    "bring_your_own_model": (
        2,
        [r"'GPT-2': \('inferential', 0\.\d+, 0\.\d+\)", r"'Llama': \('underfit', 0\.", r"'Llama': \('undecided', None"],
    ),
    "datasets": (
        1,
        [r"\(\[57, -1\], \{1: 'it does not hold", r"'cells in both: 0'", "'foil_symmetric': 21"],
    ),
    "mechanisms": (7, [r"LN, gamma 0.7\)': \('inferential', [01]\.", r"LN, gamma 0.55\)': \('memorizing', 0\.0"]),
    "phase_diagram": (1, [r"0\.42 +\S+ +0\.[0-4]", r"0\.70 +\S+ +(0\.[89]|1\.0)", r"\(700, 0\.[89]"]),
}
ABSOLUTE = re.compile(r"""(?:^|[\s"'(=])(?:/|~/|[A-Za-z]:\\+)\w""", re.MULTILINE)


def test_each_notebook_has_an_expected_outcome() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(OUTCOMES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stripped_and_names_no_place_of_one_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert cell.metadata == {}
        assert not ABSOLUTE.search(cell.source), cell.source
        assert "pip install" not in cell.source


@pytest.mark.parametrize("place", ['open("/data/x")', "path = ~/runs", "Path('C:\\\\runs')", "/tmp/x"])  # noqa: S108 - only looked at
def test_an_absolute_path_would_be_found(place: str) -> None:
    assert ABSOLUTE.search(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run: what one has trained, another reads."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_to_its_outcome(path: Path, folder: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    assert {path.name for path in folder.iterdir()} <= {"anchorbench-out"}  # all else goes with a temporary folder
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    figures, expected = OUTCOMES[path.stem]
    assert sum("image/png" in item for item in data) == figures
    said = "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", item.get("text/plain", "")) for item in data)
    for pattern in expected:
        assert re.search(pattern, said), (pattern, said)
