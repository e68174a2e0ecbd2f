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
SPLIT = (6, 4)
"""The weights of the optimizers' references are a hidden matrix of 2 by 3, and a bias."""


def of(kind: str) -> Any:
    """The reference of a kind."""
    return globals()[kind.replace("-", "_")]


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


def adashift(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    """No gradient here is zero: the second moment begins after the window, everywhere."""
    total, v, n = torch.zeros_like(gradients[0]), 0, c.window
    for t in range(n, len(gradients)):
        squares = gradients[t - n] ** 2
        if c.phi != "identity":
            squares = torch.cat([getattr(part, c.phi)().expand(len(part)) for part in squares.split(SPLIT)])
        v = c.beta2 * v + (1 - c.beta2) * squares
        weights = [c.beta1**age for age in range(n)]
        mean = sum(weight * gradients[t - age] for age, weight in enumerate(weights)) / sum(weights)
        total = total - rates[t] * mean / ((v / (1 - c.beta2 ** (t - n + 1))).sqrt() + c.eps)
    return total


def grafting(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    total = last_m = last_d = torch.zeros_like(gradients[0])
    for t in range(1, len(gradients) + 1):
        m, d = (of(part.kind)(part, gradients[:t], rates[:t]) for part in (c.magnitude, c.direction))
        for where in (slice(0, 6), slice(6, 10)) if c.by == "tensor" else (slice(0, 10),):
            step = (d - last_d)[where]
            total = total.clone()
            total[where] += (m - last_m)[where].norm() / step.norm() * step
        last_m, last_d = m, d
    return total


def grafted_sgd(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    return torch.cat([rate * part for part, (_, rate) in zip(sgd(c, gradients, rates).split(SPLIT), c.rates, strict=True)])


def lion(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    total = mean = torch.zeros_like(gradients[0])
    for g, lr in zip(gradients, rates, strict=True):
        mixed = c.beta1 * mean + (1 - c.beta1) * g
        total = total - lr * mixed / mixed.abs()
        mean = c.beta2 * mean + (1 - c.beta2) * g
    return total


def muon(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    """By singular values: each iteration takes s to a polynomial of s."""
    total, mean = torch.zeros(2, 3, dtype=gradients[0].dtype), 0
    for g, lr in zip([g[:6].view(2, 3) for g in gradients], rates, strict=True):
        mean = c.momentum * mean + (1 - c.momentum) * g
        u, s, v = torch.linalg.svd(c.momentum * mean + (1 - c.momentum) * g if c.nesterov else mean, full_matrices=False)
        s = s / (s.norm() + 1e-7)
        for _ in range(c.iterations):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        total = total - lr * (0.2 * 3**0.5 if c.scale == "adamw" else 1.5**0.5) * (u * s) @ v
    return torch.cat([total.flatten(), adamw(c, gradients, rates)[6:]])


def normalized_sgd(c: Any, gradients: list[Tensor], rates: list[float]) -> Tensor:
    total = mean = torch.zeros_like(gradients[0])
    for g, lr in zip(gradients, rates, strict=True):
        mean = c.momentum * mean + (1 - c.momentum) * g
        sizes = {
            "rms": [part.square().mean().sqrt() for part in mean.split(SPLIT)],
            "max": [part.abs().max() for part in mean.split(SPLIT)],
            "norm": [part.norm() for part in mean.split(SPLIT)],
        }[c.by]
        total = total - lr * torch.cat([part / (size + c.eps) for part, size in zip(mean.split(SPLIT), sizes, strict=True)])
    return total


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


def k_decay(c: Any, step: int, steps: int, end: float) -> float:
    time = step**c.k / steps**c.k
    if c.base == "cosine":
        return 1 - (1 - end) * math.sin(math.pi * time / 2) ** 2
    if c.base == "polynomial":
        return end + (1 - end) * (1 - time) ** c.power
    return end + (1 - end) * (1 - (1 - math.exp(-c.speed * time)) / (1 - math.exp(-c.speed)))


def chebyshev(c: Any, step: int, steps: int, end: float) -> float:
    """Orders as they are in the paper."""
    fractal = {4: [1, 4, 2, 3], 8: [1, 8, 4, 5, 2, 7, 3, 6]}[c.cycle]
    order = {"fractal": fractal, "falling": sorted(fractal), "rising": sorted(fractal)[::-1]}[c.order]
    large, small, angle = c.kappa, 1.0, (2 * order[(step - 1) % c.cycle] - 1) / (2 * c.cycle) * math.pi
    return large / (small + (large - small) * math.sin(angle / 2) ** 2)


def matched(c: Any, step: int, steps: int, end: float) -> float:
    areas = [math.fsum(of(part.kind)(part, at, steps, end) for at in range(1, steps + 1)) for part in (c.of, c.shape)]
    return of(c.shape.kind)(c.shape, step, steps, end) * areas[0] / areas[1]


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
