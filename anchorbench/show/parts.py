"""Every registered part of a way of training, in words: the same text on the terminal and in the docs."""

import sys
from collections.abc import Iterator
from typing import Any

from anchorbench.parts import REGISTRIES, OptimizerConfig
from anchorbench.registry import MAX_NAME, Registry, did_you_mean

PLOT_STEPS, PLOT_COLUMNS, PLOT_ROWS = 1600, 64, 10
"""Steps that a schedule's plot is over, and its size in characters."""


def listing(part: str | None = None) -> str:
    """All kinds of all parts, or of one, as Markdown, one section per part. Raises ValueError for an unknown part."""
    lines: list[str] = []
    for word, registry in (REGISTRIES if part is None else {part: _registry(part)}).items():
        lines += [f"## {word}", ""]
        lines += [f"- `{kind}`: {_first_line(part)}" for kind, part in sorted(registry.all.items())]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """docs/parts.md: every kind of every part with its fields, as Markdown."""
    lines = [
        "# The parts of a way of training",
        "",
        "A recipe names a kind of each part; else it is the usual one. `anchorbench parts PART KIND` prints the same,",
        "and draws schedules. This page is written by `anchorbench parts --out docs/parts.md`.",
        "",
    ]
    for word, registry in REGISTRIES.items():
        lines += [f"## {word}", ""]
        for kind, part in sorted(registry.all.items()):
            lines += [f"### `{kind}`", "", _first_line(part), "", _source(part), ""]
            lines += [f"- {_code(line)}" for line in fields(part.Config)]
            lines.append("")
    return "\n".join(lines)


def _code(line: str) -> str:
    """The name and default of a field's line as code."""
    name, equals, rest = line.partition(" = ")
    ends = [at for mark in (" (", ": ") if (at := rest.find(mark)) >= 0]
    end = min(ends, default=len(rest))
    return f"`{name}{equals}{rest[:end]}`{rest[end:]}"


def explanation(word: str, kind: str) -> str:
    """One kind: what it does, where it comes from, and its fields; of a schedule also a plot.

    Raises ValueError with one sentence for an unknown one.
    """
    part = _registry(word)[kind]
    lines = [f"{word} {kind}: {_first_line(part)}", "", _source(part), "", "fields, with defaults:"]
    lines += (f"  {line}" for line in fields(part.Config))
    return "\n".join([*lines, *(["", *plot(part(part.Config()))] if word == "schedule" else [])])


def plot(schedule: Any) -> Iterator[str]:
    """A schedule over the steps after warm-up, as text; only the first ones, a column each, if rates jump all the time."""
    end = OptimizerConfig.model_fields["end"].default
    factors = [schedule.factor(step, PLOT_STEPS, end) for step in range(1, PLOT_STEPS + 1)]
    top, each = max(factors) or 1.0, PLOT_STEPS // PLOT_COLUMNS
    columns, shown = [factors[at : at + each] for at in range(0, PLOT_STEPS, each)], ""
    if all(max(column) - min(column) > top / 2 for column in columns):
        columns, shown = [[factor] for factor in factors[:PLOT_COLUMNS]], f", the first {PLOT_COLUMNS}"
    yield f"with its defaults, lr times this over {PLOT_STEPS} steps after warm-up{shown} (end = {end:g}):"
    heights = [[round(factor / top * PLOT_ROWS) for factor in column] for column in columns]
    for row in range(PLOT_ROWS, -1, -1):
        label = f"{top * row / PLOT_ROWS:7.2f}" if row % 5 == 0 else " " * 7
        yield f"{label} |{''.join('*' if min(column) <= row <= max(column) else ' ' for column in heights)}".rstrip()
    yield " " * 8 + "+" + "-" * PLOT_COLUMNS


def fields(config: Any) -> Iterator[str]:
    """A line per field: name, default, bounds, meaning."""
    usual = config().model_dump(mode="json")
    for name, field in config.model_fields.items():
        if name != "kind":
            allowed = ", ".join(filter(None, map(_bound, field.metadata)))
            meaning = " ".join((field.description or "").split())
            yield f"{name} = {usual[name]}" + (f" ({allowed})" if allowed else "") + (f": {meaning}" if meaning else "")


def _registry(word: str) -> Registry[Any]:
    if word not in REGISTRIES:
        raise ValueError(f"unknown part {word[:MAX_NAME]!r}; {did_you_mean(word[:MAX_NAME], REGISTRIES)}")
    return REGISTRIES[word]


def _bound(limit: Any) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return next((f"{word} {getattr(limit, name):g}" for name, word in words.items() if hasattr(limit, name)), "")


def _first_line(part: Any) -> str:
    return str(part.__doc__ or "").strip().splitlines()[0]


def _source(part: Any) -> str:
    """What the module says: the paper, and whatever else a reader should know."""
    return str(sys.modules[part.__module__].__doc__ or "").strip()
