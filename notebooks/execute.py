"""Executes notebooks and keeps their outputs, light enough for a repository: `python notebooks/execute.py notebooks/*.ipynb`.

All run in one temporary folder, as in the tests: what one has trained, another reads.
"""

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image


def execute(path: Path, folder: Path) -> Any:
    """The notebook at `path`, executed in `folder`; what is printed (progress, warnings, times) is left out."""
    notebook: Any = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", resources=resources, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def lighten(notebook: Any) -> None:
    """Reduces the figures to 64 colours, a quarter of their bytes."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture, small = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))), io.BytesIO()
                picture.convert("RGB").quantize(64).save(small, "png", optimize=True)
                output.data["image/png"] = base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for name in sys.argv[1:]:
            executed = execute(Path(name), Path(temporary))
            lighten(executed)
            nbformat.write(executed, name)
