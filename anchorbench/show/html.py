"""Self-contained HTML pages from templates: style, scripts and data are inlined, and all text is escaped."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anchorbench import palette
from anchorbench.files import write_atomically

MAX_PAGE_BYTES = 2_000_000
SHAPES = {
    "circle": "M4 1a3 3 0 1 0 .01 0z",
    "square": "M1.3 1.3h5.4v5.4H1.3z",
    "diamond": "M4 .3 7.7 4 4 7.7.3 4z",
    "triangle-up": "M4 .8 7.6 7H.4z",
    "triangle-down": "M4 7.2 7.6 1H.4z",
    "cross": "M3 .8h2V3h2.2v2H5v2.2H3V5H.8V3H3z",
}
"""Outline of each of Vega's shapes, in a square of 8."""


class PageTooLargeError(ValueError):
    """The page exceeds its limit."""


def write_page(
    template: str,
    out: Path,
    *,
    most_bytes: int = MAX_PAGE_BYTES,
    scripts: Sequence[str] = (),
    data: Any = None,
    live: bool = False,
    **content: Any,
) -> Path:
    """Renders one of the package's templates to `out`; style and scripts are inlined and allowed by hash.

    `scripts` run after the page's own; `data` is what they find in the element `data`, as JSON. A `live` page may ask its own
    server for news. Raises PageTooLargeError for a page of more than `most_bytes`.
    """
    page = render(template, scripts=scripts, data=data, live=live, **content)
    if len(page) > most_bytes:
        raise PageTooLargeError(f"the page has {len(page)} bytes; allowed: at most {most_bytes}")
    write_atomically(out, page)
    return out


def render(template: str, *, scripts: Sequence[str] = (), data: Any = None, live: bool = False, **content: Any) -> bytes:
    """The page that `write_page` writes."""
    environment = Environment(
        loader=PackageLoader("anchorbench.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Any] = environment.filters
    filters.update(along=along, percent=percent)
    style = palette.css() + ours("page.css")
    code = [ours("page.js"), *scripts]
    rendered = environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - ours
        style_hash=_hash(style),
        scripts=[Markup(text) for text in code],  # noqa: S704 - ours, or a package's
        script_hashes=[_hash(text) for text in code],
        data=None if data is None else Markup(_json(data)),  # noqa: S704 - escaped
        live=live,
        shapes={name: SHAPES[look.shape] for name, look in palette.VERDICTS.items()},
        **content,
    )
    return rendered.encode()


def ours(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that cannot end the element that holds it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def along(value: float | int, start: int, end: int) -> str:
    """Maps `value` in [0, 1] linearly to a coordinate between `start` and `end`."""
    return f"{start + value * (end - start):.4g}"


def percent(value: float | int) -> str:
    """A fraction as a whole percentage."""
    return f"{100 * value:.0f}%"
