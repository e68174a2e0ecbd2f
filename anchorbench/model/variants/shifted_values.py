"""Values shifted by one token: in the first layer, what attention reads at a position is the value of the token after it.

Of 2401.08309's ablation of identity learning: there one layer learns to shift tokens by one and the next to broadcast what is at
the anchor's position, so that one layer alone fails; with the shift built in, one layer suffices. At the last position, where there
is no token after, values are zero. A sequence has one answer, after its end, so nothing is seen that is to be predicted.

Controls, by recipe: the model of kind `gpt` with the same fields, which has the same parameters and cost.
"""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from anchorbench.model.gpt import GPT, Linear, ModelConfig
from anchorbench.parts import models


class Shifted(Linear):
    """An affine map whose outputs move back by one position, within sequences of `seq` tokens."""

    seq: int

    def forward(self, x: Float[Tensor, "members rows d_in"]) -> Float[Tensor, "members rows d_out"]:
        members, rows, _ = x.shape
        y = super().forward(x).view(members, rows // self.seq, self.seq, -1)
        return F.pad(y[:, :, 1:], (0, 0, 0, 1)).reshape(members, rows, -1)


@models.register
class ShiftedValuesGPT(GPT):
    """The GPT whose first layer reads the token after the one that it attends to."""

    class Config(ModelConfig):
        kind: Literal["shifted-values"] = "shifted-values"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, shape: Any, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__(shape, members=members, vocab_size=vocab_size, seq_len=seq_len)
        value = Shifted(members, shape.d_model, shape.n_head * shape.d_head, bias=shape.bias)
        value.seq = seq_len
        self.layers[0].value = value
