"""Losses and gradients of any stack by automatic differentiation: for models that `Backprop` does not know."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from anchorbench.model.gpt import GPT


class Autograd:
    """The gradient of a stack's mean cross-entropy at the last position, in the precision of its weights."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.gradients = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}

    def __call__(self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"]) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position; its gradient replaces `self.gradients`."""
        parameters = list(self.gradients)
        with torch.enable_grad():
            logits = self.model(tokens)
            losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
            found = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            self.gradients[parameter].copy_(gradient)
        return losses.detach()
