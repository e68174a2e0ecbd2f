"""Defines tasks: example arrays, splits, groups with their roles, an independently computed answer, and the registry.

A task is an exactly known function of a token sequence, built so that a model that infers the rule and one that
memorizes the table differ on inputs that are never trained on (anchor functions, arXiv 2401.08309; composite
anchor functions, arXiv 2405.05409). The rest of the package depends on this interface, not on which tasks exist.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field, ValidationError

from anchorbench.files import Plain
from anchorbench.registry import Registry, did_you_mean

Split = Literal["train", "iid", "ood"]
SPLITS: tuple[Split, ...] = get_args(Split)
NO_ANSWER = -1
"""Placeholder in `foils`, `label`, `group`, `key`, `position` and `split` where there is no value."""

Role = Literal["trained", "exception", "held_out", "mirror"]
"""`trained`: trained with the rule; `exception`: trained with another answer; `held_out`: neither the group nor its mirror is
trained (does the model compose?); `mirror`: never trained, the mirror of an exception (how is the exception treated?)."""


MAX_IDS = 32_768
"""Maximum vocabulary size: ids fit in 16 bits."""
TokenId = Annotated[int, Field(ge=0, lt=MAX_IDS)]
Offset = Annotated[int, Field(ge=-MAX_IDS, le=MAX_IDS)]
Modulus = Annotated[int, Field(ge=2, le=MAX_IDS)]
DrawSeed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of anything that a task draws only once, such as a table."""
Offsets = Annotated[dict[TokenId, Offset], Field(max_length=64)]
"""Anchor -> the offset that it adds."""
Pairs = Annotated[tuple[tuple[TokenId, TokenId], ...], Field(max_length=4096)]


def full_name(task: str, variant: str) -> str:
    """TASK-VARIANT: what a variant is called in folders, data sets and commands."""
    return f"{task}-{variant}"


class Token(NamedTuple):
    """One id of the vocabulary: its word in text, and its meaning."""

    word: str
    meaning: str


class Group(NamedTuple):
    """A group of examples that is trained or held out as a whole, for instance an anchor pair."""

    name: str
    role: Role


@dataclass(frozen=True)
class Examples:
    """`n` examples of one task.

    tokens `[n, seq_len]`; label `[n]`; group `[n]`, an index into `task.groups`; key `[n]`, the token that the rule is
    applied to; position `[n]` of the key; foils: name -> `[n]`, the competing answers. `NO_ANSWER` (-1) where
    an example has no such value. In held-out groups the label follows the rule.
    """

    tokens: Int[np.ndarray, "n seq_len"]
    label: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    key: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    foils: dict[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    target: np.ndarray | None = None
    """`[n, vocab_size]`: the answer distribution, in tasks with a random answer; else None."""

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Any) -> "Examples":
        """The same arrays at `rows` (a slice, an index array or a mask)."""
        return replace(
            self,
            tokens=self.tokens[rows],
            label=self.label[rows],
            group=self.group[rows],
            key=self.key[rows],
            position=self.position[rows],
            foils={name: values[rows] for name, values in self.foils.items()},
            target=None if self.target is None else self.target[rows],
        )


@dataclass(frozen=True)
class Answers:
    """Output of `Task.answer`, computed from tokens alone: fields as in `Examples`, plus `valid [n]` and `split [n]` (index into
    `SPLITS`).

    An invalid row has `NO_ANSWER` everywhere and a sentence in `problems[row]`.
    """

    valid: Bool[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    key: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    split: Int[np.ndarray, " n"]
    foils: dict[str, Int[np.ndarray, " n"]]
    problems: dict[int, str]
    target: np.ndarray | None = None
    """As `Examples.target`; if given, `label` is the most probable answer."""

    def require_valid(self) -> "Answers":
        """Returns self, or raises ValueError naming the first row that does not belong to the task."""
        for row, problem in sorted(self.problems.items()):
            raise ValueError(f"row {row} is not an example of the task: {problem}")
        return self


class Parser:
    """Collects the problems of rows while `Task.answer` parses them; the first problem of each row is kept."""

    def __init__(self, rows: int) -> None:
        self.valid = np.ones(rows, bool)
        self.problems: dict[int, str] = {}

    def require(self, condition: Bool[np.ndarray, " n"] | np.bool, problem: str) -> None:
        """Marks the rows where `condition [n]` is false as invalid. (numpy's types say `.all(1)` may be a scalar.)"""
        bad = self.valid & ~condition
        self.problems.update(dict.fromkeys(np.flatnonzero(bad).tolist(), problem))
        self.valid &= condition

    def answers(
        self,
        *,
        label: np.ndarray,
        group: np.ndarray,
        key: np.ndarray,
        position: np.ndarray,
        split: np.ndarray,
        foils: dict[str, np.ndarray] | None = None,
        target: np.ndarray | None = None,
    ) -> Answers:
        """The parsed arrays, each `[n]`, with `NO_ANSWER` in invalid rows."""

        def masked(values: np.ndarray) -> np.ndarray:
            return np.where(self.valid, values, NO_ANSWER).astype(np.int64)

        return Answers(
            valid=self.valid,
            label=masked(label),
            group=masked(group),
            key=masked(key),
            position=masked(position),
            split=masked(split),
            foils={name: masked(values) for name, values in (foils or {}).items()},
            problems=self.problems,
            target=target,
        )


class TaskConfig(Plain):
    """Base class of task configs: immutable; unknown fields are rejected."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields added since 0.1.0. The default must have no effect, and a field at its default does not enter the fingerprint."""


class Task(ABC):
    """An exactly known function of a token sequence. Subclasses set the class variables and implement the abstract methods."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Bumped whenever the generated data change; enters the fingerprint."""
    paper: ClassVar[str]
    """Paper and section that define the task."""
    Config: ClassVar[type[TaskConfig]]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    """Variant name -> config fields; the first is the default."""
    description: ClassVar[str]
    """One or two sentences for the listing."""
    sizes: Mapping[str, int] = {"train": 100_000, "iid": 10_000, "ood": 10_000}
    """Default number of examples per split; the paper's where it has one."""
    variant_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """Variant name -> sizes that override the task's."""

    def __init__(self, variant: str = "default", config: TaskConfig | None = None) -> None:
        self.variant = variant
        self.config = config if config is not None else self.Config()
        self.sizes = self.variant_sizes.get(variant, self.sizes)

    @property
    @abstractmethod
    def seq_len(self) -> int:
        """Tokens in a sequence."""

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[Token, ...]:
        """Word and meaning of every id; words are unique and contain no white space."""

    @property
    @abstractmethod
    def groups(self) -> tuple[Group, ...]:
        """The groups; `Examples.group` indexes them."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing uniformly among the possible answers."""

    @abstractmethod
    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        """Generates `n` examples of `split`, vectorized; called by `sample`."""

    @abstractmethod
    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        """Computes the result of `answer` from `tokens [n, seq_len]` alone, independently of `generate`."""

    def answer(self, tokens: Int[np.ndarray, "n seq_len"]) -> Answers:
        """Recovers key, position, group, split, label and foils from `tokens [n, seq_len]` of any origin.

        Rows that do not belong to the task are marked invalid, with the reason. Raises ValueError for a wrong shape or dtype.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != self.seq_len or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {list(tokens.shape)}; allowed: integers of shape [n, {self.seq_len}]"
            )
        return self.parse(tokens.astype(np.int64), Parser(len(tokens)))

    def mirror(self, tokens: Int[np.ndarray, "n seq_len"]) -> Int[np.ndarray, "n seq_len"] | None:
        """`tokens [n, seq_len]` with the two anchors swapped, or None if this does not apply to the task."""
        return None

    def token_positions(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Positions of the parts of each sequence, for probes: name -> positions `[n]`; at least the key."""
        return {"key": self.answer(tokens).require_valid().position}

    def trace(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """Intermediate values of the rule on `tokens [n, seq_len]`, as targets for probes: name -> values `[n]`.

        Names are identifiers such as `after_first_anchor`, in an order in which the rule can be computed, and no value is negative.
        `NO_ANSWER` marks values that a sequence does not have, and all values of rows that `answer` rejects. Groups with the role
        `exception` are traced by the rule too, so their labels do not follow from it. {} for a task without named intermediate
        values. Raises ValueError as `answer` does.
        """
        valid = self.answer(tokens).valid
        traced: dict[str, Int[np.ndarray, " n"]] = {}
        for name, values in self.intermediate_values(np.asarray(tokens)[valid].astype(np.int64)).items():
            traced[name] = np.full(len(valid), NO_ANSWER)
            traced[name][valid] = values
        return traced

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The result of `trace` for valid `tokens [n, seq_len]`; each task documents its own names."""
        return {}

    def for_seed(self, seed: int) -> "Task":
        """The task that the run with this seed trains on: itself, unless the variant rotates something over seeds."""
        return self

    @property
    def splits(self) -> tuple[Split, ...]:
        """The task's splits."""
        held_out = any(group.role in ("held_out", "mirror") for group in self.groups)
        return SPLITS if held_out else ("train", "iid")

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of name, version and config: equal fingerprints mean equal data."""
        changed = self.config.model_dump(mode="json", exclude_defaults=True)
        config = {
            field: value
            for field, value in self.config.model_dump(mode="json").items()
            if field not in self.config.later or field in changed
        }
        content = {"name": self.name, "version": self.version, "config": config}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def sample(self, split: Split, n: int, seed: int) -> Examples:
        """Samples `n` examples of `split`. The same (task, split, n, seed) gives the same bytes; adjacent seeds share nothing.

        Raises ValueError for an unknown split, a negative n or seed, or a split that the task does not have.
        """
        self._check(split, n, seed)
        return self.generate(self._generator(split, seed, 0), split, n)

    def iter_batches(self, split: Split, batch: int, seed: int) -> Iterator[Examples]:
        """An endless stream of fresh batches of `split`, never stored and never repeated."""
        self._check(split, batch, seed)
        number = 1
        while True:
            yield self.generate(self._generator(split, seed, number), split, batch)
            number += 1

    def text(self, tokens: Int[np.ndarray, "n seq_len"]) -> list[str]:
        """`tokens [n, seq_len]` as words separated by single spaces."""
        words = [token.word for token in self.vocabulary]
        return [" ".join(words[token] for token in row) for row in tokens.tolist()]

    def _check(self, split: Split, n: int, seed: int) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
        if split not in self.splits:
            raise ValueError(f"task {self.name} (variant {self.variant}) has no split {split!r}; it has {', '.join(self.splits)}")
        for what, value in (("n", n), ("seed", seed)):
            if not _is_count(value):
                raise ValueError(f"{what} is {value!r}; allowed: an integer of at least 0")

    def _generator(self, split: Split, seed: int, batch: int) -> np.random.Generator:
        entropy = [int(self.fingerprint, 16), SPLITS.index(split), int(seed), batch]
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))

    @property
    def full_name(self) -> str:
        """TASK-VARIANT, see `full_name`."""
        return full_name(self.name, self.variant)

    def __repr__(self) -> str:
        return f"<task {self.name}, variant {self.variant}, fingerprint {self.fingerprint}>"


tasks: Registry[type[Task]] = Registry("task", "anchorbench.tasks", lambda task: task.name)
TaskClass = TypeVar("TaskClass", bound=type[Task])


def register(task: TaskClass) -> TaskClass:
    """Class decorator: adds a task to those of this process, so that sweeps and the command line know it by its name.

    Raises ValueError if another task has the name. Packages add theirs by the entry-point group `anchorbench.tasks`.
    """
    return tasks.register(task)


def list_tasks() -> list[tuple[str, str]]:
    """All registered (task name, variant) pairs, in order."""
    return [(name, variant) for name, task in sorted(tasks.all.items()) for variant in task.variants]


def load_task(name: str, variant: str | None = None, **config: Any) -> Task:
    """Loads the registered task `name` in a variant (by default its first), with config fields overridden.

    Raises ValueError with one sentence for an unknown name, variant or field, or an invalid config.
    """
    task = tasks[name]
    variant = variant if variant is not None else next(iter(task.variants))
    if variant not in task.variants:
        raise ValueError(f"task {name} has no variant {variant!r}; {did_you_mean(variant, task.variants)}")
    try:
        return task(variant, task.Config(**{**task.variants[variant], **config}))
    except ValidationError as error:
        raise ValueError(f"task {name}: {first_sentence(error)}") from None


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def first_sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error, in one sentence: field, value, allowed values."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("["))  # omits the kinds of parts
    message = problem["msg"].removeprefix("Value error, ")
    if not where:
        return message
    if problem["type"] == "extra_forbidden":
        return f"unknown field {where!r}"
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where} is {problem['input']!r}; {message[0].lower()}{message[1:]}"
