"""What is trained how: one run as data, its presets, and the hash that names it."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from anchorbench.files import Plain
from anchorbench.model.gpt import Shape
from anchorbench.model.initialize import Init
from anchorbench.task import Task, first_sentence, load_task

MAX_STEPS = 100_000_000
MAX_EXAMPLES = 100_000_000
"""More than any machine trains or draws: beyond them is a slip, or no recipe."""
SCHEMA = 2
"""Enters every run id. It is raised when the default of a field changes, as the same fields then describe another training; a
new field whose default does nothing needs no new number and changes no id."""

SEEDS = ("seed", "init_seed", "data_seed", "order_seed")
"""The fields of a recipe in which members of one condition differ."""
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Seeds(NamedTuple):
    """The seeds of a run's independent random streams."""

    init: int
    data: int
    order: int


class Optimizer(Plain):
    """AdamW on all parameters, with linear warm-up, cosine decay and gradient clipping."""

    lr: float = Field(default=1e-3, gt=0, le=100)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0, le=1000)
    decay: Literal["scaled", "unscaled", "coupled"] = "scaled"
    """What a step of rate lr does with weight w: w -= lr * weight_decay * w (AdamW); w -= weight_decay * w (one reading of
    2605.04396); or gradient += weight_decay * w after clipping (Adam with L2)."""
    decay_from: int = Field(default=0, ge=0, le=MAX_STEPS)
    """The decay acts after this step ..."""
    decay_until: int | None = Field(default=None, ge=0, le=MAX_STEPS)
    """... and until this one, or to the end."""
    decay_embeddings: bool = True
    """Whether it acts on token, position and output embeddings too."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """From the peak down to `lr * end`; constant stays at the peak."""
    warmup: int = Field(default=200, ge=0, le=MAX_STEPS)
    """Steps of linear growth from `lr * start` to `lr`."""
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=0.05, ge=0, le=1)
    """The schedule falls to `lr * end` at the last step."""
    clip: float = Field(default=1.0, gt=0, le=1e9)
    """Largest gradient norm, per member."""


class Recipe(Plain):
    """One run, complete: the same recipe on the same machine gives the same weights."""

    task: str = "composite"
    variant: str | None = None
    task_config: dict[str, Any] = {}
    """Fields of the task's configuration that differ from the variant's."""
    model: Shape = Shape()
    init: Init = Init()
    optimizer: Optimizer = Optimizer()
    batch: int = Field(default=128, ge=1, le=1_000_000)
    steps: int = Field(default=1800, ge=1, le=MAX_STEPS)
    stop: Literal["end", "settled"] = "end"
    """Whether a member may end early once its verdict is settled (the rule is in anchorbench.train.stack)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of activations and products in training; weights, moments and evaluation are fp32 always."""
    data_size: int = Field(default=100_000, ge=1, le=MAX_EXAMPLES)
    """Training examples, drawn once; batches are drawn from them with replacement."""
    seed: Seed = 0
    """The seed of all random streams that are not given one below, and of what a variant holds out in rotation. Members with
    equal seeds share initial weights, training data and order, whatever else differs."""
    init_seed: Seed | None = None
    """Seed of the initial weights; `seed` if not given."""
    data_seed: Seed | None = None
    """Seed of the training and evaluation examples; `seed` if not given."""
    order_seed: Seed | None = None
    """Seed of the order in which batches are drawn; `seed` if not given."""

    @field_validator("task_config")
    @classmethod
    def _as_read_back(cls, value: dict[str, Any]) -> dict[str, Any]:
        return to_jsonable_python(value)  # a recipe equals itself after a round through JSON: no tuples, no integer keys

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Recipe":
        if self.optimizer.warmup > self.steps:
            raise ValueError(f"warmup is {self.optimizer.warmup} steps; allowed: at most steps, {self.steps}")
        return self

    def load_task(self) -> Task:
        """The task that this run trains on. Raises ValueError as `anchorbench.load_task` does."""
        return self._task

    @cached_property
    def _task(self) -> Task:
        return load_task(self.task, self.variant, **self.task_config).for_seed(self.seed)

    @property
    def seeds(self) -> Seeds:
        """The seed of each random stream: its own, or `seed`."""
        given = (self.init_seed, self.data_seed, self.order_seed)
        return Seeds(*(self.seed if seed is None else seed for seed in given))

    def canonical(self) -> dict[str, Any]:
        """What sets this run apart: the fields that differ from their defaults (in `task_config`: from the variant's), with the
        variant by name. Two recipes that say the same training in different words have one canonical form.
        """
        content = self.model_dump(mode="json", exclude_defaults=True)
        variant = load_task(self.task, self.variant)
        chosen, usual = (
            task.config.model_dump(mode="json") for task in (load_task(self.task, self.variant, **self.task_config), variant)
        )
        content |= {"task": self.task, "variant": variant.variant}
        content["task_config"] = {field: value for field, value in chosen.items() if value != usual[field]}
        for stream in SEEDS[1:]:
            if content.get(stream) == self.seed:
                del content[stream]
        return content

    @cached_property
    def run_id(self) -> str:
        """16 hex digits of the canonical recipe and the task's fingerprint."""
        content = {"schema": SCHEMA, "recipe": self.canonical(), "task": self.load_task().fingerprint}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def override(self, fields: Mapping[str, Any]) -> "Recipe":
        """A copy with the fields at dotted paths (`optimizer.lr`) replaced, checked again. Raises ValueError with one sentence."""
        content = self.model_dump()
        for path, value in fields.items():
            *parents, leaf = path.split(".")
            inner = content
            for parent in parents:
                if not isinstance(inner.get(parent), dict):
                    raise ValueError(f"a recipe has no field {path!r}")
                inner = inner[parent]
            inner[leaf] = value
        return _validated(type(self), content)


def flatten(content: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe's fields by dotted paths; an empty dictionary, and each field of the task's configuration, stays a value."""
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
        raise ValueError(first_sentence(error)) from None


_NEURIPS_STEPS_PER_EPOCH, _PAMI_STEPS_PER_EPOCH = 370, 76

PRESETS: dict[str, Recipe] = {
    # The phase diagram of 2501.08537 on a laptop: without weight decay the boundary lies well inside the range of good fit.
    "laptop": Recipe(optimizer=Optimizer(weight_decay=0.0), steps=2500),
    # 2405.05409, appendix A: 759,375 training sequences, 210 epochs, warm-up of 10 epochs from 1e-5 to 2.5e-4 and cosine back.
    "paper-neurips": Recipe(
        variant="conflict",
        task_config={"vocab_size": 201},
        model=Shape(
            n_layer=2, n_head=1, d_model=400, d_head=200, d_ff=1200, norm="post", activation="relu", bias=False, unembed_bias=True
        ),
        init=Init(gamma=0.5, fan="own", depth_scale=False, unembed_bias="uniform"),
        optimizer=Optimizer(lr=2.5e-4, weight_decay=0.01, warmup=10 * _NEURIPS_STEPS_PER_EPOCH, start=0.04, end=0.04),
        batch=2048,
        steps=210 * _NEURIPS_STEPS_PER_EPOCH,
        data_size=759_375,
    ),
    # 2501.08537, phase diagram over gamma and weight decay: 157,500 training sequences, 1050 epochs, both mirrored pairs held out.
    "paper-pami": Recipe(
        variant="heldout-both",
        task_config={"vocab_size": 201},
        model=Shape(n_layer=10, n_head=10, d_model=640, d_head=64, d_ff=1280, norm="pre", activation="gelu"),
        init=Init(gamma=0.5, fan="d_model", depth_scale=True),
        optimizer=Optimizer(lr=3e-5, weight_decay=0.01, warmup=50 * _PAMI_STEPS_PER_EPOCH, start=1 / 3, end=1 / 3),
        batch=2048,
        steps=1050 * _PAMI_STEPS_PER_EPOCH,
        data_size=157_500,
    ),
}
