"""The only module that imports matplotlib: figures do not depend on the user's settings, and leave them unchanged.

Functions that draw are decorated with `@plain_matplotlib()`, make a `matplotlib.figure.Figure` and end with `save(figure, path)`.
"""

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from anchorbench.files import visible, write_atomically

FORMATS = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""Figure formats, with the metadata that makes output reproducible: no dates."""
BACKENDS = {"pdf": "pdf", "svg": "svg", "png": "agg"}
OWN = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "anchorbench"}
"""Keeps text as text, so that figures can be edited and searched."""


def parse_formats(text: str) -> tuple[str, ...]:
    """Parses format names such as `pdf,png`. Raises ValueError for an unknown format."""
    formats = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(formats) <= FORMATS.keys():
        raise ValueError(f"figures is {text!r}; allowed: {', '.join(FORMATS)}, separated by commas")
    return formats


@contextmanager
def plain_matplotlib() -> Generator[None]:
    """Draws with matplotlib's default settings, without warnings, without pyplot and without choosing a backend for the user."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # silences an unwritable cache or a bad line in the user's settings
    try:
        matplotlib = _matplotlib()
        with matplotlib.rc_context():
            with warnings.catch_warnings(action="ignore"):  # about deprecated settings
                matplotlib.rcParams.update({k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"} | OWN)
            yield
    finally:
        logger.setLevel(level)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except Exception:  # the user's matplotlibrc or MPLBACKEND is broken: retry without them
        for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
            del sys.modules[name]  # a partial import would be reused
        backend = os.environ.pop("MPLBACKEND", None)
        try:
            with tempfile.TemporaryDirectory() as folder, chdir(folder):
                Path("matplotlibrc").touch()  # the working directory is searched first
                import matplotlib
        finally:
            if backend is not None:
                os.environ["MPLBACKEND"] = backend
    return matplotlib


def save(figure: Any, path: Path, *, dpi: int = 170) -> Path:
    """Writes a figure atomically, in the format named by the path's suffix. Raises ValueError for an unknown suffix."""
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"figure is {path}; allowed: a file that ends in .{', .'.join(FORMATS)}")
    content = io.BytesIO()
    figure.savefig(content, format=kind, backend=BACKENDS[kind], metadata=FORMATS[kind], dpi=dpi)
    write_atomically(path, content.getvalue())
    return path


def draw_all(draw: Callable[[Path], Path], paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Draws to each path; returns the written paths and one message per failure: a figure never fails a finished job."""
    drawn: list[Path] = []
    problems: list[str] = []
    for path in paths:
        try:
            drawn.append(draw(path))
        except Exception as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problems.append(f"figure {path} was not drawn: {visible(reason, 300)}")
    return drawn, problems
