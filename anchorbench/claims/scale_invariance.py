"""The scale-invariant transformer and the scale of its initial weights (Li, Bhojanapalli, Zaheer, Reddi and Kumar, 2202.00980).

Three things are tried: that logits do not see the encoder's scale and gradients are orthogonal to its weights (exact, in double
precision); that training by SGD, weight decay and relative clipping ends equally well from initial scales of two orders of
magnitude; and that a plain transformer does not.

A prototype did not train from a tenth of the usual scale, and why was open: it was suspected that ReLU attention dies. Another
explanation: gradients are orthogonal to the weights, so that a step d lengthens them only by turning them, |w + d|^2 = |w|^2 +
|d|^2, and weights that start at a tenth of the length at which they settle end up as nine tenths of early gradients, which are of
low rank. Two diagnoses tell these apart: an arm whose attention cannot die (absolute scores in place of positive ones, which keeps
all degrees of homogeneity), and the stable rank of the matrices.

Pilot runs on other seeds chose rates, decay and length. They showed failure at the small scale, with attention that cannot die too,
and a stable rank that falls there; and of the plain transformer that strong decay helps it from the large scale, which is
why it is trained with the same decay.
"""

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from anchorbench.claim import CANNOT, Claim, Curve, Experiment, Findings, Measure, Panel, Verdict, above, all_of, below, claims
from anchorbench.claims.trained import Shares, scale_encoder, train
from anchorbench.inspect.open_model import StackModel
from anchorbench.model.gpt import GPT
from anchorbench.model.variants.scale_invariant import ScaleInvariantBlock
from anchorbench.recipe import parse_recipe
from anchorbench.train.stack import Stack

MARGIN = 0.1
"""Accuracy that may be lost from another initial scale."""
LEAST = 0.5
"""Accuracy from the usual scale below which there is not enough to lose."""
EXACT = -9
"""log10 of the error that rounding in double precision stays below."""
FACTOR = 7.3
"""By which the encoder is multiplied to see whether logits change."""
SEQUENCES = 64
"""On which attention is looked at."""


class Settings(Experiment):
    """Three recipes, and the scales that all start from."""

    invariant: dict[str, Any]
    """Fields of the scale-invariant transformer's recipe."""
    plain: dict[str, Any]
    """Fields of the plain one's, trained in the same way."""
    usual: dict[str, Any]
    """Fields of the plain one's, with a usual decay and clipping."""
    scales: Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=3, max_length=9)]
    """Factors of the encoder's initial weights; the smallest, 1 and the largest enter the measures."""
    looks: int = Field(ge=2, le=100)
    """Evaluations during training, evenly spaced, for the plots."""

    @field_validator("scales")
    @classmethod
    def _on_both_sides(cls, scales: list[float]) -> list[float]:
        if scales != sorted(set(scales)) or 1 not in scales[1:-1]:
            raise ValueError(f"is {scales}; allowed: factors that grow, from below 1 to above it by way of 1")
        return scales


def settings_of(seeds: int, scales: list[float], common: dict[str, Any], model: dict[str, Any]) -> Settings:
    """SGD without momentum for all; decay and clipping as in the paper but for the last."""
    way = {"kind": "sgd", "momentum": 0.0, "lr": 0.3, "warmup": 0, "schedule": "linear"}
    paper = {**way, "weight_decay": 0.003, "clip": "relative"}
    plain = {"activation": "relu", **model}
    return Settings(
        seeds=seeds,
        invariant={**common, "model": {"kind": "scale-invariant", **model}, "optimizer": paper},
        plain={**common, "model": plain, "optimizer": paper},
        usual={**common, "model": plain, "optimizer": {**way, "weight_decay": 1e-4, "clip": 1.0}},
        scales=scales,
        looks=10,
    )


@claims.register
class ScaleInvariance(Claim):
    """See the module."""

    name = "scale-invariance"
    paper = (
        "Li, Bhojanapalli, Zaheer, Reddi and Kumar, Robust training of neural networks using scale invariant architectures"
        " (ICML 2022, 2202.00980), sections 2 to 4"
    )
    statement = (
        "A transformer whose function does not see the scale of its weights, trained by SGD with weight decay and relative"
        " clipping, ends equally well from initial scales two orders of magnitude apart, where a plain one does not."
    )
    ground = (
        "A small GPT on the composite task (40 keys), accuracy at unseen keys and positions at the end of training. Encoder"
        " matrices start at 0.1, 1 and 10 times the usual scale; the head always at the usual one. The paper's list of scales"
        " could not be read: ours are centred on the usual one. Arms share data, order and, but for the scale, weights by"
        " seed. The plain GPT is trained in the very same way, so that architecture alone differs, and for comparison with weak"
        " decay and usual clipping. The paper pretrains BERT, clips the encoder alone and trains the head by LAMB; here all"
        " weights are trained and clipped in one way. The paper scale is the benchmark's usual GPT, five scales and ten times"
        " the steps."
    )
    measures = {
        "lost_small": "scale-invariant: accuracy from the usual scale minus that from the smallest",
        "lost_large": "scale-invariant: accuracy from the usual scale minus that from the largest",
        "lost_plain": "plain: accuracy from the usual scale minus the mean of that from the smallest and from the largest",
        "accuracy": "scale-invariant: accuracy from the usual scale",
        "invariance": "log10 of the largest change of a logit, over the largest logit, when the encoder is multiplied by 7.3",
        "orthogonality": "log10 of the cosine of the encoder's weights and their gradient, absolute",
        "accuracy_plain": "plain: accuracy from the usual scale",
        "lost_usual": "lost_plain with weak decay and usual clipping",
        "small_over_plain": "accuracy from the smallest scale: scale-invariant minus plain",
        "large_over_plain": "accuracy from the largest scale: scale-invariant minus plain",
        "lost_alive": "lost_small where attention cannot die",
        "dead": "share of attention rows without a positive score at the end, from the smallest scale minus from the usual one",
        "rank": "stable rank (mean over matrices) at the end, from the smallest scale minus from the usual one",
        "rank_large": "the same from the largest scale minus from the usual one",
    }
    rule = (
        "It replicates if invariance and orthogonality are below -9 (rounding), the intervals of lost_small and of lost_large lie"
        " below 0.1, ten points of accuracy, and that of lost_plain above 0.1. It does not if one of the five lies on the other"
        " side; else, or if accuracy is below 0.5, so that there is not enough to lose, it cannot be told. On the diagnosis:"
        " attention that dies is the cause only if nothing is lost where it cannot (lost_alive)."
    )
    reading = (
        "Invariance is exact, and from ten times the usual scale nothing is lost: the model even ends better, as it is turned more"
        " slowly while decay shortens its weights. From a tenth of the scale it hardly trains, and worse than the plain model."
        " Dead attention is not the cause: as much is lost where it cannot die, and no more rows are dead. The matrices' stable"
        " rank fits the other explanation: from the small scale it is 2.5 at the first look and below 2 from then on. This is no"
        " proof, as nothing was done to the rank itself. Strong decay, not architecture, saves the large scale: with it the plain"
        " model trains from there as well, so that its loss is all at the small scale. The rate was not tuned for each model,"
        " and the paper's scales may all be on the side that works."
    )
    seconds = 380
    scales = {
        "laptop": settings_of(
            seeds=8,
            scales=[0.1, 1, 10],
            common={"task": "composite", "task_config": {"key_max": 59, "seq_len": 5}, "batch": 16, "steps": 5000},
            model={"d_model": 32, "n_head": 2, "d_head": 16, "d_ff": 64},
        ),
        "paper": settings_of(
            seeds=12,
            scales=[0.1, 0.3, 1, 3, 10],
            common={"task": "composite", "batch": 128, "steps": 50_000},
            model={"n_head": 4, "d_head": 16},
        ),
    }

    settings: Settings

    def run(self) -> Findings:
        settings = self.settings
        scales, seeds = settings.scales, settings.seeds
        labels = [f"{scale:g} times the usual scale" for scale in scales]
        one = scales.index(1)
        recipes = (settings.invariant, settings.plain, settings.usual)
        invariant, plain, usual = (self.new_stack(recipe, scales) for recipe in recipes)
        changes, cosines = (found.reshape(len(scales), seeds).max(0) for found in invariance(invariant))
        ranks: list[np.ndarray] = []
        at = train(invariant, settings.looks, lambda: ranks.append(stable_ranks(invariant).reshape(len(scales), seeds)))
        train(plain, settings.looks)
        train(usual, settings.looks)
        found, of_plain, of_usual = (Shares.of(stack, len(scales)) for stack in (invariant, plain, usual))
        with attention_that_cannot_die():
            alive = self.new_stack(settings.invariant, [scales[0], 1.0])
            train(alive, settings.looks)
            of_alive = Shares.of(alive, 2)
        dead, rank = dead_rows(invariant).reshape(len(scales), seeds), ranks[-1]
        accuracy, other, weak = found.accuracy, of_plain.accuracy, of_usual.accuracy
        measures = {
            "lost_small": Measure.of(accuracy[one] - accuracy[0]),
            "lost_large": Measure.of(accuracy[one] - accuracy[-1]),
            "lost_plain": Measure.of(other[one] - (other[0] + other[-1]) / 2),
            "accuracy": Measure.of(accuracy[one]),
            "invariance": Measure.of(changes),
            "orthogonality": Measure.of(cosines),
            "accuracy_plain": Measure.of(other[one]),
            "lost_usual": Measure.of(weak[one] - (weak[0] + weak[-1]) / 2),
            "small_over_plain": Measure.of(accuracy[0] - other[0]),
            "large_over_plain": Measure.of(accuracy[-1] - other[-1]),
            "lost_alive": Measure.of(of_alive.accuracy[1] - of_alive.accuracy[0]),
            "dead": Measure.of(dead[0] - dead[one]),
            "rank": Measure.of(rank[0] - rank[one]),
            "rank_large": Measure.of(rank[-1] - rank[one]),
        }
        panels = [
            Panel(
                title=f"{name}: accuracy at unseen keys and positions",
                x="step",
                y="share of answers",
                curves=[Curve.over_units(label, at, rows, share=True) for label, rows in zip(names, shares, strict=True)],
            )
            for name, names, shares in (
                ("scale-invariant", labels, found.accuracies),
                ("plain", labels, of_plain.accuracies),
            )
        ]
        panels[0].curves.append(
            Curve.over_units("smallest, attention cannot die", at, of_alive.accuracies[0], share=True, dashed=True)
        )
        by_arm = np.moveaxis(np.array(ranks), 0, -1)
        curves = [Curve.over_units(label, at, rows) for label, rows in zip(labels, by_arm, strict=True)]
        panels.append(Panel(title="scale-invariant: stable rank", x="step", y="mean over matrices", curves=curves))
        return Findings(measures, panels, sum(stack.step * stack.requested for stack in (invariant, plain, usual, alive)))

    def new_stack(self, recipe: dict[str, Any], scales: Sequence[float]) -> Stack:
        """Every seed from each scale, ordered by scale."""
        base, seeds = parse_recipe(recipe), self.settings.seeds
        stack = Stack([base.override({"seed": seed}) for _ in scales for seed in range(seeds)])
        scale_encoder(stack, np.repeat(scales, seeds).tolist())
        return stack

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        exact: list[Verdict] = [below(measures[name], EXACT) for name in ("invariance", "orthogonality")]
        lost: list[Verdict] = [below(measures[name], MARGIN) for name in ("lost_small", "lost_large")]
        found = all_of(*exact, *lost, above(measures["lost_plain"], MARGIN))
        return found if measures["accuracy"].value >= LEAST else CANNOT


def in_double(stack: Stack) -> tuple[GPT, Tensor]:
    """The stack's model in double precision, and sequences of the task, the same for all members."""
    tokens = torch.from_numpy(stack.tasks[0].sample("train", SEQUENCES, 0).tokens)
    return copy.deepcopy(stack.model).double(), tokens.expand(len(stack.recipes), -1, -1).contiguous()


def invariance(stack: Stack) -> tuple[Float[np.ndarray, " members"], Float[np.ndarray, " members"]]:
    """log10 of the largest change of a member's logits, over the largest, when its encoder is multiplied by FACTOR; and log10 of
    the absolute cosine of the encoder's weights and their gradient. Each at least -20, so that an exact zero has one.
    """
    model, tokens = in_double(stack)
    encoder = [parameter for name, parameter in model.named_parameters() if not name.startswith("unembedding")]
    logits = model(tokens)
    gradients = torch.autograd.grad(logits.log_softmax(-1)[..., 0].mean(1).sum(), encoder)
    with torch.no_grad():
        weights, slopes = (torch.cat([part.flatten(1) for part in parts], 1) for parts in (encoder, gradients))
        cosines = torch.cosine_similarity(weights, slopes, dim=1, eps=0).abs()
        for parameter in encoder:
            parameter.mul_(FACTOR)
        changes = (model(tokens) - logits).abs().amax((1, 2)) / logits.abs().amax((1, 2))
    return changes.clamp(min=1e-20).log10().numpy(), cosines.clamp(min=1e-20).log10().numpy()


@torch.no_grad()
def dead_rows(stack: Stack) -> Float[np.ndarray, " members"]:
    """Share of attention rows, of all layers, heads and positions, without a positive score."""
    model, tokens = in_double(stack)
    patterns = StackModel(model).run(tokens).patterns
    return torch.stack([(pattern.sum(-1) == 0).double().mean((1, 2, 3)) for pattern in patterns]).mean(0).numpy()


def stable_ranks(stack: Stack) -> Float[np.ndarray, " members"]:
    """Mean over the blocks' matrices of the squared Frobenius norm over the squared largest singular value."""
    named = zip(stack.layout.names, stack.layout.views(stack.weights), strict=True)
    values = [torch.linalg.svdvals(view) for name, view in named if name in stack.layout.hidden]
    return torch.stack([each.square().sum(1) / each[:, 0].square() for each in values]).mean(0).numpy()


@contextmanager
def attention_that_cannot_die() -> Generator[None]:
    """Within it, scale-invariant models divide absolute scores by their sum: of degree 0 as well, and without empty rows."""

    def pattern(self: ScaleInvariantBlock, scores: Tensor) -> Tensor:
        absolute = torch.where(scores.isfinite(), scores.abs(), 0.0)
        return absolute / absolute.sum(-1, keepdim=True)

    usual = ScaleInvariantBlock.pattern
    ScaleInvariantBlock.pattern = pattern
    try:
        yield
    finally:
        ScaleInvariantBlock.pattern = usual
