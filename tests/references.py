"""Every kind of part once more, for one model and as plainly as can be: what the parts are tested against, in float64."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anchorbench.model.gpt import new_model
from anchorbench.parts import noises
from anchorbench.seeds import stream_seed

Oracle = Callable[[int, Tensor], Tensor]

# --- Optimizers: all gradients and rates -> the sum of all steps


def adamw(c: Any, gradients: list[Tensor], rates: list[float], *, largest: bool = False) -> Tensor:
    total, m, v, most = (torch.zeros_like(gradients[0]) for _ in range(4))
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        m = c.beta1 * m + (1 - c.beta1) * g
        v = c.beta2 * v + (1 - c.beta2) * g * g
        most = torch.maximum(most, v)
        root = ((most if largest else v) / (1 - c.beta2**t)).sqrt()
        total = total - lr * m / (1 - c.beta1**t) / (root + c.eps)
    return total


def amsgrad(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    return adamw(c, gradients, rates, largest=True)


def sgd(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    """By PyTorch's, which keeps the same sum."""
    w = torch.zeros_like(gradients[0], requires_grad=True)
    optimizer = torch.optim.SGD([w], 1.0, c.momentum, nesterov=c.nesterov)
    for g, lr in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


# --- Schedules: the factor at a step


def cosine(c: Any, step: int, steps: int, end: float) -> float:
    return 1 - (1 - end) * math.sin(math.pi * step / steps / 2) ** 2


def linear(c: Any, step: int, steps: int, end: float) -> float:
    return ((steps - step) + step * end) / steps


def constant(c: Any, step: int, steps: int, end: float) -> float:
    return 1.0


def piecewise(c: Any, step: int, steps: int, end: float) -> float:
    now = 1.0
    for start, factor in c.factors:
        if start < step:
            now = factor
    return now


def restarts(c: Any, step: int, steps: int, end: float) -> float:
    start, period = 0.0, float(c.period)
    while step > start + period:
        start, period = start + period, period * c.growth
    return 1 - (1 - end) * math.sin(math.pi * (step - start) / period / 2) ** 2


def stable(c: Any, step: int, steps: int, end: float) -> float:
    bend = steps - max(1.0, c.decay * steps)
    return 1.0 if step <= bend else end + (1 - end) * (steps - step) / (steps - bend)


# --- Decays: what is added to the gradient and taken from the weight


def scaled(strength: float, rate: float) -> tuple[float, float]:
    return 0, rate * strength


def unscaled(strength: float, rate: float) -> tuple[float, float]:
    return 0, strength


def coupled(strength: float, rate: float) -> tuple[float, float]:
    return strength, 0


# --- Clips: gradient and weights -> gradient


def norm(c: Any, gradient: Tensor, weights: Tensor, rate: float, decay: float) -> Tensor:
    size = math.sqrt(sum(x * x for x in gradient.tolist()))
    return gradient if size + 1e-6 <= c.most else gradient * c.most / (size + 1e-6)


def none(c: Any, gradient: Tensor, weights: Tensor, rate: float, decay: float) -> Tensor:
    return gradient


def relative(c: Any, gradient: Tensor, weights: Tensor, rate: float, decay: float) -> Tensor:
    size, scale = (math.sqrt(sum(x * x for x in row.tolist())) for row in (gradient, weights))
    most = c.factor * math.sqrt(2 * decay / rate) * scale if rate else math.inf
    return gradient if size <= most else gradient * most / size


# --- Estimators: the estimates along given weights, for the oracle `gradient(step, at)`


def plain(c: Any, gradient: Oracle, weights: list[Tensor]) -> list[Tensor]:
    return [gradient(t, w) for t, w in enumerate(weights, 1)]


def svrg(c: Any, gradient: Oracle, weights: list[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for t, w in enumerate(weights, 1):
        renewal = (t - 1) // c.every  # how often the old weights were renewed before
        old = weights[renewal * c.every]
        steps = [-1 - renewal * c.batches - number for number in range(c.batches)]
        mean = torch.stack([gradient(step, old) for step in steps]).mean(0)
        found.append(gradient(t, w) - c.alpha * (gradient(t, old) - mean))
    return found


# --- Penalties: the term of the loss


def l1(c: Any, weights: Tensor) -> Tensor:
    return c.strength * weights.abs().sum()


# --- Penalties of activations: a recipe and its batch -> the term of the loss as a function of the named weights


def losses(recipe: Any, noise: Any, weights: dict[str, Tensor], tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Mean cross-entropy of one member at step 1, what its unembedding reads, and the model."""
    task, seen = recipe.load_task(), []
    model = new_model(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    model.load_state_dict({name: value[None] for name, value in weights.items()})
    noisy = noises[noise.kind]([noise], [torch.Generator().manual_seed(stream_seed(recipe.seeds.noise, "noise 1"))])
    with torch.enable_grad(), model.disturbed(lambda site, x: (seen.append(x), noisy(site, x))[1]):
        logits = model(tokens[None])[0]
        return torch.nn.functional.cross_entropy(logits, labels), seen[-1][0], model


def dropout_r1(c: Any, recipe: Any, batch: tuple[Tensor, Tensor], member: int) -> Callable[[dict[str, Tensor]], Tensor]:
    """Half the second derivative in each unit, times the variance of its noise."""
    tokens, labels = batch[0][member], batch[1][member]

    def term(weights: dict[str, Tensor]) -> Tensor:
        _, hidden, _ = losses(recipe, noises["none"].Config(), weights, tokens, labels)
        loss = lambda h, label: -(h @ weights["unembedding.weight"]).log_softmax(-1)[label]  # noqa: E731
        hessian = torch.autograd.functional.hessian
        second = torch.stack([hessian(lambda h, at=at: loss(h, at), h).diag() for h, at in zip(hidden, labels, strict=True)])
        return c.strength * (c.rate / (1 - c.rate) * hidden**2 * second / 2).sum(1).mean()

    return term


def dropout_r2(c: Any, recipe: Any, batch: tuple[Tensor, Tensor], member: int) -> Callable[[dict[str, Tensor]], Tensor]:
    def term(weights: dict[str, Tensor]) -> Tensor:
        loss, _, model = losses(recipe, c.noise, weights, batch[0][member], batch[1][member])
        return c.strength / 4 * sum((g * g).sum() for g in torch.autograd.grad(loss, list(model.parameters())))

    return term


# --- Growths: the weights of one layer, or numbers that are copied with them -> those of the larger layer


def split(c: Any, named: dict[str, Tensor], *, copied: bool) -> dict[str, Tensor]:
    """One step after the other, each of which splits all of the first neurons into themselves and copies behind them."""
    neurons = [[(w, b, v)] for w, b, v in zip(named["ff_in.weight"].T, named["ff_in.bias"], named["ff_out.weight"], strict=True)]
    for copies in neurons:
        for _ in range(c.width - 1):
            w, b, v = copies[0]
            copies[0] = w, b, v if copied else (1 - c.alpha) * v
            copies.insert(1, (w, b, v if copied else c.alpha * v))
    inner, bias, outer = zip(*[copies[place] for place in range(c.width) for copies in neurons], strict=True)
    larger = {"ff_in.weight": torch.stack(inner, 1), "ff_in.bias": torch.stack(bias), "ff_out.weight": torch.stack(outer)}
    return named | larger


# --- Noises: activations of one member at a site -> what takes their place


def none_noise(c: Any, site: str, x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def dropout_noise(c: Any, site: str, x: Tensor, generator: torch.Generator) -> Tensor:
    keep = 1 - getattr(c, site)
    if keep == 1:
        return x
    found = x / keep
    found[torch.rand(x.shape, generator=generator) < getattr(c, site)] = 0
    return found
