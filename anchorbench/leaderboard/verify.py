"""Retrains part of an entry: does its claim stand? What the answer can and cannot exclude is computed with it.

Own seeds       where everything that bits depend on is the same, rows must be equal, one by one. On another kind of machine the
    differences between claimed and retrained runs are compared by the exact sign-flip test, which takes no view on how much
    machines have in common.
Fresh seeds     drawn by the verifier; the claimed runs are compared with them by the exact two-sample permutation test within tasks
    and pairs (`statistics.exchange_p`). The luck of an entry does not reproduce on fresh seeds.

A claim is refused at p < 0.025 in either direction: of honest ones 5%, so that a refusal calls for more runs, which pool.
"""

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError

from anchorbench.files import Plain, parse_json, read_bytes, visible
from anchorbench.leaderboard.check import MAX_DEPTH, MAX_ENTRY_BYTES, require_row
from anchorbench.leaderboard.entry import Commit, Entry, Row, digest_of
from anchorbench.leaderboard.names import Name, name_key
from anchorbench.leaderboard.registration import Digest, seeds_of
from anchorbench.leaderboard.statistics import Interval, exchange_p, flip_p, statistics_of, strata_of
from anchorbench.leaderboard.submission import SubmittedRecipe, training_digest
from anchorbench.leaderboard.submit import environment_of, row_of
from anchorbench.leaderboard.suite import SEEDS, SuiteTask
from anchorbench.machine import Machine as Environment
from anchorbench.machine import commit
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.task import first_sentence

ALPHA = 0.025
"""A claim is refused if the test's p is below this, in either direction."""
LIE = 0.15
"""The difference between claimed and true score against which the defaults have a power of about 80% or more."""
ENOUGH = 0.5
"""Power against LIE from which on a claim that is not refused may be said to stand."""
COMPARED = 3
"""Runs per task that are retrained by default where rows must be equal; for a test, all of them."""
FRESH = 2
"""Runs with fresh seeds that are trained by default for each claimed one."""
CHANGED = 0.2
"""Assumed share of runs that come out differently on another kind of machine, for the power of the sign-flip test."""
DRAWS, COARSE = 200, 40
"""Simulated verifications behind a stated power, and their grid of shares."""


@dataclass(frozen=True)
class Verification:
    """A retrained part of an entry's runs."""

    entry: Entry
    retrained: tuple[Row, ...]
    drawn: tuple[Row, ...]
    """Those on drawn tasks."""
    fresh: bool
    """Whether the runs have new seeds."""
    environment: Environment | None
    """What the retrained runs' bits depend on, if it was the same for all."""

    @property
    def differences(self) -> str | None:
        """How this machine differs from the entry's in what bits depend on; None if that is not recorded."""
        there, here = self.entry.environment, self.environment
        return None if there is None or here is None else there.differences(here)

    @property
    def exact(self) -> bool:
        """Whether each row must equal its claim."""
        return not self.fresh and self.differences == ""

    @property
    def unequal(self) -> list[tuple[Row, Row]]:
        """Claimed and retrained rows of equal seeds that differ."""
        pairs = [] if self.fresh else self._pairs
        return [(ours, theirs) for ours, theirs in pairs if counted(ours) != counted(theirs)]

    @property
    def p(self) -> tuple[float, float]:
        """P of a difference at least as large if nothing was invented: of claiming too much, and too little."""
        if self.fresh:
            return exchange_p(strata_of(self.entry.rows), strata_of(self.retrained))
        return flip_p((claim.composes.value, row.composes.value) for claim, row in self._pairs)

    @property
    def _pairs(self) -> list[tuple[Row, Row]]:
        """Claimed and retrained rows of own seeds."""
        claimed = {row.seed: row for row in (*self.entry.rows, *self.entry.drawn)}
        return [(claimed[row.seed], row) for row in (*self.retrained, *self.drawn)]

    @property
    def stands(self) -> bool:
        return not self.unequal if self.exact else min(self.p) >= ALPHA

    @property
    def score(self) -> Interval:
        """The score of the retrained runs, on the tasks that they cover."""
        return statistics_of(self.entry.recipe, self.retrained).score

    def power(self, lie: float) -> float:
        """Probability that this verification refuses a claim that is `lie` above the true score."""
        per_task = _per_task(self.entry, self.retrained)
        return row_power(per_task, lie) if self.exact else power_of_test(self.entry, per_task, lie, fresh=self.fresh)


def counted(row: Row) -> dict[str, object]:
    """What must be equal where bits are: all but the time."""
    return row.model_dump(exclude={"seconds"})


def _per_task(entry: Entry, rows: Sequence[Row]) -> list[int]:
    return [sum((row.task, row.variant) == (task.task, task.variant) for row in rows) for task in entry.suite]


def row_power(per_task: Sequence[int], lie: float) -> float:
    """Probability that at least one invented row is among those retrained, `per_task` of SEEDS in each task.

    A lie in the score needs at least `lie` of all rows, as none can gain more than 1. Spreading them evenly over tasks hides them
    best.
    """
    # The worst pairing for the verifier: most are invented where fewest are drawn.
    lies = int(np.ceil(lie * SEEDS * len(per_task) - 1e-9))
    spread = [lies // len(per_task) + (t < lies % len(per_task)) for t in range(len(per_task))]
    missed = 1.0
    for retrained, invented in zip(sorted(per_task), sorted(spread, reverse=True), strict=True):
        for i in range(retrained):
            missed *= max(0, SEEDS - invented - i) / (SEEDS - i)
    return 1 - missed


def power_of_test(entry: Entry, per_task: Sequence[int], lie: float, *, fresh: bool) -> float:
    """Probability that the test refuses a claim `lie` above the truth, if runs vary as the entry's do.

    By simulation: claimed runs are drawn from the entry's of the same task and pair. Of the true ones, as many compose nothing as
    the lie requires: that is the lie that varies most, hence the hardest to detect. The others are drawn again if they are fresh,
    and in CHANGED of the cases if they have the claim's seeds.
    """
    rng = np.random.default_rng(0)
    strata = strata_of(entry.rows)
    score = statistics_of(entry.recipe, entry.rows).score.value
    invented = 1.0 if score <= lie else lie / score
    of_task = {task.name: [key for key, shares in strata.items() if key[0] == task.name for _ in shares] for task in entry.suite}
    refused = 0
    for _ in range(DRAWS):
        claimed = {key: rng.choice(shares, len(shares)).tolist() for key, shares in strata.items()}
        truth: dict[tuple[str, str], list[float]] = {}
        pairs: list[tuple[float, float]] = []
        for keys, n in zip(of_task.values(), per_task, strict=True):
            pool = keys * -(-n // len(keys))  # fresh runs may be more than those claimed
            for key in (pool[i] for i in rng.permutation(len(pool))[:n]):
                claim = float(rng.choice(claimed[key]))
                again = float(rng.choice(strata[key])) if fresh or rng.random() < CHANGED else claim
                share = 0.0 if rng.random() < invented else again
                truth.setdefault(key, []).append(share)
                pairs.append((claim, share))
        p = exchange_p(claimed, truth, COARSE) if fresh else flip_p(pairs, COARSE)
        refused += min(p) < ALPHA
    return refused / DRAWS


def verify(entry: Entry, members: int | None, seed: str, out: Path) -> Verification:
    """Retrains `members` runs of a valid entry in `out`, drawn at random with `seed`, hexadecimal digits that the submitter
    does not know, and spread evenly over the tasks.

    By default COMPARED runs of each task and of the drawn ones; all of the suite's, if rows need not be equal here. Raises
    ValueError for a number of runs that the entry does not have.
    """
    if members is not None and not 1 <= members <= len(entry.rows):
        raise ValueError(f"members is {members}; allowed: 1 to {len(entry.rows)}")
    chosen = sample_rows(len(entry.suite), members or COMPARED * len(entry.suite), int(seed, 16))
    runs = _train(entry.recipe, _seeds(entry, chosen), out)
    drawn: list[tuple[SuiteTask, Run]] = []
    if members is None:
        of_drawn = np.random.default_rng(int(seed, 16)).permutation(len(entry.drawn))[:COMPARED].tolist()
        for task, own_seed in (entry.drawn_runs[number] for number in sorted(of_drawn)):
            drawn += _train_task(entry.recipe, task, [own_seed], out / "drawn" / str(own_seed))
    done = _verification(entry, runs, drawn, fresh=False)
    if members is not None or done.exact:
        return done
    others = [row for row in range(len(entry.rows)) if row not in chosen]
    return _verification(entry, runs + _train(entry.recipe, _seeds(entry, others), out / "others"), drawn, fresh=False)


def _seeds(entry: Entry, chosen: Sequence[int]) -> list[list[int]]:
    """Seeds of the chosen rows, by task."""
    return [[entry.rows[row].seed for row in chosen if row // SEEDS == task] for task in range(len(entry.suite))]


def sample_rows(tasks: int, members: int, seed: int, of_task: int = SEEDS) -> list[int]:
    """Randomly drawn rows of a complete entry, in order: rounds over the tasks in random order, each with a random run per task."""
    rng = np.random.default_rng(seed)
    members_of = np.stack([rng.permutation(of_task) for _ in range(tasks)])
    rounds = [of_task * task + int(members_of[task, i]) for i in range(of_task) for task in rng.permutation(tasks)]
    return sorted(rounds[:members])


def verify_fresh(entry: Entry, members: int | None, nonce: str, out: Path) -> Verification:
    """Trains `members` runs of the entry's recipe in `out` with new seeds, which follow from `nonce`, unknown to the submitter.

    By default FRESH times as many as the entry has on the suite. Raises ValueError for more than that.
    """
    most = FRESH * SEEDS * len(entry.suite)
    members = most if members is None else members
    if not 1 <= members <= most:
        raise ValueError(f"members is {members}; allowed: 1 to {most}")
    return _verification(entry, _train(entry.recipe, fresh_seeds(entry.recipe, nonce, members), out), [], fresh=True)


def fresh_seeds(recipe: SubmittedRecipe, nonce: str, members: int) -> list[list[int]]:
    """New seeds of `members` runs, by task: the nonce takes the place of the beacon."""
    of_task = FRESH * SEEDS
    digest, chosen = training_digest(recipe), sample_rows(len(recipe.suite), members, int(nonce, 16), of_task)
    return [
        [seeds_of(digest, nonce, task, of_task)[row % of_task] for row in chosen if row // of_task == number]
        for number, task in enumerate(recipe.suite)
    ]


def nonce_of(recipe: SubmittedRecipe, by: str) -> str:
    """What draws the seeds of a reproduction that somebody signs: one draw for each recipe and name."""
    return hashlib.sha256(f"{training_digest(recipe)} {name_key(by)}".encode()).hexdigest()[:16]


def _train(recipe: SubmittedRecipe, seeds: Sequence[Sequence[int]], out: Path) -> list[tuple[SuiteTask, Run]]:
    runs: list[tuple[SuiteTask, Run]] = []
    for task, chosen in zip(recipe.suite, seeds, strict=True):
        if not chosen:
            continue
        runs += _train_task(recipe, task, chosen, out / task.name.replace("/", "-"))
    return runs


def _train_task(recipe: SubmittedRecipe, task: SuiteTask, seeds: Sequence[int], out: Path) -> list[tuple[SuiteTask, Run]]:
    sweep = Sweep(recipe.recipe(task, seeds[0]), {"seed": tuple(seeds)})
    return [(task, run) for run in run_sweep(sweep, SweepFolder(out, sweep))]


def _verification(
    entry: Entry, runs: Sequence[tuple[SuiteTask, Run]], drawn: Sequence[tuple[SuiteTask, Run]], *, fresh: bool
) -> Verification:
    rows, of_drawn = (tuple(row_of(task, run) for task, run in each) for each in (runs, drawn))
    return Verification(entry, rows, of_drawn, fresh, environment_of([run for _, run in (*runs, *drawn)]))


def in_words(done: Verification, seed: str) -> Generator[str]:
    """What was found, and what that can and cannot exclude: one sentence a line, of about 80 characters."""
    found, n, more = done.score, len(done.retrained), len(done.drawn)
    tasks = {(row.task, row.variant) for row in done.retrained}
    claim = statistics_of(done.entry.recipe, [row for row in done.entry.rows if (row.task, row.variant) in tasks]).score
    kind = "fresh seeds" if done.fresh else "own seeds"
    yield f"{n} {'run' if n == 1 else 'runs'} with {kind} on {len(tasks)} of {len(done.entry.suite)} tasks" + (
        f", {more} on drawn tasks" if more else ""
    )
    yield f"drawn by --seed {seed}"
    yield f"score there {found.value:.2f}, 95% interval {found.low:.2f} to {found.high:.2f}; claimed {claim.value:.2f}"
    power = {lie: done.power(lie) for lie in (LIE / 3, LIE / 1.5, LIE)}
    if done.exact:
        yield f"machine and gradient path are the same: {n + more - len(done.unequal)} of {n + more} rows are equal"
        for claimed, again in done.unequal:
            yield f"  {claimed.task}/{claimed.variant}, seed {claimed.seed}: {_first_difference(claimed, again)}"
    else:
        high, low = done.p
        if not done.fresh:
            why = "the entry does not record its machine" if done.differences is None else visible(done.differences, 200)
            yield f"rows need not be equal: {why}"
        test = "permutation test within tasks and pairs" if done.fresh else "sign-flip test"
        yield f"{test}: p = {high:.3g} for claiming too much,"
        yield f"  {low:.3g} for claiming too little; refused below {ALPHA}"
    if not done.stands:
        yield "the claim does not stand"
    elif power[LIE] < ENOUGH:
        yield "the claim is not refused, but these are too few runs to say that it stands"
    else:
        yield "the claim stands"
    words = ", ".join(f"by {lie:.2f} {share:.0%}" for lie, share in power.items())
    yield f"power against a claim above the truth: {words}"
    fresh, own = "smaller lies, lies about drawn tasks", "other invented rows, lucky seeds (see --fresh)"
    yield f"cannot exclude: {fresh if done.fresh else own}, invented times"
    if not done.stands and not done.exact:
        yield "an honest claim is refused in 5% of cases: retrain more runs before calling it a lie"


def _first_difference(claimed: Row, again: Row) -> str:
    ours, theirs = counted(claimed), counted(again)
    field = next(field for field in ours if ours[field] != theirs[field])
    return f"{field} claimed {_plain(ours[field])}, now {_plain(theirs[field])}"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------------------------ reproductions


class Reproduction(Plain):
    """Runs of an entry's recipe by somebody else, with seeds that follow from the recipe and their name: one JSON file."""

    schema_version: int = Field(default=1, ge=1, le=1)
    by: Name
    """Who trained them."""
    recipe: SubmittedRecipe
    """The entry's recipe."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1, max_length=200)]
    """One per run, in the suite's order."""
    environment: Environment | None
    """What the runs' bits depend on, if it was the same for all."""
    git: Commit | None
    """Commit of the code that trained."""
    digest: Digest
    """SHA-256 of the other fields as canonical JSON."""

    @classmethod
    def of(cls, done: Verification, by: str) -> "Reproduction":
        """What a verification on fresh seeds leaves behind. Raises ValueError for an invalid name."""
        content = {"by": by, "recipe": done.entry.recipe, "rows": done.retrained}
        try:
            found = cls.model_validate({**content, "environment": done.environment, "git": commit(), "digest": "0" * 64})
        except ValidationError as error:
            raise ValueError(first_sentence(error)) from None
        return found.model_copy(update={"digest": digest_of(found.model_dump(mode="json"))})

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


def read_reproduction(path: Path) -> Reproduction:
    """Reads and validates a reproduction. Raises ValueError with one sentence that names the file."""
    content = parse_json(read_bytes(path, most=MAX_ENTRY_BYTES), str(path), deepest=MAX_DEPTH)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; allowed: an object with a reproduction's fields")
    try:
        found = Reproduction.model_validate(content)
        if found.digest != (digest := digest_of(content)):
            raise ValueError(f"the digest is {found.digest[:16]}...; the content gives {digest[:16]}...")
        _require_rows(found)
    except ValueError as refusal:
        sentence = first_sentence(refusal) if isinstance(refusal, ValidationError) else str(refusal)
        raise ValueError(visible(f"{path}: {sentence}", 300)) from None
    return found


def _require_rows(found: Reproduction) -> None:
    """Requires the runs that recipe, name and number of runs give: none can be chosen, and none left out."""
    suite, n = found.recipe.suite, len(found.rows)
    if n > (most := FRESH * SEEDS * len(suite)):
        raise ValueError(f"there are {n} rows; allowed: at most {most}")
    expected = fresh_seeds(found.recipe, nonce_of(found.recipe, found.by), n)
    runs = [(task, seed) for task, seeds in zip(suite, expected, strict=True) for seed in seeds]
    for number, ((task, seed), row) in enumerate(zip(runs, found.rows, strict=True)):
        if (row.task, row.variant, row.seed) != (task.task, task.variant, seed):
            words = f"row {number} is of {row.task}/{row.variant}, seed {row.seed}; recipe and name give {task.name}, {seed}"
            raise ValueError(words)
        require_row(f"row {number}", row, found.recipe.recipe(task, seed))
