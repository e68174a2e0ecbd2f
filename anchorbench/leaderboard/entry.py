"""The leaderboard's data: what a recipe may choose, the fixed suite, and an entry with its rows.

An entry is a training recipe, not a checkpoint. It is trained on every task of its track's suite with SEEDS seeds, which are
derived from the recipe's hash, so submitters cannot choose them. The score is the share of runs with the inferential verdict.

Suite           held-out data, which determine the verdict
    composite/heldout-both        ood: (3,4) and (4,3), both never trained
    composite/conflict-control    ood: an ordinary pair and its mirror, held out beside a trained exception and its mirror
    nine-anchors/heldout-both     ood: one pair of 81 and its mirror
    random-permutations/default   ood: 19 of 64 ordered pairs, which do not commute
    memory-reasoning/default      ood: one reasoning pair and its mirror, beside memorized pairs. 18 keys instead of the paper's
                                  100: the laptop track is too short for 10,000 random answers
    chain-search/single           iid: edges never trained. No group is held out; the training examples count as seen. One hop
                                  instead of two, so that two layers suffice
    scan/addprim-turn-left        ood: a verb in combinations (gpu track only)

    Fit is measured on seen groups that were trained with the rule, without exceptions and memorized answers.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import AfterValidator, Field, model_validator

from anchorbench.files import Plain
from anchorbench.model.counts import parameters
from anchorbench.model.gpt import ModelConfig
from anchorbench.model.initializers.rate import Rate
from anchorbench.parts import MAX_STEPS
from anchorbench.probes.attention_flow import central
from anchorbench.recipe import MAX_EXAMPLES, Recipe, parse_recipe
from anchorbench.task import Task
from anchorbench.verdict import Composition, Counts, OfToday, Share

SEEDS = 8
"""Members per task."""
FLOW_LENGTH = 16
"""Longest sequence, in tokens, whose attention an entry stores; longer ones are hard to read."""


class SuiteTask(NamedTuple):
    """A task of the suite; `unseen` is the split that determines the verdict."""

    task: str
    variant: str
    config: dict[str, Any] = {}
    unseen: Literal["ood", "iid"] = "ood"

    @property
    def name(self) -> str:
        return f"{self.task}/{self.variant}"

    @property
    def words(self) -> str:
        """The name, with any non-default settings."""
        special = [f"{key} {value}" for key, value in self.config.items()]
        special += ["no group held out, tested on unseen data"] if self.unseen == "iid" else []
        return self.name + (f" ({', '.join(special)})" if special else "")


LAPTOP_SUITE = (
    SuiteTask("composite", "heldout-both"),
    SuiteTask("composite", "conflict-control"),
    SuiteTask("nine-anchors", "heldout-both"),
    SuiteTask("random-permutations", "default"),
    SuiteTask("memory-reasoning", "default", {"key_min": 21, "key_max": 38}),
    SuiteTask("chain-search", "single", {"hops": 1}, unseen="iid"),
)


class Track(NamedTuple):
    """A suite, and the budget of a recipe on it."""

    suite: tuple[SuiteTask, ...]
    parameters: int
    products: float
    """Multiply-accumulates (MACs) in the matmuls of all runs, forward and backward."""
    layers: int
    heads: int
    steps: int
    """Layers, heads and steps bound costs that MACs do not count: elementwise operations, softmax, and fixed costs per step."""
    data_size: int


TRACKS = {
    "laptop": Track(LAPTOP_SUITE, 1_000_000, 5e13, 12, 16, 20_000, 200_000),
    "gpu": Track((*LAPTOP_SUITE, SuiteTask("scan", "addprim-turn-left")), 100_000_000, 2e19, 24, 32, 200_000, 1_000_000),
}


BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that render as blank."""


def _plain(text: str) -> str:
    """Requires one line of visible characters: none that hide, reorder or stack on the text around them."""
    for character in text:
        category = unicodedata.category(character)
        if category[0] == "C" or category in ("Zl", "Zp") or character in BLANK:
            raise ValueError(f"holds the character U+{ord(character):04X}; allowed: visible characters on one line")
    if "MMM" in "".join(unicodedata.category(character)[0] for character in unicodedata.normalize("NFC", text)):
        raise ValueError("stacks three marks on a character; allowed: at most 2")
    if text != text.strip():
        raise ValueError("begins or ends with a space; allowed: text without leading or trailing spaces")
    return text


MARKS = " .,-+()/&'_"
"""Characters allowed in a name besides letters and digits."""
LOOK_ALIKE = {"LATIN", "GREEK", "CYRILLIC"}
"""Scripts that share look-alike letters."""


def _title(text: str) -> str:
    """Requires visible text that cannot be mistaken for another column of the table: no rank before it, no share after it."""
    for character in _plain(text):
        if unicodedata.category(character)[0] not in "LM" and character not in MARKS and not character.isdecimal():
            raise ValueError(f"holds {character!r}; allowed: letters, digits, spaces and {' '.join(MARKS[1:])}")
    if not text[:1].isalpha():
        raise ValueError(f"begins with {text[:1]!r}; allowed: a letter")
    for word in text.split(" "):
        scripts = LOOK_ALIKE & {unicodedata.name(character, "").split(" ")[0] for character in word}
        if not word or len(scripts) > 1:
            raise ValueError(f"has {' and '.join(sorted(scripts)) or 'no'} letters in one word; allowed: letters of one script")
    return text


def name_key(name: str) -> str:
    """A key that is equal for names that readers cannot tell apart."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


Name = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_title)]
"""Begins with a letter; letters, digits, spaces and a few marks."""
Sentence = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_plain)]
Version = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(_plain)]


Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}(-dirty)?$")]


class SubmittedOptimizer(Plain):
    """AdamW on all parameters, with linear warm-up, cosine decay and gradient clipping. The board has its own format, whatever else
    the package can train with.
    """

    lr: float = Field(default=1e-3, gt=0, le=100)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0, le=1000)
    decay: Literal["scaled", "unscaled", "coupled"] = "scaled"
    """What a step with rate lr does to weight w: w -= lr * weight_decay * w (AdamW); w -= weight_decay * w (one reading of
    2605.04396); or gradient += weight_decay * w after clipping (Adam with L2)."""
    decay_from: int = Field(default=0, ge=0, le=MAX_STEPS)
    """The decay acts after this step ..."""
    decay_until: int | None = Field(default=None, ge=0, le=MAX_STEPS)
    """... and until this one, or to the end."""
    decay_embeddings: bool = True
    """Whether it also acts on token, position and output embeddings."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """From the peak down to `lr * end`; constant stays at the peak."""
    warmup: int = Field(default=200, ge=0, le=MAX_STEPS)
    """Steps of linear increase from `lr * start` to `lr`."""
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=0.05, ge=0, le=1)
    """The schedule falls to `lr * end` at the last step."""
    clip: float = Field(default=1.0, gt=0, le=1e9)
    """Maximum gradient norm, per run."""


class SubmittedRecipe(Plain):
    """A training recipe as written in YAML. Task and seed come from the suite."""

    name: Name
    """Name in the table."""
    authors: Annotated[tuple[Name, ...], Field(max_length=20)] = ()
    description: Sentence
    """What it is and where it comes from."""
    track: Literal["laptop", "gpu"] = "laptop"
    """The suite and the budget."""
    model: ModelConfig = ModelConfig()
    """Architecture of the model."""
    init: Rate.Config = Rate.Config()
    """Initialization of the weights."""
    optimizer: SubmittedOptimizer = SubmittedOptimizer()
    """AdamW's hyper-parameters and their schedule."""
    batch: int = Field(default=128, ge=1, le=65_536)
    """Examples per step."""
    steps: int = Field(default=2500, ge=1, le=MAX_STEPS)
    """Training steps per run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matmuls in training; auto picks the fastest on the machine, and never appears in an entry."""
    data_size: int = Field(default=100_000, ge=1, le=MAX_EXAMPLES)
    """Training examples, drawn once."""

    @model_validator(mode="after")
    def _within_budget(self) -> "SubmittedRecipe":
        track = TRACKS[self.track]
        for what, value, most in (
            ("n_layer", self.model.n_layer, track.layers),
            ("n_head", self.model.n_head, track.heads),
            ("steps", self.steps, track.steps),
            ("data_size", self.data_size, track.data_size),
        ):
            if value > most:
                raise ValueError(f"{what} is {value}; allowed in track {self.track}: at most {most}")
        recipes = [self.recipe(task, 0) for task in track.suite]  # also validates combinations of fields
        if (count := max(map(parameters_of, recipes))) > track.parameters:
            raise ValueError(f"the model has {count} parameters; allowed in track {self.track}: at most {track.parameters}")
        products = SEEDS * sum(recipe.steps * recipe.macs_per_step() for recipe in recipes)
        if products > track.products:
            raise ValueError(
                f"the suite takes {products:.3g} matmul MACs; allowed in track {self.track}: at most {track.products:.3g}"
            )
        return self

    @property
    def suite(self) -> tuple[SuiteTask, ...]:
        return TRACKS[self.track].suite

    @property
    def training(self) -> dict[str, Any]:
        """The fields that affect training; the rest are descriptive."""
        return self.model_dump(exclude={"name", "authors", "description", "track"})

    def recipe(self, task: SuiteTask, seed: int) -> Recipe:
        """The recipe of one run."""
        precision = "fp32" if self.precision == "auto" else self.precision
        chosen = {"task": task.task, "variant": task.variant, "task_config": task.config, "seed": seed, "precision": precision}
        return parse_recipe(self.training | chosen)

    def seeds(self, task: SuiteTask) -> tuple[int, ...]:
        """The task's seeds, from the SHA-256 of its name and the training fields without precision, which depends on the machine.

        Only fields that differ from their defaults count, so a new field whose default has no effect changes no seed.
        """
        content = self.model_dump(mode="json", include=set(self.training) - {"precision"}, exclude_defaults=True)
        text = canonical(content) + task.name.encode()
        return tuple(int.from_bytes(hashlib.sha256(text + bytes([i])).digest()[:8], "big") % 2**31 for i in range(SEEDS))


def parameters_of(recipe: Recipe) -> int:
    """Parameters of one run."""
    task = recipe.load_task()
    return parameters(recipe.model, task.vocab_size, task.seq_len)


class Row(Plain):
    """One run. Shares are [hits, n]; null where they do not apply to the task."""

    task: Annotated[str, Field(max_length=60)]
    variant: Annotated[str, Field(max_length=60)]
    seed: int = Field(ge=0, lt=2**31)
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Fingerprint of the task: equal fingerprints mean equal data."""
    accuracy_train: Counts
    """On training examples, memorized halves included. A run fits if this is at least 90%."""
    accuracy_iid: Counts
    """On seen groups at unseen data; on training examples in a task that has none."""
    rule: Counts
    """The part of accuracy_iid on groups trained with the rule, without exceptions and memorized answers."""
    composes: Counts | None
    """Held-out groups without a trained mirror, answered by composing."""
    ordered: Counts | None
    """The mirror of a trained exception, answered by composing."""
    symmetric: Counts | None
    """The mirror of a trained exception, answered as the exception was trained."""
    verdict: Annotated[Composition, OfToday]
    """Derived from the shares."""
    steps: int = Field(ge=1, le=10_000_000)
    """Steps trained, as in the recipe."""
    settled: int = Field(ge=1, le=10_000_000)
    """First evaluated step from which the run fits and its held-out share stays between the same two verdict thresholds; the last
    step for a run that ends underfit."""
    seconds: float = Field(ge=1e-6, le=1e9)
    """Training time: the stack's time divided by its number of members."""


class Interval(Plain):
    """An estimate and its 95% interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class TaskStatistics(Plain):
    """Statistics of one task's rows."""

    task: Annotated[str, Field(max_length=60)]
    variant: Annotated[str, Field(max_length=60)]
    inferential: Interval
    """Share of runs with the inferential verdict."""
    held_out: Interval
    """Mean held-out accuracy."""
    seen: Interval
    """Mean accuracy on seen groups."""
    verdicts: tuple[
        Annotated[int, Field(ge=0, le=SEEDS)],
        Annotated[int, Field(ge=0, le=SEEDS)],
        Annotated[int, Field(ge=0, le=SEEDS)],
        Annotated[int, Field(ge=0, le=SEEDS)],
    ]
    """Numbers of runs that are inferential, mixed, memorizing and underfit."""


class Statistics(Plain):
    """Statistics of all rows; recomputed whenever an entry is read."""

    inferential: Interval
    """The score: mean over tasks of the share of inferential runs."""
    held_out: Interval
    seen: Interval
    member_steps: int = Field(ge=1, le=10**12)
    """Steps of all runs."""
    member_steps_to_verdict: int = Field(ge=1, le=10**12)
    """Steps until each run's verdict was stable, summed."""
    flops: float = Field(gt=0, le=1e24)
    """Matmul FLOPs of all steps of all runs: two per multiply-accumulate."""
    flops_to_verdict: float = Field(gt=0, le=1e24)
    seconds: float = Field(gt=0, le=1e12)
    """Training time of all runs."""
    tasks: Annotated[tuple[TaskStatistics, ...], Field(max_length=20)]

    @property
    def underfit(self) -> float:
        """Share of runs that did not fit the training data: they lower the score without having memorized."""
        return sum(task.verdicts[3] for task in self.tasks) / (SEEDS * len(self.tasks))


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

    schema_version: Literal[1] = 1
    recipe: SubmittedRecipe
    rows: Annotated[tuple[Row, ...], Field(max_length=200)]
    """One per run: the suite's tasks in order, each with its seeds in order."""
    statistics: Statistics
    flows: Annotated[tuple[Flow, ...], Field(max_length=4)]
    """At most one per verdict: that of the first run with this verdict on a short-sequence task, unless it diverged."""
    machine: Machine
    git: Commit | None
    """Commit of the code that trained; null if it was installed from a package."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the other fields as canonical JSON."""

    @classmethod
    def sealed(cls, **fields: Any) -> "Entry":
        """Builds an entry from these fields and adds its digest."""
        entry = cls(**fields, digest="0" * 64)
        return entry.model_copy(update={"digest": digest_of(entry.model_dump(mode="json"))})

    @property
    def suite(self) -> tuple[SuiteTask, ...]:
        return self.recipe.suite

    def task_of(self, row: int) -> SuiteTask:
        """The task of row number `row` in a complete entry."""
        return self.suite[row // SEEDS]

    def rows_of(self, task: SuiteTask) -> list[Row]:
        return [row for row in self.rows if (row.task, row.variant) == (task.task, task.variant)]

    def to_json(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n").encode()


def canonical(content: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII only, so that equal content has equal bytes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(content: dict[str, Any]) -> str:
    """The digest of an entry's content, excluding its `digest` field."""
    return hashlib.sha256(canonical({key: value for key, value in content.items() if key != "digest"})).hexdigest()


def seen_and_held_out(task: SuiteTask, row: Row) -> tuple[Share, Share]:
    """The two shares that determine the verdict."""
    if task.unseen == "iid":
        return row.accuracy_train, row.accuracy_iid
    if row.composes is None:
        raise ValueError(f"a row of {task.name} has no composes; allowed: [hits, n]")
    return row.accuracy_train, row.composes


def flow_rows(recipe: SubmittedRecipe, rows: Sequence[Row]) -> list[int]:
    """Indices of the rows whose attention an entry shows: the first of each verdict, on tasks of at most FLOW_LENGTH tokens."""
    short = [recipe.recipe(task, 0).load_task().seq_len <= FLOW_LENGTH for task in recipe.suite]
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if short[number // SEEDS]:
            first.setdefault(row.verdict, number)
    return sorted(first.values())


def flow_example(suite: SuiteTask, task: Task) -> Int[np.ndarray, "1 seq"]:
    """The held-out sequence on which the attention of a run trained on `task` is shown."""
    return central(task, task.sample(suite.unseen, 200, seed=0).tokens)
