"""Losses and gradients of any stack by automatic differentiation: for what `Backprop` does not know."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from anchorbench.model.gpt import GPT
from anchorbench.parts import noises
from anchorbench.recipe import Recipe
from anchorbench.seeds import stream_seed


class Autograd:
    """The gradient of a stack's mean cross-entropy at the last position, in the precision of its weights."""

    def __init__(self, model: GPT, recipes: Sequence[Recipe], *, together: bool) -> None:
        """`together`: whether all members go through one forward pass, else one after the other (see `backprop.aligned`)."""
        self.model, self.recipes = model, recipes
        self._alone = None if together else model.like(members=1).to(model.token_embedding)
        self.gradients = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}

    def __call__(
        self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"], step: int
    ) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position, with the noise of the step; its gradient replaces
        `self.gradients`.
        """
        if self._alone is None:
            return self._differentiate(self.model, slice(0, len(tokens)), tokens, labels, step)
        losses: list[Tensor] = []
        for member in range(len(tokens)):
            one = slice(member, member + 1)
            losses.append(self._differentiate(self._alone.load_member(self.model, member), one, tokens[one], labels[one], step))
        return torch.cat(losses)

    def _differentiate(self, model: GPT, members: slice, tokens: Tensor, labels: Tensor, step: int) -> Tensor:
        """Losses of these members, which `model` holds; fills their gradients."""
        recipes = self.recipes[members]
        generators = [
            torch.Generator(tokens.device).manual_seed(stream_seed(recipe.seeds.noise, f"noise {step}")) for recipe in recipes
        ]
        noise = noises[recipes[0].noise.kind]([recipe.noise for recipe in recipes], generators)
        with torch.enable_grad():
            with model.disturbed(noise):
                logits = model(tokens)
            losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
            found = torch.autograd.grad(losses.sum(), list(model.parameters()), materialize_grads=True)
        for into, gradient in zip(self.gradients.values(), found, strict=True):
            into[members].copy_(gradient)
        return losses.detach()
