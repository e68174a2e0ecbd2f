"""The probes: what each reads, its control, and what it does not show. One file a probe.

A probe is `probe(model, task) -> Result`, a frozen dataclass with `scores()`, `draw(figure)` and `does_not_show`. Other packages
add theirs through the entry-point group `anchorbench.probes`.
"""

import functools
from collections.abc import Callable
from importlib.metadata import entry_points

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

_OURS: tuple[Probe, ...] = (attention_flow, fused_vector, anchor_value, condensation, embedding_order, commutativity, patching)


@functools.cache
def list_probes() -> dict[str, Probe]:
    """Name -> probe: ours, then those of other packages. Raises ValueError if two have the same name."""
    probes = {probe.__name__: probe for probe in _OURS}
    for entry in entry_points(group="anchorbench.probes"):
        if entry.name in probes:
            raise ValueError(f"two probes are called {entry.name!r}; the second is {entry.value}")
        probes[entry.name] = entry.load()
    return probes


def run_probe(name: str, model: object, task: Task) -> Result:
    """The probe `name` on anything that `anchorbench.classify` takes. Raises ValueError for an unknown name, or as the probe."""
    probes = list_probes()
    if name not in probes:
        raise ValueError(f"unknown probe {name!r}; allowed: {', '.join(probes)}")
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
