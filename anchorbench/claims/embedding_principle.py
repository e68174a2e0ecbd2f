"""The embedding principle (Zhang et al., NeurIPS 2021, 2105.14573, and J. Mach. Learn. 2022, 2111.15527): what becomes of the
critical points of a network in a wider one.

A neuron is split: a copy takes its input weights and bias and the share alpha of its output weights, 1 - alpha stay. The function
is the same, the gradient of the output weights of both is the neuron's, and that of the input weights is shared out as they are, so
that a critical point stays critical. A null embedding adds a neuron with zero input and output weights and any bias.

Theorem 6.2 of the second paper: the numbers of negative, zero and positive eigenvalues of the Hessian never fall. Exactly how they
rise is our own derivation, for squared error. In the weights' sum and difference over both copies, the Hessian of a split critical
point falls apart into the old Hessian, a zero (output weights against input weights) and alpha (1 - alpha) B, where for errors e_i

    B = mean_i e_i a sigma''(w x_i) x_i x_i'    of the neuron with input weights w (bias included) and output weight a;

a null embedding adds one negative and one positive eigenvalue, as its output weight and its input weights only meet in the term
sigma'(b) mean_i e_i x_i, and zeros for the rest. Inertia is kept by a change of coordinates, so the counts are predicted.

Critical points are of two kinds. Drawn ones cost no training: for any weights, a random error vector orthogonal to all columns of
the Jacobian makes the gradient zero once the labels are the outputs less the errors. Trained ones are minima of nets too small for
their labels. Pilot runs on other seeds chose the number of points and of starts.

Version 1 counted eigenvalues below 1e-9 of the largest as zero, where two of 177 points have some that are not; it could not tell.
Version 2 counts at 1e-12, at other points, by the same rule.
"""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from anchorbench.claim import CANNOT, Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.claims.one_hidden_layer import Data, Net, draw, flat, gradient, hessian, jacobian, outputs, shaped
from anchorbench.files import Plain
from anchorbench.intervals import wilson
from anchorbench.model.gpt import GPT, new_model
from anchorbench.parts import growths
from anchorbench.recipe import parse_recipe
from anchorbench.seeds import stream_seed
from anchorbench.train.stack import Stack

TINY = 1e-12
"""Eigenvalues of this share of the largest are counted as zero; those that are zero come out at 1e-15 or less."""
CRITICAL = 1e-11
"""The largest gradient, entry by entry, at which a trained net counts as critical."""
DEGENERATE = 1e-6
"""Share of the largest eigenvalue that the smallest one of a trained minimum must have."""

Counts = tuple[int, int, int]
"""Negative, zero and positive eigenvalues."""


class Ground(Plain):
    """The size of nets and data."""

    inputs: int = Field(ge=1, le=100)
    neurons: int = Field(ge=1, le=100)
    examples: int = Field(ge=2, le=10_000)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.neurons * (self.inputs + 2) + 1

    @model_validator(mode="after")
    def _has_errors(self) -> "Ground":
        if self.examples <= self.parameters:
            raise ValueError(f"examples are {self.examples}; allowed: more than the net's {self.parameters} parameters")
        return self


class Settings(Experiment):
    """`seeds` critical points of each kind, and how they are embedded."""

    drawn: Ground
    trained: Ground
    teacher: int = Field(ge=1, le=1000)
    """Neurons of the net that labels the data of trained nets."""
    starts: int = Field(ge=1, le=1000)
    """Initial weights that are tried for each trained minimum."""
    widths: Annotated[list[Annotated[int, Field(ge=2, le=16)]], Field(min_length=1, max_length=10)]
    """What every neuron becomes, in copies."""
    alphas: Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=1, max_length=10)]
    recipe: dict[str, Any]
    """Fields of the recipe of the GPTs whose feed-forward neurons are split."""
    models: int = Field(ge=2, le=100)
    """GPTs."""

    @model_validator(mode="after")
    def _splits_equally(self) -> "Settings":
        if 0.5 not in self.alphas or 2 not in self.widths:
            raise ValueError(f"alphas are {self.alphas} and widths {self.widths}; allowed: with 0.5 and 2, for equal halves")
        return self


# ------------------------------------------------------------------------------------------------ critical points


class Point(NamedTuple):
    """A critical point."""

    net: Net
    data: Data


def drawn(ground: Ground, seed: int) -> Point:
    """Random weights and inputs, with labels that leave errors orthogonal to all columns of the Jacobian."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "drawn points of claim embedding-principle, version 2"))
    net = draw(generator, ground.inputs, ground.neurons)
    x = torch.randn(ground.examples, ground.inputs, generator=generator, dtype=torch.float64)
    columns = jacobian(net, x)
    errors = torch.randn(ground.examples, generator=generator, dtype=torch.float64)
    for _ in range(2):  # once leaves rounding errors
        errors = errors - columns @ torch.linalg.lstsq(columns, errors[:, None]).solution[:, 0]
    return Point(net, Data(x, outputs(net, x) - errors))


def trained(ground: Ground, teacher: int, starts: int, seed: int) -> Point | None:
    """A minimum with a Hessian that is positive, of a net on the outputs of a larger one; None if no start leads to one."""
    from scipy.optimize import least_squares

    generator = torch.Generator().manual_seed(stream_seed(seed, "trained points of claim embedding-principle, version 2"))
    x = torch.randn(ground.examples, ground.inputs, generator=generator, dtype=torch.float64)
    data = Data(x, outputs(draw(generator, ground.inputs, teacher, scale=3.0), x))
    for _ in range(starts):
        start = draw(generator, ground.inputs, ground.neurons)

        def errors(weights: np.ndarray, start: Net = start) -> np.ndarray:
            return (outputs(shaped(torch.from_numpy(weights), start), data.x) - data.y).numpy()

        def columns(weights: np.ndarray, start: Net = start) -> np.ndarray:
            return jacobian(shaped(torch.from_numpy(weights), start), data.x).numpy()

        found = cast(Any, least_squares)(errors, flat(start).numpy(), columns, method="lm", max_nfev=200)
        net = shaped(torch.from_numpy(found.x), start)
        for _ in range(10):  # Newton's steps take the gradient down to rounding errors
            step = torch.linalg.lstsq(hessian(net, data), flat(gradient(net, data))[:, None]).solution[:, 0]
            net = shaped(flat(net) - step, net)
        values = torch.linalg.eigvalsh(hessian(net, data))
        if flat(gradient(net, data)).abs().max() < CRITICAL and values[0] > DEGENERATE * values[-1]:
            return Point(net, data)
    return None


# ------------------------------------------------------------------------------------------------ embeddings


class Embedding(NamedTuple):
    """A wider net with the same function."""

    net: Net
    gradient: Net
    """What its gradient has to be."""
    counts: Counts
    """The eigenvalues that its Hessian has to have more than the narrow one, at a critical point."""


def split_gradient(narrow: Mapping[str, Tensor], shares: list[float]) -> dict[str, Tensor]:
    """What the gradient has to be after every feed-forward neuron became copies with these shares of its output weights."""
    found = dict(narrow)
    for name, part in narrow.items():
        end = ".".join(name.split(".")[-2:])
        if end in ("ff_in.weight", "ff_in.bias"):
            found[name] = torch.cat([share * part for share in shares], -1)
        elif end == "ff_out.weight":
            found[name] = torch.cat([part] * len(shares), 1)
    return found


def bends(net: Net, data: Data) -> Float[Tensor, "neurons inputs_and_one inputs_and_one"]:
    """B of each neuron."""
    x = torch.cat([data.x, torch.ones_like(data.x[:, :1])], 1)
    hidden = (data.x @ net["ff_in.weight"][0] + net["ff_in.bias"][0]).tanh()
    second = -2 * hidden * (1 - hidden.square())
    errors = outputs(net, data.x) - data.y
    return torch.einsum("n,ns,s,ni,nj->sij", errors, second, net["ff_out.weight"][0, :, 0], x, x) / len(x)


def split(point: Point, width: int, alpha: float) -> Embedding:
    """Every neuron is split into so many by the registered growth."""
    part = growths["split"]
    config = part.Config(at=1, width=width, alpha=alpha)
    net = part([config]).weights(point.net)
    counts = [0, 0, 0]
    for step, bend in itertools.product(range(1, width), bends(point.net, point.data)):
        # Each step splits what earlier ones left of the neuron.
        more = inertia(alpha * (1 - alpha) ** step * bend)
        counts = [counts[0] + more[0], counts[1] + more[1] + 1, counts[2] + more[2]]
    return Embedding(net, split_gradient(gradient(point.net, point.data), config.shares), (counts[0], counts[1], counts[2]))


def null(point: Point, bias: float) -> Embedding:
    """One more neuron, without any weights but a bias."""
    net, old = point.net, gradient(point.net, point.data)
    none = torch.zeros_like(net["ff_in.weight"][..., :1])
    new = torch.full((1, 1), bias, dtype=torch.float64)

    def joined(of: Net, weight: Tensor, bias: Tensor, out: Tensor) -> Net:
        return {
            "ff_in.weight": torch.cat([of["ff_in.weight"], weight], 2),
            "ff_in.bias": torch.cat([of["ff_in.bias"], bias], 1),
            "ff_out.weight": torch.cat([of["ff_out.weight"], out], 1),
            "ff_out.bias": of["ff_out.bias"],
        }

    expected = joined(old, none, torch.zeros_like(new), (new.tanh() * old["ff_out.bias"])[..., None])
    return Embedding(joined(net, none, new, torch.zeros_like(new)[..., None]), expected, (1, none.shape[1], 1))


# ------------------------------------------------------------------------------------------------ measures


def inertia(matrix: Float[Tensor, "d d"]) -> Counts:
    """How many eigenvalues are negative, zero and positive."""
    values = torch.linalg.eigvalsh(matrix)
    small = TINY * values.abs().max()
    return int((values < -small).sum()), int((values.abs() <= small).sum()), int((values > small).sum())


def gap(matrix: Float[Tensor, "d d"]) -> float:
    """log10 of the smallest eigenvalue that counts over the largest that counts as zero, or over rounding errors."""
    values = torch.linalg.eigvalsh(matrix).abs()
    small = values <= TINY * values.max()
    zero = max(float(values[small].max()) if small.any() else 0.0, 1e-16 * float(values.max()))
    return float(np.log10(float(values[~small].min()) / zero))


def apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of gradients, over the largest entry."""
    largest = max(float(part.abs().max()) for part in expected.values())
    return max(float((found[name] - part).abs().max()) for name, part in expected.items()) / largest


def share(hits: list[bool]) -> Measure:
    """With Wilson's interval."""
    low, high = wilson(sum(hits), len(hits))
    return Measure(value=sum(hits) / len(hits), low=low, high=high, n=len(hits))


def log10(error: float) -> float:
    """Logarithm of an error that may be zero."""
    return float(np.log10(max(error, 1e-20)))


def settings_of(counts: tuple[int, int, int], recipe: dict[str, Any], **fields: Any) -> Settings:
    """`counts` are seeds, starts and models."""
    seeds, starts, models = counts
    recipe = {"task": "composite", "optimizer": {"lr": 1e-3, "warmup": 0}, **recipe}
    alphas = [0.3, 0.5, -1.0, 2.0, 0.0, 1.0]
    return Settings(seeds=seeds, starts=starts, models=models, alphas=alphas, recipe=recipe, **fields)


@claims.register
class EmbeddingPrinciple(Claim):
    """See the module."""

    name = "embedding-principle"
    version = 2
    paper = (
        "Zhang, Zhang, Luo and Xu, Embedding principle of loss landscape of deep neural networks (NeurIPS 2021, 2105.14573), and"
        " Zhang, Li, Zhang, Luo and Xu, Embedding principle: a hierarchical structure of loss landscape (JML 2022, 2111.15527),"
        " theorems 6.2 and 6.3"
    )
    statement = (
        "Splitting neurons or adding null ones keeps a network's function and its critical points critical, and the numbers of"
        " negative, zero and positive eigenvalues of the Hessian never fall, so that minima commonly become strict saddles."
    )
    ground = (
        "Nets of one hidden layer of tanh with squared error, as in the paper's synthetic experiment, in double precision. Critical"
        " points are drawn (random weights, with errors orthogonal to the Jacobian) or trained (minima of a net of two neurons on"
        " the outputs of a larger one; a start that leads to a degenerate minimum is given up). Every neuron is split by the"
        " registered growth, with shares inside and outside 0 to 1, or one null neuron is added. The shares of the gradient are"
        " tested where it is not zero, there and in the feed-forward layers of GPTs after some training. General compatible"
        " embeddings and deeper nets are not tried, nor the paper's Iris and MNIST. The paper scale has larger nets, wider"
        " embeddings and more points."
    )
    measures = {
        "kept": "share of critical points at which no count of eigenvalues fell under any embedding",
        "exact": "share of critical points at which all counts rose as predicted, under all embeddings",
        "critical": "log10 of the largest gradient at an embedded critical point, over that at the same weights with other labels",
        "gradient": "log10 of the largest error of the predicted gradients of embedded nets that are not critical",
        "gradient_gpt": "the same when the feed-forward neurons of GPTs are split",
        "saddles": "share of trained minima that at least one splitting makes a strict saddle",
        "saddles_equal": "the same for equal halves",
        "gained": "negative eigenvalues that trained minima gain, per neuron that is split into equal halves",
        "gap": "log10 of the least eigenvalue counted as negative or positive over the largest counted as zero, all Hessians",
        "converged": "share of seeds with a trained minimum",
    }
    rule = (
        "It replicates if kept, exact and saddles lie above 0.9 with their whole intervals, and critical, gradient and gradient_gpt"
        " below -9; it does not if one of them lies on the other side; else it cannot be told, nor if the zeros are not set apart"
        " from the other eigenvalues (gap below 1) or fewer than half of the seeds have a trained minimum (converged). Equal halves"
        " decide nothing."
    )
    reading = (
        "All of it is theorems, the exact counts our own, so that what could have failed is our splitting and null neurons and the"
        " arithmetic; that minima become saddles could have failed as well, as it takes errors that bend some neuron. Every trained"
        " minimum gains one negative eigenvalue per neuron that is split, with shares inside and outside 0 to 1, so that B had one"
        " eigenvalue of each sign each time; the paper's synthetic minimum gains one per neuron too. With alpha 0 or 1 only zeros"
        " are gained. Seeds without a trained minimum ended at degenerate or infinite weights, and what holds there is not known."
    )
    seconds = 100
    scales = {
        "laptop": settings_of(
            (100, 10, 4),
            drawn=Ground(inputs=2, neurons=3, examples=20),
            trained=Ground(inputs=1, neurons=2, examples=20),
            teacher=6,
            widths=[2, 3],
            recipe={"model": {"d_model": 16, "d_head": 16, "d_ff": 32}, "batch": 64, "steps": 100},
        ),
        "paper": settings_of(
            (500, 20, 8),
            drawn=Ground(inputs=5, neurons=6, examples=60),
            trained=Ground(inputs=1, neurons=3, examples=50),
            teacher=10,
            widths=[2, 3, 4],
            recipe={"batch": 128, "steps": 500},
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        seeds = range(settings.seeds)
        found = [trained(settings.trained, settings.teacher, settings.starts, seed) for seed in seeds]
        minima = [point for point in found if point is not None]
        if len(minima) < 2:
            raise ValueError(f"{len(minima)} nets converged to a minimum; allowed: at least 2, by more seeds or starts")
        converged = len(minima) / settings.seeds
        points = [*(drawn(settings.drawn, seed) for seed in seeds), *minima]

        kept: list[bool] = []
        exact: list[bool] = []
        moved: list[float] = []
        errors: list[float] = []
        gaps: list[float] = []
        rises: list[dict[tuple[int, float], Counts]] = []
        """For each point, (width, alpha) -> how its counts rise; a width of 1 stands for the null embedding."""
        for seed, point in enumerate(points):
            others = self.other_labels(point, seed)
            narrow = hessian(point.net, point.data)
            before = inertia(narrow)
            gaps.append(gap(narrow))
            keys = [(1, 0.0), *itertools.product(settings.widths, settings.alphas)]
            rise: dict[tuple[int, float], Counts] = {}
            as_predicted = True
            for key in keys:
                wide, elsewhere = (null(of, bias=0.5) if key[0] == 1 else split(of, *key) for of in (point, others))
                matrix = hessian(wide.net, point.data)
                after = inertia(matrix)
                gaps.append(gap(matrix))
                rise[key] = (after[0] - before[0], after[1] - before[1], after[2] - before[2])
                as_predicted &= rise[key] == wide.counts
                moving = gradient(wide.net, others.data)
                errors.append(apart(moving, elsewhere.gradient))
                largest = max(float(part.abs().max()) for part in moving.values())
                moved.append(float(flat(gradient(wide.net, point.data)).abs().max()) / largest)
            kept.append(min(min(counts) for counts in rise.values()) >= 0)
            exact.append(as_predicted)
            rises.append(rise)

        of_minima = rises[settings.seeds :]
        equal = [rise[2, 0.5][0] for rise in of_minima]
        splits = [[counts[0] for (width, _), counts in rise.items() if width > 1] for rise in of_minima]
        measures = {
            "kept": share(kept),
            "exact": share(exact),
            "critical": Measure.exact(log10(max(moved))),
            "gradient": Measure.exact(log10(max(errors))),
            "gradient_gpt": Measure.exact(log10(max(self.gpt_errors()))),
            "saddles": share([max(gained) > 0 for gained in splits]),
            "saddles_equal": share([gained > 0 for gained in equal]),
            "gained": Measure.of(np.array(equal) / settings.trained.neurons),
            "gap": Measure.exact(min(gaps)),
            "converged": Measure.exact(converged),
        }
        across = [1, *settings.widths]
        panels = [
            Panel(
                title=f"{word} eigenvalues, trained minima of {settings.trained.neurons} neurons",
                x="copies of each neuron",
                y="eigenvalues more than before",
                curves=[
                    Curve.over_units(
                        f"alpha {alpha:g}",
                        across,
                        np.array([[0, *(rise[width, alpha][k] for width in settings.widths)] for rise in of_minima]),
                        dashed=alpha in (0.0, 1.0),
                    )
                    for alpha in settings.alphas
                ],
            )
            for k, word in enumerate(("negative", "zero"))
        ]
        passes = len(points) * (2 + 2 * len(settings.widths) * len(settings.alphas))
        return Findings(measures, panels, passes + settings.models * parse_recipe(settings.recipe).steps)

    def other_labels(self, point: Point, seed: int) -> Point:
        """The same net where it is not critical."""
        generator = torch.Generator().manual_seed(stream_seed(seed, "other labels of claim embedding-principle"))
        y = torch.randn(len(point.data.y), generator=generator, dtype=torch.float64)
        return Point(point.net, Data(point.data.x, y))

    def gpt_errors(self) -> list[float]:
        """For each GPT, the largest error of the predicted gradients when its feed-forward neurons are split."""
        settings = self.settings
        recipe = parse_recipe(settings.recipe)
        stack = Stack([recipe.override({"seed": seed}) for seed in range(settings.models)])
        while stack.step < recipe.steps:
            stack.advance(recipe.steps)
        examples = [task.sample("train", recipe.batch, seed=recipe.steps) for task in stack.tasks]
        tokens, labels = (
            torch.from_numpy(np.stack(each)) for each in zip(*((of.tokens, of.label) for of in examples), strict=True)
        )

        def gradients(model: GPT) -> dict[str, Tensor]:
            logits = model(tokens)
            losses = cross_entropy(logits.flatten(0, 1), labels.flatten())
            return dict(zip(dict(model.named_parameters()), torch.autograd.grad(losses, list(model.parameters())), strict=True))

        narrow = stack.model.double().cpu()
        before = gradients(narrow)
        part = growths["split"]
        found: list[float] = []
        for width, alpha in itertools.product(settings.widths, settings.alphas):
            config = part.Config(at=1, width=width, alpha=alpha)
            shape = part.grown(config, recipe.model)
            wide = new_model(shape, members=settings.models, vocab_size=narrow.vocab_size, seq_len=narrow.seq_len).double()
            weights = part([config] * settings.models).weights({name: of.detach() for name, of in narrow.named_parameters()})
            wide.load_state_dict(weights)
            after, expected = gradients(wide), split_gradient(before, config.shares)
            found.append(apart(after, expected))
        return found

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        if measures["gap"].value < 1 or measures["converged"].value < 0.5:
            return CANNOT
        return all_of(
            above(measures["kept"], 0.9),
            above(measures["exact"], 0.9),
            above(measures["saddles"], 0.9),
            below(measures["critical"], -9),
            below(measures["gradient"], -9),
            below(measures["gradient_gpt"], -9),
        )
