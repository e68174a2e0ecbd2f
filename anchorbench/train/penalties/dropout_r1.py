"""R1, the explicit regularizer of dropout (2207.05952, lemma 1 and section 4): what dropout adds to the loss on average.

It is for one dropout layer before the linear output (`final` in noise of kind `dropout`), and needs no noise itself. Let h be the
input of the output map W, j one of its units, i one of n examples, and q the dropout rate, 1 - p in the paper:

    mean squared error |Wh - y|^2 / 2    R1 = q / (2 (1-q) n) sum_ij h_ij^2 |W_j|^2, exactly
    cross-entropy                        R1 = q / (2 (1-q) n) sum_ij h_ij^2 Var_i(W_j), to second order in h_ij W_j

where Var_i is the variance over the vocabulary under the model's own probabilities for example i. The second form is ours: half the
diagonal of the Hessian with respect to h, times the variance of the noise. It is accurate where no single unit moves a logit by
much; a small rate alone is not enough, as a dropped unit is dropped entirely at any rate.

With `noise: dropout` at the same rate, strength -1 removes R1 from its effect; without noise, strength 1 gives R1 alone: the losses
L4 and L1 of the paper.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from anchorbench.parts import Config, penalties
from anchorbench.train.seams import ActivationPenalty, Forward


@penalties.register
class DropoutR1(ActivationPenalty):
    """`strength` times what dropout before the unembedding adds to the loss on average."""

    class Config(Config):
        kind: Literal["dropout-r1"] = "dropout-r1"
        structural: ClassVar[tuple[str, ...]] = ("loss",)
        rate: float = Field(default=0.1, ge=0, lt=1)
        """Rate of that dropout."""
        strength: float = Field(default=1.0, ge=-1000, le=1000)
        """Factor of the term; it may be negative."""
        loss: Literal["cross-entropy", "mse"] = "cross-entropy"
        """The loss that R1 is derived for; training itself uses cross-entropy."""

    @classmethod
    def passes_of(cls, config: Any, noise: Any) -> float:
        """A pass without noise, if the step's own pass has noise."""
        return float(noise.kind != "none")

    def term(self, forward: Forward, members: slice) -> Tensor:
        """See `ActivationPenalty`."""
        done = forward(None)
        rate, strength = (self.column(name)[members, 0] for name in ("rate", "strength"))
        probabilities = done.logits.softmax(-1) if self.configs[0].loss == "cross-entropy" else None
        return strength * r1(done.final, done.unembedding, rate, probabilities)


def r1(
    hidden: Float[Tensor, "*rest n d"],
    weight: Float[Tensor, "*rest d out"],
    rate: Float[Tensor, "*rest"],
    probabilities: Float[Tensor, "*rest n out"] | None = None,
) -> Float[Tensor, "*rest"]:
    """R1 of dropout on `hidden`, the input of `weight`: for cross-entropy if given probabilities, otherwise for squared error."""
    if probabilities is None:
        curvature = weight.square().sum(-1)[..., None, :]
    else:
        mean = probabilities @ weight.transpose(-1, -2)
        curvature = probabilities @ weight.square().transpose(-1, -2) - mean.square()
    return rate / (2 * (1 - rate)) * (hidden.square() * curvature).sum(-1).mean(-1)
