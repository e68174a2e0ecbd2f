"""The leaderboard's data: an entry, which is a training recipe and the results of its runs, not a checkpoint.

A recipe is trained on every task of its track's suite with seeds that nobody can choose: they follow from a registration and from a
beacon, a value that did not exist when the recipe was registered (`anchorbench.leaderboard.registration`).
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int
from pydantic import AfterValidator, Field

from anchorbench.files import Plain
from anchorbench.leaderboard.drawn import drawn_runs
from anchorbench.leaderboard.names import Version, visible_text
from anchorbench.leaderboard.registration import Beacon, Digest, seeds_of
from anchorbench.leaderboard.submission import SubmittedRecipe, canonical_json
from anchorbench.leaderboard.suite import SEEDS, SuiteTask
from anchorbench.machine import Machine as Environment
from anchorbench.model.gpt import is_gpt
from anchorbench.probes.attention_flow import central
from anchorbench.task import Task
from anchorbench.verdict import Composition, Counts, OfToday

MAX_WORDS = 200
"""Characters of a field of `environment`."""
FLOW_LENGTH = 16
"""Longest sequence, in tokens, whose attention an entry stores; longer ones are hard to read."""


Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}(-dirty)?$")]


def _short(environment: Environment) -> Environment:
    for field, value in environment.model_dump().items():
        if isinstance(value, str) and len(visible_text(value)) > MAX_WORDS:
            raise ValueError(f"{field} has {len(value)} characters; allowed: at most {MAX_WORDS}")
    return environment


class Row(Plain):
    """One run. Shares are [hits, n]."""

    task: Annotated[str, Field(max_length=60)]
    variant: Annotated[str, Field(max_length=60)]
    seed: int = Field(ge=0, lt=2**31)
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Fingerprint of the task: equal fingerprints mean equal data."""
    accuracy_train: Counts
    """On training examples, memorized halves included. A run fits if this is at least 90%."""
    accuracy_iid: Counts
    """On seen groups at unseen data; on training examples in a task that has none."""
    composes: Counts
    """Held-out groups, answered by composing."""
    verdict: Annotated[Composition, OfToday]
    """Derived from the shares."""
    steps: int = Field(ge=1, le=10_000_000)
    """Steps trained, as in the recipe."""
    settled: int = Field(ge=1, le=10_000_000)
    """First evaluated step from which the run fits and its held-out share stays between the same two verdict thresholds; the last
    step for a run that ends underfit."""
    seconds: float = Field(ge=1e-6, le=1e9)
    """Training time: the stack's time divided by its number of members."""


VERDICTS: tuple[Composition, ...] = ("inferential", "mixed", "memorizing", "underfit")


Percent = Annotated[int, Field(ge=0, le=100)]


class Flow(Plain):
    """Attention of one run on one held-out sequence (`flow_example`), as an illustration: no statistic uses it."""

    row: int = Field(ge=0, lt=200)
    """Index of the run's row."""
    attention: tuple[tuple[tuple[Percent, ...], ...], ...]
    """`[layer][reader][source]`, sources up to the reader: percent, heads averaged."""


class Machine(Plain):
    """What the times depend on, without names or paths."""

    python: Version
    machine: Version
    """Processor architecture."""
    cores: int = Field(ge=1, le=100_000)
    threads: Version
    accelerator: Version
    anchorbench: Version
    torch: Version
    numpy: Version
    reference_seconds: float = Field(ge=1e-3, le=1e9)
    """Seconds per member of the laptop preset on this machine, from a few timed steps of a stack of 8."""


class Entry(Plain):
    """A recipe and its results: one JSON file."""

    schema_version: int = Field(default=3, ge=3, le=3)
    recipe: SubmittedRecipe
    registration: Digest
    """Digest of the registration."""
    beacon: Beacon
    """The value that, with the registration, decided the seeds."""
    rows: Annotated[tuple[Row, ...], Field(max_length=200)]
    """One per run: the suite's tasks in order, each with its seeds in order."""
    drawn: Annotated[tuple[Row, ...], Field(max_length=200)]
    """One per task that the beacon draws."""
    flows: Annotated[tuple[Flow, ...], Field(max_length=4)]
    """At most one per verdict: that of the first run with this verdict on a short-sequence task, unless it diverged."""
    machine: Machine
    environment: Annotated[Environment, AfterValidator(_short)] | None = None
    """What the runs' bits depend on; null if it was not the same for all of them."""
    git: Commit | None
    """Commit of the code that trained; null if it was installed from a package."""
    digest: Digest
    """SHA-256 of the other fields as canonical JSON."""

    @classmethod
    def sealed(cls, **fields: Any) -> "Entry":
        """Builds an entry from these fields and adds its digest."""
        entry = cls(**fields, digest="0" * 64)
        return entry.model_copy(update={"digest": digest_of(entry.model_dump(mode="json"))})

    @property
    def suite(self) -> tuple[SuiteTask, ...]:
        return self.recipe.suite

    @property
    def drawn_runs(self) -> list[tuple[SuiteTask, int]]:
        """The tasks that the beacon draws, each with its run's seed."""
        return drawn_runs(self.registration, self.beacon.value)

    def seeds(self, task: SuiteTask) -> tuple[int, ...]:
        """The seeds that the task's runs must have."""
        return seeds_of(self.registration, self.beacon.value, task)

    def task_of(self, row: int) -> SuiteTask:
        """The task of row number `row` in a complete entry."""
        return self.suite[row // SEEDS]

    def rows_of(self, task: SuiteTask) -> list[Row]:
        return [row for row in self.rows if (row.task, row.variant) == (task.task, task.variant)]

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


def digest_of(content: dict[str, Any]) -> str:
    """The digest of an entry's content, excluding its `digest` field."""
    return hashlib.sha256(canonical_json({key: value for key, value in content.items() if key != "digest"})).hexdigest()


def flow_rows(recipe: SubmittedRecipe, rows: Sequence[Row]) -> list[int]:
    """Indices of the rows whose attention an entry shows: the first of each verdict, on tasks of at most FLOW_LENGTH tokens. Only
    the plain GPT attends to the tokens alone.
    """
    if not is_gpt(recipe.model):
        return []
    short = [recipe.recipe(task, 0).load_task().seq_len <= FLOW_LENGTH for task in recipe.suite]
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if short[number // SEEDS]:
            first.setdefault(row.verdict, number)
    return sorted(first.values())


def flow_example(task: Task) -> Int[np.ndarray, "1 seq"]:
    """The held-out sequence on which the attention of a run trained on `task` is shown."""
    return central(task, task.sample("ood", 200, seed=0).tokens)
