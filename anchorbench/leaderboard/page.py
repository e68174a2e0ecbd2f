"""The leaderboard as a self-contained HTML file, and as a Markdown table.

The page can be read without network, script or colour: the script only adds sorting, filtering and click-to-open to the
table. The template engine escapes all text, and the page's content security policy blocks any other script or style.
"""

import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anchorbench.leaderboard.entry import (
    SEEDS,
    TRACKS,
    VERDICTS,
    Entry,
    Flow,
    Interval,
    Machine,
    Row,
    Statistics,
    SubmittedRecipe,
    TaskStatistics,
    canonical,
    flow_example,
    seen_and_held_out,
)
from anchorbench.leaderboard.statistics import BETTER, better_than, ranking
from anchorbench.probes.attention_flow import Link, links
from anchorbench.show.html import MAX_PAGE_BYTES, PageTooLargeError, percent, write_page
from anchorbench.verdict import FIT

RANKS = (
    "The rank is one plus the number of entries whose 95% interval lies entirely above this entry's interval: entries with the same"
    " rank need not be equal. Within a rank, entries are sorted by score."
)
LIMITS = (
    f"A run below {FIT:.0%} accuracy on its training data is underfit and counts as not inferential, even if it answers the"
    " held-out groups correctly: the score also measures fit, and on a task that no run memorizes it measures only fit. In"
    " conflict-control the held-out pair follows from the seed, so entries are tested on different mixes of pairs. Inferential"
    " means inferential within the entry's own training steps. Times are reported by the submitter."
)
"""Limitations of the score."""


@dataclass(frozen=True)
class Point:
    """An entry in the plot against gamma."""

    digest: str
    gamma: float
    share: Interval
    held_out: float

    @classmethod
    def of(cls, entry: Entry) -> "Point":
        return cls(entry.digest, entry.recipe.init.gamma, entry.statistics.inferential, entry.statistics.held_out.value)


@dataclass(frozen=True)
class Phase:
    """Entries that differ only in gamma, ordered by it, with one of them marked."""

    words: str
    """The settings they share."""
    points: list[Point]
    marked: Point | None = None

    def x(self, point: Point) -> float:
        """A point's x coordinate in [0, 1]."""
        gammas = [each.gamma for each in (*self.points, self.marked) if each is not None]
        return (point.gamma - min(gammas)) / (max(gammas) - min(gammas))


@dataclass(frozen=True)
class ShownTask:
    """A task's statistics, and each run's row with its held-out accuracy."""

    statistics: TaskStatistics
    rows: list[tuple[Row, float]]


@dataclass(frozen=True)
class ShownFlow:
    """A run's attention as drawn: positions on x, layers on y."""

    row: Row
    words: list[str]
    """The tokens of the sequence."""
    kinds: list[str]
    """Kind of each position: key, anchor or filler."""
    layers: int
    links: list[Link]


@dataclass(frozen=True)
class Shown:
    """An entry prepared for the template."""

    rank: int
    id: str
    recipe: SubmittedRecipe
    statistics: Statistics
    machine: Machine
    git: str | None
    digest: str
    words: str
    """Text that the filter searches in addition to the table row."""
    yaml: str
    """The fields of the recipe that differ from the defaults."""
    tasks: list[ShownTask]
    verdicts: list[tuple[str, int]]
    flows: list[ShownFlow]
    phase: Phase | None
    """The entries that differ only in gamma: the set that contains this one, or else the first such set."""
    better: list[str]
    """Names of the entries that this one is better than."""
    reference: float
    """Seconds that the reference recipe takes on the entry's machine, for the same number of runs."""

    @property
    def relative_time(self) -> float:
        return self.statistics.seconds / self.reference


def render(entries: Sequence[Entry], out: Path, *, most_bytes: int = MAX_PAGE_BYTES) -> Path:
    """Writes the page of valid `entries`, omitting attention figures if the page would exceed `most_bytes` with them.

    Raises PageTooLargeError if it is too large even so.
    """
    tracks: list[dict[str, Any]] = []
    for name, track in TRACKS.items():
        ranked = ranking([entry for entry in entries if entry.recipe.track == name])
        if ranked:
            others = [entry for _, entry in ranked]
            phases = _phases(others)
            shown = [_shown(rank, entry, others, phases) for rank, entry in ranked]
            tracks.append(
                {
                    "name": name,
                    "suite": [task.words for task in track.suite],
                    "entries": shown,
                    "phases": phases,
                    "verdicts": verdicts_by_task(others),
                }
            )
    content: dict[str, Any] = {"tracks": tracks, "seeds": SEEDS, "better_p": BETTER, "ranks": RANKS, "limits": LIMITS}
    content["verdict_names"] = VERDICTS
    try:
        return write_page("leaderboard.html", out, most_bytes=most_bytes, **content, attention=True)
    except PageTooLargeError:
        return write_page("leaderboard.html", out, most_bytes=most_bytes, **content, attention=False)


def _shown(rank: int, entry: Entry, others: list[Entry], phases: list[Phase]) -> Shown:
    own = [phase for phase in phases if entry.digest in {point.digest for point in phase.points}] or phases
    tasks: list[ShownTask] = []
    for task, statistics in zip(entry.suite, entry.statistics.tasks, strict=True):
        tasks.append(ShownTask(statistics, [(row, seen_and_held_out(task, row)[1].value) for row in entry.rows_of(task)]))
    count = Counter(row.verdict for row in entry.rows)
    differing = entry.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"name", "description", "authors"})
    return Shown(
        rank=rank,
        id=f"entry-{entry.digest[:12]}",
        recipe=entry.recipe,
        statistics=entry.statistics,
        machine=entry.machine,
        git=entry.git,
        digest=entry.digest,
        words=" ".join([entry.recipe.description, *entry.recipe.authors, f"{entry.recipe.model.norm}-LN"]),
        yaml=yaml.safe_dump(differing, sort_keys=False),
        tasks=tasks,
        verdicts=[(verdict, count[verdict]) for verdict in VERDICTS],
        flows=[_flow(entry, flow) for flow in entry.flows],
        phase=replace(own[0], marked=Point.of(entry)) if own else None,
        better=[other.recipe.name for other in others if other is not entry and better_than(entry, other) < BETTER],
        reference=entry.machine.reference_seconds * len(entry.rows),
    )


def _flow(entry: Entry, flow: Flow) -> ShownFlow:
    row = entry.rows[flow.row]
    suite = entry.task_of(flow.row)
    task = entry.recipe.recipe(suite, row.seed).load_task()
    tokens = flow_example(suite, task)
    kinds = ["filler"] * task.seq_len
    for name, at in task.token_positions(tokens).items():
        kinds[int(at[0])] = "key" if name == "key" else "anchor"
    patterns: list[np.ndarray] = []
    for layer in flow.attention:
        pattern = np.zeros((task.seq_len, task.seq_len))
        pattern[np.tril_indices(task.seq_len)] = [percent / 100 for percents in layer for percent in percents]
        patterns.append(pattern)
    return ShownFlow(row, task.text(tokens)[0].split(), kinds, len(patterns), links(patterns))


def _phases(entries: list[Entry]) -> list[Phase]:
    """Sets of at least three entries that differ only in gamma."""
    alike: dict[bytes, list[Entry]] = {}
    for entry in entries:
        training = entry.recipe.training
        alike.setdefault(canonical(training | {"init": training["init"] | {"gamma": None}}), []).append(entry)
    found: list[Phase] = []
    for group in alike.values():
        by_gamma = {entry.recipe.init.gamma: Point.of(entry) for entry in reversed(group)}
        if len(by_gamma) < 3:
            continue
        recipe = group[0].recipe
        words = f"{recipe.model.norm}-LN, learning rate {recipe.optimizer.lr:g}, weight decay {recipe.optimizer.weight_decay:g}"
        found.append(Phase(words, [point for _, point in sorted(by_gamma.items())]))
    return found


def verdicts_by_task(entries: Sequence[Entry]) -> list[tuple[str, list[int]]]:
    """Name of each task of the suite, with the number of runs per verdict (as in VERDICTS) over all `entries` (of one track)."""
    counted: list[tuple[str, list[int]]] = []
    for of_task in zip(*(entry.statistics.tasks for entry in entries), strict=True):
        counts = np.sum([each.verdicts for each in of_task], axis=0)
        counted.append((f"{of_task[0].task}/{of_task[0].variant}", counts.tolist()))
    return counted


def markdown_table(entries: Sequence[Entry]) -> str:
    """Per track: the entries, ranked as on the page, and the verdicts of all their runs by task."""
    lines: list[str] = []
    for name in TRACKS:
        ranked = ranking([entry for entry in entries if entry.recipe.track == name])
        if not ranked:
            continue
        lines += [
            *([""] if lines else []),
            f"Track {name}. {RANKS}",
            "",
            "| rank | recipe | score | 95% interval | held-out | seen | underfit | TFLOPs to a stable verdict | time / reference |",
            "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for rank, entry in ranked:
            statistics = entry.statistics
            score = statistics.inferential
            cells = [
                str(rank),
                _escape_markdown(entry.recipe.name),
                percent(score.value),
                f"{percent(score.low)} to {percent(score.high)}",
                percent(statistics.held_out.value),
                percent(statistics.seen.value),
                percent(statistics.underfit),
                f"{statistics.flops_to_verdict / 1e12:,.1f}",
                f"{statistics.seconds / (entry.machine.reference_seconds * len(entry.rows)):.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", f"{LIMITS} The verdicts of all runs above, by task:", ""]
        lines += [f"| task | {' | '.join(VERDICTS)} |", "|---|" + "---:|" * len(VERDICTS)]
        for task, counts in verdicts_by_task([entry for _, entry in ranked]):
            lines.append(f"| {task} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def _escape_markdown(text: str) -> str:
    """Escapes Markdown and HTML, and addresses that a viewer would turn into links."""
    return re.sub(r"([\\`*_{}\[\]()#+\-!|~:@.=$])", r"\\\1", html.escape(text))
