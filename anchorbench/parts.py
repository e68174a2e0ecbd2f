"""The parts of a training recipe as data: the config of every part, found by its `kind`.

A recipe names a part by its kind and fields; without a kind, it is the default kind. Parts have short forms: `schedule: linear` for
`schedule: {kind: linear}`, and `clip: 0.5` for the only field of the default clip.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, SerializationInfo
from pydantic_core import CoreSchema, core_schema

from anchorbench.files import Plain
from anchorbench.registry import Registry

MAX_STEPS = 100_000_000
"""More than any machine trains: anything beyond is a mistake."""


class Config(Plain):
    """The fields of one kind of part."""

    model_config = ConfigDict(use_attribute_docstrings=True, defer_build=True)

    structural: ClassVar[tuple[str, ...]] = ()
    """Fields that all members of a stack share, besides the kind; other numbers are columns `[members, 1]`."""
    short: ClassVar[str | None] = None
    """The field that a bare number sets."""
    kind: Any
    """Name of the kind; each class narrows it to its own."""

    def require(self, recipe: Any) -> None:
        """Raises ValueError with one sentence if the part does not work with the rest of the recipe."""

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the members of one stack have in common."""
        return (self.kind, *(getattr(self, field) for field in self.structural))


def kind_of(part: Any) -> str:
    """The name that a part is registered under: the default of `kind` in its `Config`."""
    return str(part.Config.model_fields["kind"].default)


models: Registry[Any] = Registry("model", "anchorbench.model.variants", kind_of, "anchorbench.models")
initializers: Registry[Any] = Registry("initializer", "anchorbench.model.initializers", kind_of, "anchorbench.initializers")
optimizers: Registry[Any] = Registry("optimizer", "anchorbench.train.optimizers", kind_of, "anchorbench.optimizers")
schedules: Registry[Any] = Registry("schedule", "anchorbench.train.schedules", kind_of, "anchorbench.schedules")
decays: Registry[Any] = Registry("decay", "anchorbench.train.decays", kind_of, "anchorbench.decays")
clips: Registry[Any] = Registry("clip", "anchorbench.train.clips", kind_of, "anchorbench.clips")
estimators: Registry[Any] = Registry("estimator", "anchorbench.train.estimators", kind_of, "anchorbench.estimators")
penalties: Registry[Any] = Registry("penalty", "anchorbench.train.penalties", kind_of, "anchorbench.penalties")
noises: Registry[Any] = Registry("noise", "anchorbench.train.noises", kind_of, "anchorbench.noises")
growths: Registry[Any] = Registry("growth", "anchorbench.train.growths", kind_of, "anchorbench.growths")
REGISTRIES: dict[str, Registry[Any]] = {
    registry.word: registry
    for registry in (models, initializers, optimizers, schedules, decays, clips, estimators, penalties, noises, growths)
}
"""Word -> registry of every part of a training recipe."""


class Part:
    """Annotates a field that holds the config of a registered part."""

    def __init__(self, registry: Registry[Any], usual: str, *, brief: bool = True) -> None:
        """`usual` is the default kind; `brief`: whether a part with all fields at their defaults is written to JSON as its kind."""
        self.registry, self.usual, self.brief = registry, usual, brief

    def default(self) -> Any:
        """The default kind with its defaults."""
        return self.registry[self.usual].Config()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # The brackets let `first_sentence` omit the kind from a field's path.
        choices = {f"[{kind}]": handler.generate_schema(part.Config) for kind, part in self.registry.all.items()}
        return core_schema.no_info_before_validator_function(
            self._spelled_out,
            core_schema.tagged_union_schema(choices, discriminator=lambda config: f"[{_kind(config)}]"),
            serialization=core_schema.plain_serializer_function_ser_schema(self._written, info_arg=True),
        )

    def _spelled_out(self, value: Any) -> Any:
        if isinstance(value, Config):
            return value
        short = self.registry[self.usual].Config.short
        if isinstance(value, str):
            value = {"kind": value}
        elif isinstance(value, int | float) and not isinstance(value, bool) and short is not None:
            value = {short: value}
        if not isinstance(value, Mapping):
            raise ValueError(f"is {str(value)[:100]!r}; allowed: a kind of {self.registry.word}, or a mapping of its fields")
        kind = value.get("kind", self.usual)
        self.registry[str(kind)]
        return {**value, "kind": kind}

    def _written(self, config: Config, info: SerializationInfo) -> Any:
        if self.brief and info.mode == "json":
            changed = changes(config)
            if config.kind == self.usual and config.short and changed.keys() <= {config.short}:
                return getattr(config, config.short)
            if not changed:
                return config.kind
        return config.model_dump(mode=info.mode)


def _kind(config: Any) -> Any:
    return config["kind"] if isinstance(config, Mapping) else config.kind


@cache
def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    return {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}


def changes(model: BaseModel, *, mode: str = "json") -> dict[str, Any]:
    """The fields that differ from their defaults, as plain data; a part of a non-default kind includes its kind."""
    defaults = _defaults(type(model))
    changed = {name for name, usual in defaults.items() if getattr(model, name) != usual}
    found = model.model_dump(mode=mode, include=changed)
    for name in changed:
        value = getattr(model, name)
        if isinstance(value, BaseModel) and isinstance(found[name], dict):
            kind = {"kind": value.kind} if isinstance(value, Config) and value.kind != defaults[name].kind else {}
            found[name] = kind | changes(value, mode=mode)
    return found


def _field(part: Part) -> Any:
    """A field that holds the part, at its default kind by default."""
    return Field(default_factory=part.default)


_DECAY, _SCHEDULE, _CLIP = Part(decays, "scaled"), Part(schedules, "cosine"), Part(clips, "norm")


class OptimizerConfig(Config):
    """Fields of every optimizer: learning rate and schedule, weight decay, and gradient clipping."""

    lr: float = Field(default=1e-3, gt=0, le=100)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.01, ge=0, le=1000)
    """Strength of the decay."""
    decay: Annotated[Config, _DECAY] = _field(_DECAY)
    """Kind of weight decay."""
    decay_from: int = Field(default=0, ge=0, le=MAX_STEPS)
    """The decay acts after this step ..."""
    decay_until: int | None = Field(default=None, ge=0, le=MAX_STEPS)
    """... and until this one, or to the end."""
    decay_embeddings: bool = True
    """Whether it also acts on token, position and output embeddings."""
    schedule: Annotated[Config, _SCHEDULE] = _field(_SCHEDULE)
    """The learning rate after warm-up."""
    warmup: int = Field(default=200, ge=0, le=MAX_STEPS)
    """Steps of linear increase from `lr * start` to `lr`."""
    start: float = Field(default=0.0, ge=0, le=1)
    """Warm-up starts at `lr * start`."""
    end: float = Field(default=0.05, ge=0, le=1)
    """Decaying schedules end at `lr * end`."""
    clip: Annotated[Config, _CLIP] = _field(_CLIP)
    """Clipping of each member's gradient."""

    @property
    def structure(self) -> tuple[Any, ...]:
        """See `Config`; schedule and decay may differ within a stack."""
        return (*super().structure, self.clip.structure)


class GrowthConfig(Config):
    """Fields of every growth event."""

    structural: ClassVar[tuple[str, ...]] = ("at", "state")
    at: int = Field(default=500, ge=1, le=MAX_STEPS)
    """The step after which the model grows."""
    state: Literal["copied", "reset"] = "copied"
    """What happens to the state of optimizer, clip and penalties: copied with each weight, or reset."""


class InitConfig(Config):
    """Fields of every initializer."""

    gamma: float = Field(default=0.5, ge=-10, le=100)
    """Initialization rate: weights have standard deviation d_in^-gamma."""
