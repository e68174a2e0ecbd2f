"""One training run as data, and the hash that identifies it."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from anchorbench.files import Plain
from anchorbench.model.counts import macs_per_step
from anchorbench.model.gpt import ModelConfig, is_gpt
from anchorbench.parts import (
    MAX_STEPS,
    Config,
    GrowthConfig,
    InitConfig,
    OptimizerConfig,
    Part,
    changes,
    estimators,
    growths,
    initializers,
    models,
    noises,
    optimizers,
    penalties,
)
from anchorbench.task import Task, first_sentence, load_task, tasks

MAX_EXAMPLES = 100_000_000
"""More than any machine draws: anything beyond is a mistake."""
SCHEMA = 2
"""Part of every run id. Raised when the default of a field changes, as the same fields then describe different training; a new
field whose default has no effect does not raise it, and changes no id."""

SEEDS = ("seed", "init_seed", "data_seed", "order_seed", "noise_seed")
"""The fields of a recipe in which runs of one condition differ."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]
_SLOT = 2**128 - 159
"""Stands for the seed in a text: no number that a recipe may hold."""


def is_seed(value: Any) -> bool:
    """Whether a recipe may have this seed."""
    return type(value) is int and 0 <= value < 2**31


class Seeds(NamedTuple):
    """The seeds of a run's independent random streams."""

    init: int
    data: int
    order: int
    noise: int


_MODEL, _INIT, _OPTIMIZER = (
    Part(models, "gpt", brief=False),
    Part(initializers, "rate", brief=False),
    Part(optimizers, "adamw", brief=False),
)
_ESTIMATOR, _PENALTY, _NOISE = Part(estimators, "plain"), Part(penalties, "l1", brief=False), Part(noises, "none")
_GROWTH = Part(growths, "split", brief=False)


class Recipe(Plain):
    """A complete description of one run: the same recipe on the same machine gives the same weights."""

    model_config = ConfigDict(defer_build=True)  # parts are loaded when the first recipe is created

    task: str = "composite"
    """Name of the task."""
    variant: str | None = None
    """Variant of the task (default: its first)."""
    task_config: dict[str, Any] = {}
    """Fields of the task's config that differ from the variant's."""
    model: Annotated[ModelConfig, _MODEL] = Field(default_factory=_MODEL.default)
    """The model's structure."""
    init: Annotated[InitConfig, _INIT] = Field(default_factory=_INIT.default)
    """How weights are initialized."""
    optimizer: Annotated[OptimizerConfig, _OPTIMIZER] = Field(default_factory=_OPTIMIZER.default)
    """Optimizer, learning rate and schedule, weight decay, clipping."""
    estimator: Annotated[Config, _ESTIMATOR] = Field(default_factory=_ESTIMATOR.default)
    """The gradient estimate that the optimizer uses: by default, the gradient of the step's batch."""
    penalties: Annotated[list[Annotated[Config, _PENALTY]], Field(max_length=10)] = []
    """Additional loss terms."""
    noise: Annotated[Config, _NOISE] = Field(default_factory=_NOISE.default)
    """Noise in the forward passes of training; evaluation has none."""
    growth: Annotated[list[Annotated[GrowthConfig, _GROWTH]], Field(max_length=10)] = []
    """Events that enlarge the model; `model` is the initial one."""
    batch: int = Field(default=128, ge=1, le=1_000_000)
    """Sequences per step."""
    steps: int = Field(default=1800, ge=1, le=MAX_STEPS)
    """Training steps."""
    stop: Literal["end", "settled"] = "end"
    """Whether a run may stop early once its verdict is settled (by the rule in anchorbench.train.evaluation)."""
    precision: Literal["fp32", "bf16", "tf32"] = "fp32"
    """Precision of activations and matmuls in training; `tf32` applies only to matmuls on a GPU. Weights, moments and evaluation
    are always fp32."""
    data_size: int = Field(default=100_000, ge=1, le=MAX_EXAMPLES)
    """Training examples, drawn once; batches are drawn from them with replacement."""
    seed: Seed = 0
    """Seed of all random streams without a seed of their own below, and of what a variant holds out in rotation. Runs with equal
    seeds share initial weights, training data and order, whatever else differs."""
    init_seed: Seed | None = None
    """Seed of the initial weights (default: `seed`)."""
    data_seed: Seed | None = None
    """Seed of the training and evaluation examples (default: `seed`)."""
    order_seed: Seed | None = None
    """Seed of the order in which batches are drawn (default: `seed`)."""
    noise_seed: Seed | None = None
    """Seed of the noise in training steps (default: `seed`)."""

    @field_validator("task_config")
    @classmethod
    def _as_read_back(cls, value: dict[str, Any]) -> dict[str, Any]:
        return to_jsonable_python(value)  # a recipe equals itself after a round through JSON: no tuples, no integer keys

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Recipe":
        if self.optimizer.warmup > self.steps:
            raise ValueError(f"warmup is {self.optimizer.warmup} steps; allowed: at most steps, {self.steps}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        way = self.optimizer
        own = (self.model, self.init, way, way.decay, way.schedule, way.clip, self.estimator, self.noise)
        for part in (*own, *self.penalties, *self.growth):
            part.require(self)
        return self

    @model_validator(mode="after")
    def _growth_fits(self) -> "Recipe":
        steps = [event.at for event in self.growth]
        if steps and (sorted(set(steps)) != steps or steps[-1] >= self.steps):
            raise ValueError(f"growth is at {steps}; allowed: steps that increase, all below steps, {self.steps}")
        if steps and self.estimator.kind != "plain":
            raise ValueError(f"estimator is {self.estimator.kind!r}, which may keep smaller weights; allowed with growth: 'plain'")
        self.model_at(self.steps)
        return self

    def model_at(self, step: int) -> ModelConfig:
        """Config of the model after `step` steps, including growth. Raises ValueError if it cannot grow like that."""
        shape = self.model
        for event in self.growth:
            if event.at <= step:
                shape = growths[event.kind].grown(event, shape)
        return shape

    @model_validator(mode="after")
    def _precision_fits(self) -> "Recipe":
        if self.precision != "fp32" and self.needs_autograd is not None:
            raise ValueError(f"precision is {self.precision}; allowed for {self.needs_autograd}: fp32")
        return self

    @property
    def needs_autograd(self) -> str | None:
        """The part, in words, that requires autograd; None if the hand-written backward pass supports the recipe."""
        if not is_gpt(self.model):
            return f"models of kind {self.model.kind!r}"
        if self.noise.kind != "none":
            return f"noise of kind {self.noise.kind!r}"
        return next((f"penalties of kind {penalty.kind!r}" for penalty in self._penalties_of_activations()), None)

    def load_task(self) -> Task:
        """The task that this run trains on. Raises ValueError as `anchorbench.load_task` does."""
        return self._task

    @cached_property
    def _of_any_seed(self) -> Task:
        return _loaded(tasks[self.task], self.task, self.variant, json.dumps(self.task_config))

    @cached_property
    def _task(self) -> Task:
        return self._of_any_seed.for_seed(self.seed)

    def macs_per_step(self) -> int:
        """Matmul MACs of one member's training step, including all passes of its estimator and penalties, averaged over its
        growth.
        """
        task, steps = self.load_task(), [0, *(event.at for event in self.growth), self.steps]
        products = sum(
            (end - start) * macs_per_step(self.model_at(start), self.batch, task.vocab_size, task.seq_len)
            for start, end in pairwise(steps)
        )
        each = products / self.steps
        return round(estimators[self.estimator.kind].passes_of(self.estimator) * self.passes * each)

    @property
    def passes(self) -> float:
        """Passes over the batch per gradient: one, plus those of penalties that depend on activations."""
        seeing = self._penalties_of_activations()
        return 1 + sum(penalties[penalty.kind].passes_of(penalty, self.noise) for penalty in seeing)

    def _penalties_of_activations(self) -> list[Config]:
        return [penalty for penalty in self.penalties if penalties[penalty.kind].of_activations]

    @property
    def seeds(self) -> Seeds:
        """The seed of each random stream: its own, or `seed`."""
        given = (self.init_seed, self.data_seed, self.order_seed, self.noise_seed)
        return Seeds(*(self.seed if seed is None else seed for seed in given))

    def canonical(self) -> dict[str, Any]:
        """What identifies this run: the fields that differ from their defaults (in `task_config`: from the variant's), with the
        variant by name. Recipes that describe the same training in different words have the same canonical form.
        """
        content = changes(self)
        content |= {"task": self.task, "variant": self._of_any_seed.variant, "task_config": {}}
        if self.task_config:
            chosen, usual = (
                each.config.model_dump(mode="json") for each in (self._of_any_seed, load_task(self.task, self.variant))
            )
            content["task_config"] = {field: value for field, value in chosen.items() if value != usual[field]}
        for stream in SEEDS[1:]:
            if content.get(stream) == self.seed:
                del content[stream]
        return content

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of the canonical recipe and the task's fingerprint."""
        content = {"schema": SCHEMA, "recipe": self.canonical(), "task": self.load_task().fingerprint}
        return _digest(json.dumps(content, sort_keys=True).encode())

    def with_seeds(self, seeds: Mapping[str, int]) -> "Recipe":
        """`override` of nothing but seeds, which is faster. Raises ValueError as it does."""
        if not all(map(is_seed, seeds.values())):
            return self.override(seeds)
        copy = self.model_copy(update=seeds)
        for derived in ("_task", "run_id"):
            vars(copy).pop(derived, None)
        return copy

    def ids_with_seeds(self, names: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[str]:
        """The ids of `with_seeds`, for many values of the seeds of these names; a few microseconds each."""
        fixed = {name: value for name, value in self.canonical().items() if name not in SEEDS}
        own = {name: getattr(self, name) for name in SEEDS}
        found: list[str] = []
        templates: dict[str, list[bytes]] = {}
        for values in seeds:
            chosen = own | dict(zip(names, values, strict=True))
            seed = chosen["seed"]
            streams = {name: chosen[name] for name in SEEDS[1:] if chosen[name] is not None and chosen[name] != seed}
            fingerprint = _fingerprint(self._of_any_seed, self._of_any_seed.version, seed)
            if streams or not seed:  # seed 0 is the default, which is left out
                content = {"schema": SCHEMA, "recipe": fixed | streams | ({"seed": seed} if seed else {}), "task": fingerprint}
                found.append(_digest(json.dumps(content, sort_keys=True).encode()))
                continue
            if fingerprint not in templates:
                content = {"schema": SCHEMA, "recipe": fixed | {"seed": _SLOT}, "task": fingerprint}
                templates[fingerprint] = json.dumps(content, sort_keys=True).encode().split(str(_SLOT).encode())
            before, after = templates[fingerprint]
            found.append(_digest(b"%b%d%b" % (before, seed, after)))
        return found

    def override(self, fields: Mapping[str, Any]) -> "Recipe":
        """A validated copy with the fields at dotted paths (`optimizer.lr`) replaced. Raises ValueError with one sentence."""
        content = changes(self, mode="python")
        for path, value in fields.items():
            *parents, leaf = path.split(".")
            inner: dict[str, Any] = content
            owner: Any = self
            for parent in parents:
                owner = owner.get(parent) if isinstance(owner, dict) else getattr(owner, parent, None)
                if not isinstance(owner, BaseModel | dict):
                    raise ValueError(f"a recipe has no field {path!r}{_meant(path)}")
                inner = inner.setdefault(parent, {})
            inner[leaf] = value
        return _validated(type(self), content)


@lru_cache(maxsize=1024)
def _loaded(kind: type[Task], name: str, variant: str | None, config: str) -> Task:
    """The task, which recipes share; `kind` has it loaded anew where another class is registered under the name."""
    return load_task(name, variant, **json.loads(config))


@lru_cache(maxsize=2**16)
def _fingerprint(task: Task, version: int, seed: int | None = None) -> str:
    of_seed = task if seed is None else task.for_seed(seed)
    return _fingerprint(task, version) if of_seed is task and seed is not None else of_seed.fingerprint


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def flatten(content: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe's fields by dotted paths; empty dictionaries and the fields of the task's config are kept as values."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        nested = isinstance(value, dict) and value and prefix != "task_config."
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def parse_recipe(content: Any) -> Recipe:
    """A recipe from plain data. Raises ValueError with one sentence."""
    return _validated(Recipe, content)


def _validated(kind: type[Recipe], content: Any) -> Recipe:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        names = [part for part in problem["loc"] if isinstance(part, str) and not part.startswith("[")]
        unknown = problem["type"] == "extra_forbidden"
        raise ValueError(first_sentence(error) + (_meant(".".join(names)) if unknown else "")) from None


def _meant(path: str) -> str:
    """After the sentence about an unknown field: the kinds that have it, or the field that was probably meant."""
    known = _fields(Recipe)
    if kinds := known.get(path):
        return f"; allowed for {' or '.join(kinds)}"
    section, _, leaf = path.rpartition(".")
    beside = {each.rpartition(".")[2]: each for each in known if each.rpartition(".")[0] == section}
    alike = [each for each in known if each.count(".") == path.count(".")]
    meant = [beside[name] for name in difflib.get_close_matches(leaf, beside, n=1, cutoff=0.7)]
    meant += [each for each in known if each.endswith(f".{leaf}")]
    meant += [] if beside else difflib.get_close_matches(path, alike, n=1, cutoff=0.8)
    return f"; did you mean {meant[0]!r}?" if meant else ""


def _fields(config: type[BaseModel], kind: str = "", prefix: str = "", inside: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Dotted path of every field -> the kinds of its part that have it; parts inside another of their own sort are left out."""
    found: dict[str, list[str]] = {}
    for name, field in config.model_fields.items():
        found[prefix + name] = [kind]
        for part in (each for each in field.metadata if isinstance(each, Part) and each.registry.word not in inside):
            for inner_kind, inner in part.registry.all.items():
                of_kind = _fields(inner.Config, inner_kind, f"{prefix}{name}.", (*inside, part.registry.word))
                for path, kinds in of_kind.items():
                    found.setdefault(path, []).extend(kinds)
    return found
