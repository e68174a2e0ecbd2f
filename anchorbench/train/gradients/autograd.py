"""Losses and gradients of any stack by autograd: for whatever `Backprop` does not support."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from anchorbench.model.gpt import GPT, Site, undisturbed
from anchorbench.parts import noises
from anchorbench.recipe import Recipe
from anchorbench.seeds import stream_seed
from anchorbench.train.seams import ActivationPenalty, Pass


class Autograd:
    """The gradient of a stack's mean cross-entropy at the last position plus penalties, in the precision of its weights."""

    def __init__(
        self, model: GPT, recipes: Sequence[Recipe], penalties: Sequence[ActivationPenalty] = (), *, together: bool
    ) -> None:
        """`together`: whether all members share one forward pass, or run one after another (see `backprop.aligned`)."""
        self.model, self.recipes, self.penalties = model, recipes, penalties
        self._alone = None if together else model.like(members=1).to(model.token_embedding)
        self.gradients = {parameter: torch.zeros_like(parameter) for parameter in model.parameters()}

    def __call__(
        self, tokens: Int[Tensor, "members batch seq"], labels: Int[Tensor, "members batch"], step: int
    ) -> Float[Tensor, " members"]:
        """Mean cross-entropy of each member at the last position, with the noise of the step. Its gradient, plus that of the
        penalties, replaces `self.gradients`.
        """
        if self._alone is None:
            return self._differentiate(self.model, slice(0, len(tokens)), tokens, labels, step)
        losses: list[Tensor] = []
        for member in range(len(tokens)):
            one = slice(member, member + 1)
            losses.append(self._differentiate(self._alone.load_member(self.model, member), one, tokens[one], labels[one], step))
        return torch.cat(losses)

    def _differentiate(self, model: GPT, members: slice, tokens: Tensor, labels: Tensor, step: int) -> Tensor:
        """Losses of these members, which are those of `model`; fills their gradients."""
        recipes = self.recipes[members]
        seeds = [stream_seed(recipe.seeds.noise, f"noise {step}") for recipe in recipes]

        @functools.cache
        def forward(noise: tuple[Any, ...] | None) -> Pass:
            return _forward(model, tokens, labels, noise, seeds)

        def asked(noise: Sequence[Any] | None) -> Pass:
            return forward(None if noise is None or noise[0].kind == "none" else tuple(noise))

        with torch.enable_grad():
            done = asked([recipe.noise for recipe in recipes])
            total = done.losses
            for penalty in self.penalties:
                total = total + penalty.term(asked, members)
            found = torch.autograd.grad(total.sum(), list(done.parameters), materialize_grads=True)
        for into, gradient in zip(self.gradients.values(), found, strict=True):
            into[members].copy_(gradient)
        return done.losses.detach()


def _forward(model: GPT, tokens: Tensor, labels: Tensor, noise: Sequence[Any] | None, seeds: Sequence[int]) -> Pass:
    """A forward pass with this noise, drawn from generators with these seeds."""
    disturb, final = undisturbed, list[Tensor]()
    if noise is not None:
        generators = [torch.Generator(tokens.device).manual_seed(seed) for seed in seeds]
        disturb = noises[noise[0].kind](noise, generators)

    def watched(site: Site, x: Tensor) -> Tensor:
        if site == "final":
            final.append(x)
        return disturb(site, x)

    with model.disturbed(watched):
        logits = model(tokens)
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
    return Pass(losses, logits, final[0], model.unembedding.weight, list(model.parameters()))
