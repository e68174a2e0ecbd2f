"""The probes: what each one measures, its control, and what it does not show. One file per probe.

A probe is `probe(model, task) -> Result`, a frozen dataclass with `scores()`, `draw(figure)` and `does_not_show`. Other packages
add theirs through the entry-point group `anchorbench.probes`.
"""

from collections.abc import Callable

from anchorbench.registry import Registry
from anchorbench.task import Task

from .anchor_value import AnchorValue, anchor_value
from .attention_flow import AttentionFlow, attention_flow
from .commutativity import Commutativity, commutativity
from .complexity import Complexity, complexity
from .condensation import Condensation, CondensationOverTraining, condensation, condensation_over_training
from .effective_width import EffectiveWidth, effective_width
from .embedding_order import EmbeddingOrder, embedding_order
from .flatness import Flatness, flatness
from .fused_vector import FusedVector, fused_vector
from .gradient_noise import GradientNoise, gradient_noise
from .patching import Patching, patching
from .score import Result, Score

Probe = Callable[[object, Task], Result]

probes: Registry[Probe] = Registry("probe", __name__, lambda probe: probe.__name__)
for _probe in (attention_flow, fused_vector, anchor_value, condensation, embedding_order, commutativity, patching):
    probes.register(_probe)

ON_REQUEST: tuple[Probe, ...] = (effective_width, flatness, gradient_noise, complexity)
"""Probes that run by name only: they change or differentiate all weights, which takes seconds and needs a run of this package."""
for _probe in ON_REQUEST:
    probes.register(_probe)


def list_probes(*, on_request: bool = False) -> dict[str, Probe]:
    """Name -> probe: built-in probes, then those of other packages, with or without those of ON_REQUEST.

    Raises ValueError if two have the same name.
    """
    return {name: probe for name, probe in probes.all.items() if on_request or probe not in ON_REQUEST}


def run_probe(name: str, model: object, task: Task) -> Result:
    """Runs the probe `name` on anything that `anchorbench.classify` accepts.

    Raises ValueError for an unknown name, or as the probe does.
    """
    return probes[name](model, task)


__all__ = [
    "ON_REQUEST",
    "AnchorValue",
    "AttentionFlow",
    "Commutativity",
    "Complexity",
    "Condensation",
    "CondensationOverTraining",
    "EffectiveWidth",
    "EmbeddingOrder",
    "Flatness",
    "FusedVector",
    "GradientNoise",
    "Patching",
    "Probe",
    "Result",
    "Score",
    "anchor_value",
    "attention_flow",
    "commutativity",
    "complexity",
    "condensation",
    "condensation_over_training",
    "effective_width",
    "embedding_order",
    "flatness",
    "fused_vector",
    "gradient_noise",
    "list_probes",
    "patching",
    "run_probe",
]
