"""From files to a board: entries grouped by what they train, with reproductions pooled and disputes named.

Nothing here depends on file names. Entries that train alike stand in one line if their rows agree; otherwise each has its own line,
without a rank, until a reproduction on fresh seeds refutes all but one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

from anchorbench.files import visible
from anchorbench.leaderboard.check import read_entry
from anchorbench.leaderboard.entry import Entry, Row
from anchorbench.leaderboard.names import name_key
from anchorbench.leaderboard.registration import Registration, Registry, require_later
from anchorbench.leaderboard.statistics import Statistics, better, exchange_p, flip_p, ranks, statistics_of, strata_of
from anchorbench.leaderboard.submission import training_digest
from anchorbench.leaderboard.suite import TRACKS
from anchorbench.leaderboard.verify import ALPHA, Reproduction, counted, read_reproduction

POOL = 40
"""Rows of other entries with the same shape of model, below which a task's rows are not judged."""


@dataclass
class Line:
    """A line of the board: one way of training."""

    entry: Entry
    """The entry whose recipe and runs are shown; others of this training agree with it."""
    names: list[str]
    """What its entries are called, the registered name first."""
    rows: tuple[Row, ...]
    """Runs of the entry, and of agreeing entries and reproductions with other seeds."""
    independent: list[str] = field(default_factory=list)
    """Who else reports runs that agree."""
    disputes: list[str] = field(default_factory=list)
    """What contradicts it, in words; a disputed line has no rank."""
    flags: list[str] = field(default_factory=list)
    """Runs above the range of other entries' with this shape of model, in words."""
    rank: int | None = None
    better: list["Line"] = field(default_factory=list)
    """The lines that it is better than."""

    @property
    def name(self) -> str:
        return " = ".join(self.names)

    @cached_property
    def statistics(self) -> Statistics:
        """Statistics of all its runs."""
        return statistics_of(self.entry.recipe, self.rows, self.entry.drawn)


@dataclass
class Board:
    """What is shown."""

    tracks: dict[str, list[Line]]
    """Track -> its lines, ranked ones first, by rank and score."""
    withheld: dict[str, list[Registration]]
    """Track -> registrations whose beacon is out and that have no entry."""
    left_out: list[str]
    """Why files were left out, one sentence each."""


def read_board(folder: Path) -> Board:
    """The board of `folder`: its entries, registrations, beacons and reproductions. Raises ValueError if it has no `entries`."""
    if not (folder / "entries").is_dir():
        raise ValueError(f"{folder / 'entries'} is not a folder; allowed: a board's folder, which holds entries")
    registry = Registry(folder)
    left_out = list(registry.refused)
    entries: list[Entry] = []
    reproductions: list[Reproduction] = []
    for path in sorted((folder / "entries").glob("*.json")):
        try:
            entry = read_entry(path)
            require_registered(entry, registry, str(path))
            entries.append(entry)
        except ValueError as refusal:
            left_out.append(str(refusal))
    for path in sorted((folder / "reproductions").glob("*.json")):
        try:
            reproductions.append(read_reproduction(path))
        except ValueError as refusal:
            left_out.append(str(refusal))
    board = assemble(entries, reproductions, registry)
    return Board(board.tracks, board.withheld, [visible(reason) for reason in left_out + board.left_out])


def require_registered(entry: Entry, registry: Registry, where: str) -> None:
    """Requires that the board has the registration and the beacon that an entry names. Raises ValueError with one sentence."""
    registration = registry.registrations.get(entry.registration)
    if registration is None:
        raise ValueError(f"{where}: its registration {entry.registration[:12]} is not among the board's")
    recorded = registry.beacons.get(entry.beacon.name)
    if recorded is None:
        raise ValueError(f"{where}: its beacon {entry.beacon.name!r} is not among the board's")
    if recorded.value != entry.beacon.value:
        raise ValueError(f"{where}: its beacon is {entry.beacon.value[:16]}...; the board has {recorded.value[:16]}...")
    try:
        require_later(registration, recorded)
    except ValueError as refusal:
        raise ValueError(f"{where}: {refusal}") from None


def assemble(entries: Sequence[Entry], reproductions: Iterable[Reproduction], registry: Registry) -> Board:
    """The board of valid entries and reproductions, in whatever order they come."""
    of_training: dict[str, list[Entry]] = {}
    for entry in sorted({entry.digest: entry for entry in entries}.values(), key=lambda each: each.digest):
        of_training.setdefault(training_digest(entry.recipe), []).append(entry)
    repeated: dict[str, list[Reproduction]] = {}
    for found in sorted({each.digest: each for each in reproductions}.values(), key=lambda each: each.digest):
        repeated.setdefault(training_digest(found.recipe), []).append(found)
    lines: list[Line] = []
    left_out = [
        f"a reproduction by {found.by!r} is of a recipe without an entry"
        for digest, each in repeated.items()
        if digest not in of_training
        for found in each
    ]
    for digest, group in of_training.items():
        of_group, refuted = _lines(group, repeated.get(digest, []))
        if digest in registry.registrations and len(of_group) == 1:
            registered = registry.registrations[digest].recipe.name
            others = [name for name in of_group[0].names if name_key(name) != name_key(registered)]
            of_group[0].names = [registered, *others]
        lines += of_group
        left_out += refuted
    _name_apart(lines)
    _flag(lines)
    tracks = {track: [line for line in lines if line.entry.recipe.track == track] for track in TRACKS}
    withheld = {
        track: [
            registration
            for digest, registration in sorted(registry.registrations.items())
            if registration.recipe.track == track and registration.beacon in registry.beacons and digest not in of_training
        ]
        for track in TRACKS
    }
    return Board({track: _ranked(found, len(withheld[track])) for track, found in tracks.items()}, withheld, left_out)


def agree(a: Entry, b: Entry) -> bool:
    """Whether the rows of two entries of one training could both be true.

    Of equal seeds on one kind of machine they are equal; on others, the sign-flip test does not refuse either; of different seeds,
    the permutation test does not.
    """
    if [row.seed for row in a.rows] != [row.seed for row in b.rows]:
        return min(exchange_p(strata_of(a.rows), strata_of(b.rows))) >= ALPHA
    if a.environment is not None and b.environment is not None and not a.environment.differences(b.environment):
        return [counted(row) for row in (*a.rows, *a.drawn)] == [counted(row) for row in (*b.rows, *b.drawn)]
    pairs = zip((*a.rows, *a.drawn), (*b.rows, *b.drawn), strict=True)
    return min(flip_p((mine.composes.value, other.composes.value) for mine, other in pairs)) >= ALPHA


def _lines(group: Sequence[Entry], reproductions: Sequence[Reproduction]) -> tuple[list[Line], list[str]]:
    """The lines of all entries of one training, and the reasons for which entries were left out."""
    authors = {name_key(author) for entry in group for author in entry.recipe.authors}
    of_name = {name_key(found.by): found for found in reproductions}
    fresh = [found for name, found in sorted(of_name.items()) if name not in authors]  # nobody reproduces himself
    against = {entry.digest: [found for found in fresh if not _bears_out(found, entry)] for entry in group}
    left_out: list[str] = []
    if _quarrel(group):
        supported = [entry for entry in group if fresh and not against[entry.digest]]
        if supported and not _quarrel(supported):
            for entry in (entry for entry in group if against[entry.digest]):
                by = ", ".join(repr(found.by) for found in against[entry.digest])
                left_out.append(f"the entry {entry.recipe.name!r} ({entry.digest[:8]}) is refuted by the reproduction of {by}")
            group = supported
    if not _quarrel(group):
        return [_pooled(group, fresh, against[group[0].digest])], left_out
    lines = [Line(entry, [entry.recipe.name], entry.rows) for entry in group]
    for line in lines:
        others = [other for other in group if other is not line.entry and not agree(line.entry, other)]
        line.disputes += [f"{other.recipe.name} ({other.digest[:8]}) trains alike and has other rows" for other in others]
        line.disputes = line.disputes or ["other entries of this training contradict each other"]
    return lines, left_out


def _quarrel(group: Sequence[Entry]) -> bool:
    return any(not agree(a, b) for a, b in combinations(group, 2))


def _bears_out(found: Reproduction, entry: Entry) -> bool:
    return min(exchange_p(strata_of(entry.rows), strata_of(found.rows))) >= ALPHA


def _pooled(group: Sequence[Entry], fresh: Sequence[Reproduction], against: Sequence[Reproduction]) -> Line:
    """The line of entries that agree, with the rows of all seeds."""
    entry, *others = group
    rows = {(row.task, row.variant, row.seed): row for each in (*reversed(group), entry) for row in each.rows}
    line = Line(entry, list({name_key(each.recipe.name): each.recipe.name for each in group}.values()), ())
    people = [author for other in others if other.rows != entry.rows for author in other.recipe.authors[:1]]
    for found in fresh:
        if found in against:
            share = statistics_of(found.recipe, found.rows).score.value
            line.disputes.append(f"a reproduction by {found.by} scores {share:.0%}")
        else:
            people.append(found.by)
            rows |= {(row.task, row.variant, row.seed): row for row in found.rows}
    authors = {name_key(author) for author in entry.recipe.authors}
    line.independent = list({name_key(who): who for who in people if name_key(who) not in authors}.values())
    order = [(task.task, task.variant) for task in entry.suite]
    line.rows = tuple(sorted(rows.values(), key=lambda row: order.index((row.task, row.variant))))
    return line


def _name_apart(lines: Sequence[Line]) -> None:
    """Gives lines whose names readers cannot tell apart their digest as well: neither displaces the other."""
    keys = [name_key(name) for line in lines for name in line.names]
    for line in lines:
        line.names = [name if keys.count(name_key(name)) == 1 else f"{name} ({line.entry.digest[:8]})" for name in line.names]


def _flag(lines: Sequence[Line]) -> None:
    """Names rows that lie above the range of all other entries with the same shape of model, beyond the error of their counts."""
    for line in lines:
        others = [other for other in lines if other is not line and _shape(other.entry) == _shape(line.entry)]
        for task in line.entry.suite:
            pool = [(row.accuracy_train, row.composes) for other in others for row in other.entry.rows_of(task)]
            if len(pool) < POOL:
                continue
            for row in line.entry.rows_of(task):
                for what, share, of_pool in zip(
                    ("train accuracy", "composed share"),
                    (row.accuracy_train, row.composes),
                    zip(*pool, strict=True),
                    strict=True,
                ):
                    values = [each.value for each in of_pool]
                    if share.interval[0] > max(values):
                        words = f"{task.name}, seed {row.seed}: {what} {share.value:.2f}"
                        line.flags.append(f"{words}; {len(values)} others {min(values):.2f} to {max(values):.2f}")


def _shape(entry: Entry) -> tuple[object, ...]:
    recipe = entry.recipe
    return recipe.track, *recipe.model.model_dump().values(), *(event.model_dump_json() for event in recipe.growth)


def _ranked(lines: list[Line], withheld: int) -> list[Line]:
    """The lines of a track with their ranks; disputed ones come last and have none."""
    ranked = [line for line in lines if not line.disputes]
    scores = {id(line): line.statistics.score.value for line in lines}
    pairs = better([scores[id(line)] for line in ranked], [strata_of(line.rows) for line in ranked], withheld)
    for line, rank in zip(ranked, ranks(len(ranked), pairs), strict=True):
        line.rank = rank
    for first, second in sorted(pairs):
        ranked[first].better.append(ranked[second])

    def order(line: Line) -> tuple[float, float, str]:
        return line.rank or float("inf"), -scores[id(line)], line.entry.digest

    for line in ranked:
        line.better.sort(key=order)
    return sorted(lines, key=order)
