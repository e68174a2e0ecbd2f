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
from .condensation import Condensation, CondensationOverTraining, condensation, condensation_over_training
from .embedding_order import EmbeddingOrder, embedding_order
from .fused_vector import FusedVector, fused_vector
from .patching import Patching, patching
from .score import Result, Score

Probe = Callable[[object, Task], Result]

probes: Registry[Probe] = Registry("probe", __name__, lambda probe: probe.__name__)
for _probe in (attention_flow, fused_vector, anchor_value, condensation, embedding_order, commutativity, patching):
    probes.register(_probe)


def list_probes() -> dict[str, Probe]:
    """Name -> probe: built-in probes, then those of other packages. Raises ValueError if two have the same name."""
    return probes.all


def run_probe(name: str, model: object, task: Task) -> Result:
    """Runs the probe `name` on anything that `anchorbench.classify` accepts.

    Raises ValueError for an unknown name, or as the probe does.
    """
    return probes[name](model, task)


__all__ = [
    "AnchorValue",
    "AttentionFlow",
    "Commutativity",
    "Condensation",
    "CondensationOverTraining",
    "EmbeddingOrder",
    "FusedVector",
    "Patching",
    "Probe",
    "Result",
    "Score",
    "anchor_value",
    "attention_flow",
    "commutativity",
    "condensation",
    "condensation_over_training",
    "embedding_order",
    "fused_vector",
    "list_probes",
    "patching",
    "run_probe",
]
