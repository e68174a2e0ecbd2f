"""What each parameter of a model is for: the one place that initializers, weight decay and counts ask about the architecture."""

from typing import Literal, NamedTuple

Part = Literal["embedding", "qk", "vo", "mlp", "norm"]


class Role(NamedTuple):
    """One parameter."""

    part: Part
    """Where it belongs; the unembedding with its bias is an embedding."""
    what: Literal["matrix", "bias", "gain"]
    fan_in: int
    """Inputs of a matrix (of an embedding table: the model's width); 1 for anything else."""
    residual: bool
    """Whether it is the map by which a block writes into the residual stream."""
