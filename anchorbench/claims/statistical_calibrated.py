"""A random answer: does the transformer learn its probability, also for keys at positions where it never saw them?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from anchorbench.claim import CANNOT, Curve, Measure, Panel, Verdict, all_of, below, claims
from anchorbench.claims.anchor_function import PAPER, SMALLER, fits, in_the_paper, small
from anchorbench.claims.arms import Arms, ClaimOnArms, Found, over_steps
from anchorbench.inspect.open_model import open_one
from anchorbench.sweeps.run_folder import Run

PROBABILITIES = (0.6, 0.8, 0.95)
USUAL = 0.8
NEAR = 0.05
ASKED = 500
"""Sequences on which probabilities are read, as many as in the paper."""


def label(probability: float) -> str:
    """The label of the arm in which the key is the answer with this probability."""
    return f"p = {probability:g}"


def arm(probability: float) -> dict[str, Any]:
    """Its fields."""
    return {"task_config": {"probability": probability}}


def read_probabilities(run: Run) -> tuple[float, float]:
    """Mean probabilities of the key and of its successor after unseen keys and positions."""
    task = run.recipe.load_task()
    asked = task.sample("iid", ASKED, run.recipe.seed)
    opened, _ = open_one(run, task)
    logits = opened.run(torch.from_numpy(asked.tokens)).logits[0]
    found = logits.double().softmax(-1).cpu().numpy()
    rows = np.arange(ASKED)
    return float(found[rows, asked.key].mean()), float(found[rows, asked.key + 1].mean())


@claims.register
class StatisticalCalibrated(ClaimOnArms):
    """See the module."""

    name = "statistical-calibrated"
    paper = f"{PAPER}, statistical output"
    statement = (
        "A transformer trained on answers that are the key with probability 0.8 and its successor otherwise gives them these"
        " probabilities at keys and positions that it has never seen."
    )
    ground = (
        "Task statistical, with probabilities 0.6, 0.8 and 0.95. Every one of 100,000 examples has a label drawn for itself, where"
        " the paper repeats each of its sentences 100 times with exact shares: in both, the cross-entropy is least at the true"
        " probabilities. Read are mean softmax probabilities over 500 sequences." + SMALLER
    )
    measures = {
        "key": "mean probability of the key where it is 0.8",
        "off": "distance of the mean probability of the key from 0.8",
        "off_next": "distance of the mean probability of its successor from 0.2",
        "off_all": "distance of the mean probability of the key from the true one, averaged over 0.6, 0.8 and 0.95",
        "mass": "probability of key and successor together, where the key's is 0.8",
        "next": "mean probability of the successor where it is 0.2",
    }
    rule = (
        "It replicates if the intervals of off, off_next and off_all all lie below 0.05. It does not if one of them lies above."
        " Else, or if mass is below 0.9 on average, so that the key is not found, it cannot be told."
    )
    published = "Probabilities of x and x + 1 converge to .8 and .2 on unseen data, in a figure (1800 examples)."
    reading = (
        "All three probabilities are met within .02. What is missing from 1 went to other tokens, .02 at unseen combinations, and"
        " mostly from the rarer answer."
    )
    seconds = 45
    scales = {
        "laptop": Arms(
            seeds=8,
            base=small("statistical", steps=2000, data_size=100_000),
            arms={label(probability): arm(probability) for probability in PROBABILITIES},
        ),
        "paper": Arms(
            seeds=8,
            base=in_the_paper("statistical", data_size=180_000, steps=144_000),
            arms={label(probability): arm(probability) for probability in PROBABILITIES},
        ),
    }

    def read(self, runs: Mapping[str, Sequence[Run]]) -> Found:
        """See `ClaimOnArms`."""
        found = {name: np.array([read_probabilities(run) for run in arm]) for name, arm in runs.items()}  # [seeds, 2]
        usual = found[label(USUAL)]
        off = np.stack([np.abs(found[label(p)][:, 0] - p) for p in PROBABILITIES], 1)
        measures = {
            "key": Measure.of(usual[:, 0]),
            "off": Measure.of(np.abs(usual[:, 0] - USUAL)),
            "off_next": Measure.of(np.abs(usual[:, 1] - (1 - USUAL))),
            "off_all": Measure.of(off.mean(1)),
            "mass": Measure.of(usual.sum(1)),
            "next": Measure.of(usual[:, 1]),
        }
        columns = np.stack([found[label(p)] for p in PROBABILITIES], 1)  # [seeds, p, 2]
        curves = [
            Curve.over_units("the key", PROBABILITIES, columns[..., 0], share=True),
            Curve.over_units("its successor", PROBABILITIES, columns[..., 1], share=True),
            Curve(label="as in the data", x=list(PROBABILITIES), y=list(PROBABILITIES), dashed=True),
        ]
        way = [over_steps(name, arm, "accuracy_iid") for name, arm in runs.items()]
        panels = [
            Panel(title="unseen keys and positions", x="probability of the key in the data", y="mean probability", curves=curves),
            Panel(title="during training", x="step", y="share answered as the label", log_x=True, curves=way),
        ]
        return measures, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        """See `rule`."""
        parts: list[Verdict] = [below(measures[name], NEAR) for name in ("off", "off_next", "off_all")]
        verdict = all_of(*parts)
        return verdict if fits(measures["mass"]) else CANNOT
