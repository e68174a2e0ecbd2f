"""The role of each parameter: the only thing that initializers, weight decay and counts need to know about the architecture."""

from typing import Literal, NamedTuple

Part = Literal["embedding", "qk", "vo", "mlp", "norm"]


class Role(NamedTuple):
    """One parameter."""

    part: Part
    """The part it belongs to; the unembedding and its bias count as embedding."""
    what: Literal["matrix", "bias", "gain"]
    fan_in: int
    """Inputs of a matrix (of an embedding table: the model's width); 1 for anything else."""
    residual: bool
    """Whether it is a map by which a block writes to the residual stream."""
