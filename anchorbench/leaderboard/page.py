"""The leaderboard as a self-contained HTML file, and as a Markdown table.

The page can be read without network, script or colour: the script only adds sorting, filtering and click-to-open to the
table. The template engine escapes all text, and the page's content security policy blocks any other script or style. Nothing on it
depends on when or where it is rendered: the same files give the same bytes.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import yaml

from anchorbench import __version__
from anchorbench.leaderboard.board import Board, Line
from anchorbench.leaderboard.entry import VERDICTS, Entry, Flow, Row, flow_example
from anchorbench.leaderboard.statistics import FAMILY, Interval, TaskStatistics
from anchorbench.leaderboard.submission import canonical_json
from anchorbench.leaderboard.suite import TRACKS, SuiteTask
from anchorbench.probes.attention_flow import Link, links
from anchorbench.show.html import MAX_PAGE_BYTES, PageTooLargeError, percent, write_page
from anchorbench.verdict import FIT

COLUMNS = (
    "rank",
    "recipe",
    "score",
    "95% interval",
    "drawn tasks",
    "gap, points",
    "inferential",
    "underfit",
    "seen",
    "TMACs",
    "independent",
    "flags",
    "time / reference (reported)",
)
SCORE = "Score: the share of held-out answers that compose, averaged over the tasks, of all runs, fit or not."
RANKS = (
    "Rank: one plus the number of entries that are better, directly or through others, by an exact permutation test corrected for"
    f" all comparisons (Holm, {FAMILY:.0%}); entries with the same rank need not be equal. The interval is for these tasks; other"
    " tasks would vary more."
)
LIMITS = (
    f"Underfit runs, below {FIT:.0%} accuracy on their training data, count in the score as they answer, and their share is shown."
    " Drawn tasks are variants of the composite task that the beacon draws, so that no recipe was tuned on them; the gap is how"
    " much more composes on the suite's composite task. Compute is recomputed from the recipe. Time and machine are reported by the"
    " submitter, and no number is verified that nobody has retrained: 'independent' counts those who say that they did."
    " Inferential means inferential within the entry's own training steps."
)
"""Limitations of the score."""
LANE_WIDTH = 230
"""Width of a lane in its drawing's units."""
MARK = 8
"""Size of a run's mark, in the same units."""
MOST_HEIGHT = 48
"""Greatest height of a lane; above it, the marks of equal shares overlap."""


@dataclass(frozen=True)
class Point:
    """An entry in the plot against gamma."""

    digest: str
    gamma: float
    score: Interval
    inferential: float

    @classmethod
    def of(cls, line: Line) -> "Point":
        return cls(line.entry.digest, line.entry.recipe.init.gamma, line.statistics.score, line.statistics.inferential.value)


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
class Mark:
    """A run, drawn at its composed share; those that would overlap are stacked."""

    row: Row
    share: float
    y: float


@dataclass(frozen=True)
class Lane:
    """The runs of a task that hold out the same groups."""

    held_out: str
    mean: float
    height: float
    marks: list[Mark]
    verdicts: list[tuple[str, int]]


@dataclass(frozen=True)
class ShownTask:
    """A task's statistics, and its runs by what they hold out."""

    statistics: TaskStatistics
    lanes: list[Lane]


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
    """A line prepared for the template."""

    line: Line
    id: str
    words: str
    """Text that the filter searches in addition to the table row."""
    yaml: str
    """The fields of the recipe that differ from the defaults."""
    tasks: list[ShownTask]
    verdicts: list[tuple[str, int]]
    flows: list[ShownFlow]
    phase: Phase | None
    """The entries that differ only in gamma: the set that contains this one, or else the first such set."""
    status: str
    """What a reader must know before the score."""
    seconds: float
    reference: float
    """Seconds that the reference takes on the entry's machine for as many runs."""


def render(board: Board, out: Path, *, most_bytes: int = MAX_PAGE_BYTES) -> Path:
    """Writes the page of a board, omitting attention figures if the page would exceed `most_bytes` with them.

    Raises PageTooLargeError if it is too large even so.
    """
    tracks: list[dict[str, Any]] = []
    for name, lines in board.tracks.items():
        if lines:
            phases, groups = _phases(lines), _held_out(lines)
            tracks.append(
                {
                    "name": name,
                    "suite": [task.words for task in TRACKS[name].suite],
                    "entries": [_shown(line, phases, groups) for line in lines],
                    "phases": phases,
                    "verdicts": verdicts_by_task(lines),
                    "withheld": [registration.recipe.name for registration in board.withheld[name]],
                }
            )
    content: dict[str, Any] = {"tracks": tracks, "family": FAMILY, "score_words": SCORE, "ranks": RANKS, "limits": LIMITS}
    content |= {"verdict_names": VERDICTS, "made_of": _made_of([line for lines in board.tracks.values() for line in lines])}
    content |= {"lane_width": LANE_WIDTH, "mark": MARK}
    try:
        return write_page("leaderboard.html", out, most_bytes=most_bytes, **content, attention=True)
    except PageTooLargeError:
        return write_page("leaderboard.html", out, most_bytes=most_bytes, **content, attention=False)


def status_of(line: Line) -> str:
    """What a reader must know before a line's score."""
    words = ["disputed"] if line.disputes else []
    words += [f"{len(line.flags)} {'run' if len(line.flags) == 1 else 'runs'} flagged"] if line.flags else []
    return ", ".join(words)


def reported_seconds(line: Line) -> tuple[float, float]:
    """Training time of the entry's runs, and that of as many runs of the reference on the same machine."""
    rows = line.entry.rows
    return sum(row.seconds for row in rows), line.entry.machine.reference_seconds * len(rows)


def _made_of(lines: Sequence[Line]) -> str:
    """Version, date and commits of what is shown, as far as the files tell."""
    newest = max((line.entry.beacon.time for line in lines), default=None)
    commits = Counter(line.entry.git for line in lines)
    code = ", ".join(f"{_short(commit)} ({count})" for commit, count in commits.most_common())
    drawn = "no seeds are drawn" if newest is None else f"the newest seeds were drawn at {newest}"
    return f"Rendered by anchorbench {__version__}; {drawn}. Commits of the code that trained, as reported, with entries: {code}."


def _short(commit: str | None) -> str:
    if commit is None:
        return "an installed package"
    return commit[:12] + "-dirty" * commit.endswith("-dirty")


def _held_out(lines: Sequence[Line]) -> dict[str, str]:
    """Fingerprint of a task's data -> the groups that it holds out, in words."""
    words: dict[str, str] = {}
    for line in lines:
        suite = {(task.task, task.variant): task for task in line.entry.suite}
        for row in line.rows:
            if row.fingerprint not in words:
                task = line.entry.recipe.recipe(suite[row.task, row.variant], row.seed).load_task()
                names = [group.name for group in task.groups if group.role == "held_out"]
                words[row.fingerprint] = in_words(names, len(task.groups))
    return words


def in_words(names: Sequence[str], groups: int) -> str:
    """What a task of so many groups holds out, from the names of the groups that it does."""
    if not names:
        return "unseen data"
    if len(names) == 1:
        return names[0]
    first, second = sorted(names)[:2]
    if len(names) == 2:
        mirrored = first.strip("()").split(",") == second.strip("()").split(",")[::-1]
        return f"{first} \u21c4" if mirrored else f"{first}, {second}"
    return f"{len(names)} of {groups} groups"


def _lanes(task: SuiteTask, rows: Sequence[Row], groups: dict[str, str]) -> list[Lane]:
    of_groups: dict[str, list[Row]] = {}
    for row in rows:
        of_groups.setdefault(groups[row.fingerprint], []).append(row)
    lanes: list[Lane] = []
    for words, members in sorted(of_groups.items()):
        shares = [(row.composes.value, row) for row in members]
        levels = stacked([share * (LANE_WIDTH - 2 * MARK) for share, _ in shares], MARK)
        height = min(MOST_HEIGHT, 2 * MARK + (MARK + 1) * max(levels))
        step = (height - 2 * MARK) / max(1, *levels)
        marks = [Mark(row, share, MARK / 2 + step * level) for (share, row), level in zip(shares, levels, strict=True)]
        count = Counter(row.verdict for row in members)
        verdicts = [(verdict, count[verdict]) for verdict in VERDICTS if count[verdict]]
        lanes.append(Lane(words, fmean(share for share, _ in shares), height, marks, verdicts))
    return lanes


def stacked(places: Sequence[float], size: float) -> list[int]:
    """The lowest free level of each mark of this size, placed from left to right."""
    ends: list[float] = []
    levels = [0] * len(places)
    for number in sorted(range(len(places)), key=places.__getitem__):
        level = next((level for level, end in enumerate(ends) if end <= places[number]), len(ends))
        ends[level : level + 1] = [places[number] + size]
        levels[number] = level
    return levels


def _shown(line: Line, phases: list[Phase], groups: dict[str, str]) -> Shown:
    entry = line.entry
    own = [phase for phase in phases if entry.digest in {point.digest for point in phase.points}] or phases
    tasks: list[ShownTask] = []
    for statistics in line.statistics.tasks:
        task = statistics.task
        rows = [row for row in line.rows if (row.task, row.variant) == (task.task, task.variant)]
        tasks.append(ShownTask(statistics, _lanes(task, rows, groups)))
    count = Counter(row.verdict for row in line.rows)
    seconds, reference = reported_seconds(line)
    return Shown(
        line=line,
        id=f"entry-{entry.digest[:12]}",
        words=" ".join([entry.recipe.description, *entry.recipe.authors, f"{entry.recipe.model.norm}-LN"]),
        yaml=yaml.safe_dump(entry.recipe.training, sort_keys=False),
        tasks=tasks,
        verdicts=[(verdict, count[verdict]) for verdict in VERDICTS],
        flows=[_flow(entry, flow) for flow in entry.flows],
        phase=replace(own[0], marked=Point.of(line)) if own else None,
        status=status_of(line),
        seconds=seconds,
        reference=reference,
    )


def _flow(entry: Entry, flow: Flow) -> ShownFlow:
    row = entry.rows[flow.row]
    suite = entry.task_of(flow.row)
    task = entry.recipe.recipe(suite, row.seed).load_task()
    tokens = flow_example(task)
    kinds = ["filler"] * task.seq_len
    for name, at in task.token_positions(tokens).items():
        kinds[int(at[0])] = "key" if name == "key" else "anchor"
    patterns: list[np.ndarray] = []
    for layer in flow.attention:
        pattern = np.zeros((task.seq_len, task.seq_len))
        pattern[np.tril_indices(task.seq_len)] = [percent / 100 for percents in layer for percent in percents]
        patterns.append(pattern)
    return ShownFlow(row, task.text(tokens)[0].split(), kinds, len(patterns), links(patterns))


def _phases(lines: Sequence[Line]) -> list[Phase]:
    """Sets of at least three entries that differ only in gamma."""
    alike: dict[bytes, list[Line]] = {}
    for line in lines:
        training = line.entry.recipe.training
        init = {field: value for field, value in training.get("init", {}).items() if field != "gamma"}
        alike.setdefault(canonical_json(training | {"init": init}), []).append(line)
    found: list[Phase] = []
    for group in alike.values():
        by_gamma = {line.entry.recipe.init.gamma: Point.of(line) for line in reversed(group)}
        if len(by_gamma) < 3:
            continue
        shared = ", ".join(_settings(group[0].entry.recipe.training)) or "all else at its default"
        found.append(Phase(shared, [point for _, point in sorted(by_gamma.items())]))
    return found


def _settings(fields: dict[str, Any]) -> Iterator[str]:
    """The fields of a recipe but gamma, each with its value."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _settings(cast(dict[str, Any], value))
        elif name != "gamma":
            yield f"{name} {value}"


def verdicts_by_task(lines: Sequence[Line]) -> list[tuple[str, list[int]]]:
    """Name of each task of the suite, with the number of runs per verdict (as in VERDICTS) over all lines (of one track)."""
    counted: list[tuple[str, list[int]]] = []
    for of_task in zip(*(line.statistics.tasks for line in lines), strict=True):
        counted.append((of_task[0].task.name, np.sum([each.verdicts for each in of_task], axis=0).tolist()))
    return counted


def markdown_table(board: Board) -> str:
    """Per track: the entries, ranked as on the page, and the verdicts of all their runs by task."""
    text: list[str] = []
    for name, lines in board.tracks.items():
        if not lines:
            continue
        text += [
            *([""] if text else []),
            f"Track {name}. {SCORE} {RANKS}",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---:|---|" + "---:|" * 9 + "---|---:|",
        ]
        for line in lines:
            statistics, (seconds, reference) = line.statistics, reported_seconds(line)
            score = statistics.score
            cells = [
                str(line.rank or "-"),
                _escape_markdown(line.name),
                percent(score.value),
                f"{percent(score.low)} to {percent(score.high)}",
                "-" if statistics.drawn is None else percent(statistics.drawn.value),
                "-" if statistics.gap is None else f"{100 * statistics.gap.value:+.0f}",
                percent(statistics.inferential.value),
                percent(statistics.underfit.value),
                percent(statistics.seen.value),
                f"{statistics.macs / 1e12:,.1f}",
                str(len(line.independent)),
                status_of(line) or "-",
                f"{seconds / reference:.2f}",
            ]
            text.append("| " + " | ".join(cells) + " |")
        text += ["", f"{LIMITS} The verdicts of all runs above, by task:", ""]
        text += [f"| task | {' | '.join(VERDICTS)} |", "|---|" + "---:|" * len(VERDICTS)]
        for task, counts in verdicts_by_task(lines):
            text.append(f"| {task} | {' | '.join(map(str, counts))} |")
    return "\n".join(text) + "\n"


def _escape_markdown(text: str) -> str:
    """Escapes Markdown and HTML, and addresses that a viewer would turn into links."""
    return re.sub(r"([\\`*_{}\[\]()#+\-!|~:@.=$])", r"\\\1", html.escape(text))
