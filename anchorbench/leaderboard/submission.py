"""A recipe as submitted to the board, and its canonical form: what two recipes that train alike have in common."""

import hashlib
import json
import math
from collections.abc import Generator
from copy import deepcopy
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, WithJsonSchema, field_validator, model_validator

from anchorbench.files import Plain, parse_json
from anchorbench.leaderboard.names import Name, Sentence
from anchorbench.leaderboard.suite import SEEDS, TRACKS, SuiteTask
from anchorbench.model.counts import parameters
from anchorbench.model.gpt import ModelConfig, new_model
from anchorbench.model.initialize import initialize
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
from anchorbench.recipe import MAX_EXAMPLES, Recipe, parse_recipe
from anchorbench.task import first_sentence
from anchorbench.train.rates import decay_amounts, learning_rate, shrinkage

DIGITS = 3
"""Significant digits of a number in a canonical recipe."""
ABOUT = {"name", "authors", "description", "track"}
"""Fields that do not affect training."""
_MODEL, _INIT, _OPTIMIZER = (
    Part(models, "gpt", brief=False),
    Part(initializers, "rate", brief=False),
    Part(optimizers, "adamw", brief=False),
)
_ESTIMATOR, _PENALTY, _NOISE = Part(estimators, "plain"), Part(penalties, "l1", brief=False), Part(noises, "none")
_GROWTH = Part(growths, "split", brief=False)
_FORM = WithJsonSchema({"type": ["object", "string"]})
"""What a part looks like in the schema; its fields are listed by `anchorbench parts`."""


class SubmittedRecipe(Plain):
    """A training recipe as written in YAML, of any registered parts. Task and seed come from the suite."""

    name: Name
    """Name in the table."""
    authors: Annotated[tuple[Name, ...], Field(max_length=20)] = ()
    description: Sentence
    """What it is and where it comes from."""
    track: Literal["laptop", "gpu"] = "laptop"
    """The suite and the budget."""
    model: Annotated[ModelConfig, _MODEL, _FORM] = Field(default_factory=_MODEL.default)
    """Architecture of the model."""
    init: Annotated[InitConfig, _INIT, _FORM] = Field(default_factory=_INIT.default)
    """Initialization of the weights."""
    optimizer: Annotated[OptimizerConfig, _OPTIMIZER, _FORM] = Field(default_factory=_OPTIMIZER.default)
    """Optimizer, learning rate and schedule, weight decay, clipping."""
    estimator: Annotated[Config, _ESTIMATOR, _FORM] = Field(default_factory=_ESTIMATOR.default)
    """The gradient estimate that the optimizer uses."""
    penalties: Annotated[list[Annotated[Config, _PENALTY, _FORM]], Field(max_length=10)] = []
    """Additional loss terms."""
    noise: Annotated[Config, _NOISE, _FORM] = Field(default_factory=_NOISE.default)
    """Noise in the forward passes of training."""
    growth: Annotated[list[Annotated[GrowthConfig, _GROWTH, _FORM]], Field(max_length=10)] = []
    """Events that enlarge the model."""
    batch: int = Field(default=128, ge=1, le=65_536)
    """Examples per step."""
    steps: int = Field(default=2500, ge=1, le=MAX_STEPS)
    """Training steps per run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matmuls in training; a registration writes auto as fp32."""
    data_size: int = Field(default=100_000, ge=1, le=MAX_EXAMPLES)
    """Training examples, drawn once."""

    @field_validator("optimizer", mode="before")
    @classmethod
    def _opens_no_file(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("rates"), str):
            raise ValueError(f"rates is {value['rates'][:50]!r}; allowed here: pairs [tensor, rate], not a file")
        return value

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
        if (products := self.macs()) > track.products:
            raise ValueError(
                f"the suite takes {products:.3g} matmul MACs; allowed in track {self.track}: at most {track.products:.3g}"
            )
        return self

    @property
    def suite(self) -> tuple[SuiteTask, ...]:
        return TRACKS[self.track].suite

    @property
    def training(self) -> dict[str, Any]:
        """The fields that affect training, those at their defaults left out."""
        return {field: value for field, value in changes(self).items() if field not in ABOUT}

    def recipe(self, task: SuiteTask, seed: int) -> Recipe:
        """The recipe of one run."""
        examples = self.data_size if task.most_data is None else min(self.data_size, task.most_data)
        usual = {"steps": self.steps * task.times, "data_size": examples}  # the board's defaults are not a recipe's
        return parse_recipe(self.training | usual | _of_task(task, seed, self.precision))

    def macs(self) -> float:
        """Matmul MACs of all runs, including the passes of estimators and penalties."""
        return float(SEEDS * sum(recipe.steps * recipe.macs_per_step() for recipe in (self.recipe(t, 0) for t in self.suite)))


def _of_task(task: SuiteTask, seed: int, precision: str) -> dict[str, Any]:
    fields = {"task": task.task, "variant": task.variant, "task_config": task.config, "seed": seed}
    return fields | {"precision": "fp32" if precision == "auto" else precision}


def parameters_of(recipe: Recipe) -> int:
    """Parameters of one run's model, when it has grown."""
    task = recipe.load_task()
    shape: Any = recipe.model_at(recipe.steps)
    return _parameters(shape, task.vocab_size, task.seq_len)


@lru_cache(maxsize=256)
def _parameters(shape: Any, vocab_size: int, seq_len: int) -> int:
    return parameters(shape, vocab_size, seq_len)


def canonical_json(content: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII only, so that equal content has equal bytes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# ------------------------------------------------------------------------------------------------ canonical form


def canonical(recipe: SubmittedRecipe) -> SubmittedRecipe:
    """The recipe with three significant digits, and without fields that have no effect on training.

    Learning rates, decay and initial weights are computed with and without a field: what changes none of them is left out. Numbers
    whose effect is small, such as eps, still count. Raises ValueError if the rounded recipe is invalid.
    """
    found = _canonical(canonical_json(recipe.training | {"track": recipe.track}))
    return found.model_copy(update={field: getattr(recipe, field) for field in ABOUT})


@lru_cache(maxsize=1024)
def _canonical(training: bytes) -> SubmittedRecipe:
    about = {"name": "Any", "description": "Any"}
    recipe = SubmittedRecipe.model_validate(about | parse_json(training, "the recipe"))
    content = _rounded(recipe.training)
    content["precision"] = "fp32" if recipe.precision == "auto" else recipe.precision
    content = _without_effect_by_rule(content)
    usual = {"steps": _rounded(recipe.steps), "data_size": _rounded(recipe.data_size)}
    before = None
    while content != before:  # what is left out may leave more without effect
        before = content
        for path, value in _candidates(content):
            tried = _replaced(content, path, value)
            if tried != content and _trains_alike(usual | content, usual | tried, recipe.suite[0]):
                content = tried
    try:
        return SubmittedRecipe.model_validate(about | {"track": recipe.track} | content)
    except ValidationError as error:
        raise ValueError(f"rounded to {DIGITS} digits, the recipe is invalid: {first_sentence(error)}") from None


def training_digest(recipe: SubmittedRecipe) -> str:
    """What identifies a way of training: the SHA-256 of its canonical form, without the precision, and its track."""
    fields = {field: value for field, value in canonical(recipe).training.items() if field != "precision"}
    return hashlib.sha256(canonical_json({"version": 1, "track": recipe.track, "recipe": fields})).hexdigest()


def _rounded(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner, field) for inner in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):  # a width of 1024 stays
        return value if value & (value - 1) == 0 else int(float(f"{value:.{DIGITS}g}"))
    if field in ("beta1", "beta2", "momentum"):  # 0.9999 averages over ten times as many steps as 0.999
        return round(1 - float(f"{1 - value:.{DIGITS}g}"), 12)
    return float(f"{value:.{DIGITS}g}") + 0.0  # not -0.0


def _without_effect_by_rule(content: dict[str, Any]) -> dict[str, Any]:
    """Leaves out parts that do nothing: terms of strength 0, noise of rate 0, records."""
    content = deepcopy(content)
    way = content.get("optimizer", {})
    if way.get("momentum") == 0:
        way.pop("nesterov", None)
    if way.get("kind") == "grafting":
        way.pop("measure", None)
    if "rates" in way:
        way["rates"] = sorted(pair for pair in way["rates"] if pair[1] != 1)
    if way.get("kind") == "grafted-sgd" and not way.get("rates"):
        way |= {"kind": "sgd"}
        way.pop("rates", None)
    acting = [term for term in content.pop("penalties", []) if term.get("strength") != 0 and term.get("rate") != 0]
    content |= {"penalties": sorted(acting, key=canonical_json)} if acting else {}
    noise = content.get("noise")
    if isinstance(noise, dict):
        rates = noises[noise["kind"]].Config.model_validate(noise).model_dump(exclude={"kind"})
        if not any(rates.values()):
            del content["noise"]
    estimator = content.get("estimator")
    if isinstance(estimator, dict) and estimator.get("alpha") == 0:
        del content["estimator"]
    return {field: value for field, value in content.items() if value not in ({}, [])}


def _candidates(content: dict[str, Any]) -> Generator[tuple[str, Any]]:
    """Dotted path -> simpler value (None: left out), for fields whose effect can be computed."""
    init = content.get("init", {})
    if "mlp" in init:
        yield "init.gamma", init["mlp"]  # all rates are given: gamma itself is not used
    for field in sorted(init):
        yield f"init.{field}", None
    for field in sorted(content.get("model", {})):
        yield f"model.{field}", None
    yield "optimizer.weight_decay", 0.0
    yield "optimizer.warmup", 0
    way = content.get("optimizer", {})
    if "schedule" in way:
        for field in sorted(way["schedule"]) if isinstance(way["schedule"], dict) else []:
            yield f"optimizer.schedule.{field}", None
        yield "optimizer.schedule", None
        yield "optimizer.schedule", "linear"
    yield "optimizer.schedule", "constant"
    for field in ("decay", "decay_from", "decay_until", "decay_embeddings", "start", "warmup", "end"):
        if field in way:
            yield f"optimizer.{field}", None


def _replaced(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    section, _, rest = path.partition(".")
    inner = content.get(section, {})
    if not rest:
        return {key: each for key, each in content.items() if key != section} | ({} if value is None else {section: value})
    if not isinstance(inner, dict):  # replaced by its kind
        return content
    replaced = _replaced(inner, rest, value)
    return {key: each for key, each in content.items() if key != section} | ({section: replaced} if replaced else {})


def _trains_alike(before: dict[str, Any], after: dict[str, Any], task: SuiteTask) -> bool:
    chosen = _of_task(task, 0, before["precision"])
    try:
        a, b = parse_recipe(before | chosen), parse_recipe(after | chosen)
    except ValueError:
        return False
    if a.optimizer != b.optimizer:
        pairs = zip(_rates(a), _rates(b), strict=True)
        return all(math.isclose(x, y, rel_tol=1e-12, abs_tol=1e-300) for x, y in pairs)
    usual = _INIT.default()  # what a model computes is compared at weights of ordinary size, where nothing is lost in rounding
    return _start(a, a.init) == _start(b, b.init) if a.model == b.model else _start(a, usual) == _start(b, usual)


def _rates(recipe: Recipe) -> Generator[float]:
    """Learning rate and decay of each step."""
    way = recipe.optimizer
    for step in range(1, recipe.steps + 1):
        rate = learning_rate(way, step, recipe.steps)
        into, off = decay_amounts(way, step, rate)
        yield from (rate, into, off, float(way.decay_embeddings) if into or off else 0.0)
        yield shrinkage(way, rate) if way.clip.kind == "relative" else 0.0


def _start(recipe: Recipe, init: InitConfig) -> str:
    """A digest of the initial weights, and of what the model answers with them."""
    task, found = recipe.load_task(), hashlib.sha256()
    model = new_model(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    initialize(model, [init], [0])
    tokens = torch.from_numpy(task.sample("train", 4, 0).tokens).long()[None]  # pyright: ignore[reportUnknownMemberType]
    with torch.no_grad():
        answers = model(tokens)
    for name, weights in (*model.named_parameters(), ("answers", answers)):
        found.update(name.encode() + weights.detach().numpy().tobytes())
    return found.hexdigest()
