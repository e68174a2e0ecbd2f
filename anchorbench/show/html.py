"""Self-contained HTML pages from templates: style and script are inlined, and all text is escaped."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anchorbench.files import write_atomically

MAX_PAGE_BYTES = 2_000_000


class PageTooLargeError(ValueError):
    """The page exceeds its limit."""


def write_page(template: str, out: Path, *, most_bytes: int = MAX_PAGE_BYTES, **content: Any) -> Path:
    """Renders one of the package's templates to `out`; style and script are inlined and allowed by hash.

    Raises PageTooLargeError for a page of more than `most_bytes`.
    """
    environment = Environment(
        loader=PackageLoader("anchorbench.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Any] = environment.filters
    filters.update(along=along, percent=percent)
    ours = {}
    for name, file in (("style", "page.css"), ("script", "page.js")):
        text = (Path(__file__).parent / "templates" / file).read_text()
        ours |= {name: Markup(text), f"{name}_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}  # noqa: S704
    page = environment.get_template(template).render(**ours, **content).encode()
    if len(page) > most_bytes:
        raise PageTooLargeError(f"the page has {len(page)} bytes; allowed: at most {most_bytes}")
    write_atomically(out, page)
    return out


def along(value: float | int, start: int, end: int) -> str:
    """Maps `value` in [0, 1] linearly to a coordinate between `start` and `end`."""
    return f"{start + value * (end - start):.4g}"


def percent(value: float | int) -> str:
    """A fraction as a whole percentage."""
    return f"{100 * value:.0f}%"
