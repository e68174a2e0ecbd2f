"""Nets of one hidden layer of tanh units and one output, with squared error: loss, gradient, Jacobian and Hessian in float64."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

Net = dict[str, Tensor]
"""A net of one hidden layer, by the names that a feed-forward layer has: a stack of one `[1, ...]`."""


class Data(NamedTuple):
    """Examples of a net."""

    x: Float[Tensor, "n inputs"]
    y: Float[Tensor, " n"]


def draw(generator: torch.Generator, inputs: int, neurons: int, scale: float = 1.0) -> Net:
    """Normal weights."""
    shapes = {"ff_in.weight": (inputs, neurons), "ff_in.bias": (neurons,), "ff_out.weight": (neurons, 1), "ff_out.bias": (1,)}
    return {name: scale * torch.randn(1, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def outputs(net: Net, x: Float[Tensor, "n inputs"]) -> Float[Tensor, " n"]:
    """The outputs of a network with one hidden layer of tanh units."""
    hidden = (x @ net["ff_in.weight"][0] + net["ff_in.bias"][0]).tanh()
    return (hidden @ net["ff_out.weight"][0] + net["ff_out.bias"][0])[:, 0]


def jacobian(net: Net, x: Float[Tensor, "n inputs"]) -> Float[Tensor, "n weights"]:
    """The Jacobian of the outputs, in the order of `flat`; hand-written, as a search for minima takes thousands of them."""
    hidden = (x @ net["ff_in.weight"][0] + net["ff_in.bias"][0]).tanh()
    slope = (1 - hidden.square()) * net["ff_out.weight"][0, :, 0]
    return torch.cat([(x[:, :, None] * slope[:, None]).flatten(1), slope, hidden, torch.ones_like(x[:, :1])], 1)


def flat(net: Net) -> Float[Tensor, " weights"]:
    """All weights as a vector."""
    return torch.cat([part.flatten() for part in net.values()])


def shaped(weights: Float[Tensor, " weights"], like: Net) -> Net:
    """The way back from `flat`."""
    parts = weights.split([part.numel() for part in like.values()])
    return {name: part.view(of.shape) for (name, of), part in zip(like.items(), parts, strict=True)}


def loss_of(like: Net, data: Data) -> Callable[[Tensor], Tensor]:
    """Half the mean squared error as a function of all weights."""
    return lambda weights: (outputs(shaped(weights, like), data.x) - data.y).square().mean() / 2


def gradient(net: Net, data: Data) -> Net:
    """The gradient of the loss."""
    return shaped(torch.func.grad(loss_of(net, data))(flat(net)), net)


def hessian(net: Net, data: Data) -> Float[Tensor, "weights weights"]:
    """The hessian of the loss."""
    return cast(Tensor, torch.func.jacrev(torch.func.grad(loss_of(net, data)))(flat(net)))
