"""Recombination: the state in which a model would read a held-out sequence, put together from trained sequences only.

A held-out sequence has two parts that never met, for instance anchors (a, b). Three trained sequences differ from it in one part
or both: (a, c), (d, b) and (d, c). If the effects of the parts add, its residual stream is

    stream(a, c) + stream(d, b) - stream(d, c)

at every position. We put this sum in place of the stream before or after a feed-forward layer, and let the rest of the model
answer. A model that composes from there on answers as the rule says; one that looks the pair up has no entry. The same sums for
trained sequences have a known answer, so they tell how faithful recombination is in this model. Nothing is fitted.

How near is this to reading the held-out sequence itself? What it leaves out is every interaction of the two parts before the site:
who attends to whom because of both, and what feed-forward layers before it compute from both.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anchorbench.inspect.open_model import OpenModel, Place, Site
from anchorbench.task import SPLITS, Examples, Task

SQUARES = 4
"""Sets of three trained sequences for each sequence."""
TRIES = 60
"""Random replacements tried for each sequence."""
SAME = 1e-3
"""Tolerance of equal logits, relative to the largest."""
SURVEY = 2000
"""Trained sequences that replacements are drawn from."""


@dataclass(frozen=True)
class Squares:
    """`n` sequences and, `SQUARES` times each, three trained ones: with the first part replaced, the second, and both."""

    examples: Examples
    parts: tuple[str, str]
    """Names of the parts, as in `Task.token_positions`."""
    first: Int[np.ndarray, "squares n seq"]
    second: Int[np.ndarray, "squares n seq"]
    both: Int[np.ndarray, "squares n seq"]


def find_squares(task: Task, examples: Examples, seed: int, squares: int = SQUARES) -> Squares:
    """Trained sequences around each of `examples`; of these, those that have them, in the pair of parts for which most do.

    Raises ValueError if no sequence has them: those of some tasks differ from every trained one in more than two parts.
    """
    rng = np.random.default_rng(seed)
    found = [
        _squares(task, examples, parts, rng, squares) for parts in itertools.combinations(task.token_positions(examples.tokens), 2)
    ]
    best = max(found, key=lambda each: len(each.examples), default=None)
    if best is None or len(best.examples) == 0:
        raise ValueError(
            f"held-out sequences of {task.full_name} cannot be put together from trained ones that differ in two parts"
        )
    return best


def _squares(task: Task, examples: Examples, parts: tuple[str, str], rng: np.random.Generator, squares: int) -> Squares:
    n, rows = len(examples), np.arange(len(examples))
    marks = task.token_positions(examples.tokens)
    survey = task.sample("train", SURVEY, int(rng.integers(2**31)))
    survey_marks = task.token_positions(survey.tokens)
    used = [survey.tokens[np.arange(SURVEY), survey_marks[name]] for name in parts]
    kept = np.zeros((3, squares, n, examples.tokens.shape[1]), examples.tokens.dtype)
    count = np.zeros(n, int)
    for _ in range(TRIES):
        new = [values[rng.integers(SURVEY, size=n)] for values in used]
        candidates = np.repeat(examples.tokens[None], 3, 0)
        for candidate, replaced in zip(candidates, ((0,), (1,), (0, 1)), strict=True):
            for part in replaced:
                candidate[rows, marks[parts[part]]] = new[part]
        usable = np.all([values != examples.tokens[rows, marks[name]] for values, name in zip(new, parts, strict=True)], 0)
        usable &= np.all([_trained(task, candidate) for candidate in candidates], 0) & (count < squares)
        kept[:, count[usable], usable] = candidates[:, usable]
        count[usable] += 1
        if (count == squares).all():
            break
    whole = count == squares
    return Squares(examples[whole], parts, *kept[:, :, whole])


def _trained(task: Task, tokens: Int[np.ndarray, "n seq"]) -> Bool[np.ndarray, " n"]:
    """Whether each sequence is of a group that is trained with the rule, and of the training split."""
    found = task.answer(tokens)
    roles = np.array([group.role == "trained" for group in task.groups])
    return found.valid & (found.split == SPLITS.index("train")) & roles[found.group]


def find_sites(opened: OpenModel, tokens: Int[np.ndarray, "n seq"]) -> list[Site]:
    """The sites of a model at which the whole state is in the residual stream; `tokens` are two or more sequences to find them by.

    There a sequence that is given the stream of another one ends with the other's logits. Parallel blocks, for instance, have no
    such site between attention and feed-forward layer. Raises ValueError for a model of one layer.
    """
    if opened.n_layer < 2:
        raise ValueError(f"recombination needs a model of two layers or more; this has {opened.n_layer}")
    sequences = torch.from_numpy(tokens)
    seen = opened.run(sequences)
    expected = seen.logits.roll(1, dims=1)
    found: list[Site] = []
    for layer in range(opened.n_layer):
        places: tuple[Place, ...] = ("resid_mid", "resid_post") if layer < opened.n_layer - 1 else ("resid_mid",)
        for place in places:
            given = getattr(seen, place)[layer].roll(1, dims=1)
            logits = opened.run(sequences, {Site(layer, place): lambda _, given=given: given}).logits
            if torch.allclose(logits, expected, rtol=SAME, atol=SAME * float(expected.abs().max())):
                found.append(Site(layer, place))
    return found


@torch.no_grad()
def recombined_answers(
    opened: OpenModel,
    squares: Squares,
    sites: Sequence[Site],
    *,
    at: Int[np.ndarray, "n part"] | None = None,
    donor: OpenModel | None = None,
) -> Int[np.ndarray, "site square members n"]:
    """Answers to the sequences recombined at each site, from each set of three trained sequences.

    Controls: `at` recombines these positions alone, and leaves the others as in the sequence with both parts replaced; `donor` is
    another model of the same shape whose streams are put in. Raises ValueError as `OpenModel.run` does.
    """
    source = donor or opened
    answers: list[list[np.ndarray]] = [[] for _ in sites]
    for each in zip(squares.first, squares.second, squares.both, strict=True):
        first, second, both = (source.run(torch.from_numpy(tokens)) for tokens in each)
        for number, (layer, place) in enumerate(sites):
            one, two, neither = (getattr(found, place)[layer] for found in (first, second, both))
            stream = one + two - neither
            if at is not None:
                stream = _only(stream, neither, torch.from_numpy(at))
            edits = {Site(layer, place): lambda _, stream=stream: stream}
            answers[number].append(opened.run(torch.from_numpy(each[2]), edits).answers.cpu().numpy())
    return np.array(answers)


def _only(
    stream: Float[Tensor, "members n seq d"], other: Float[Tensor, "members n seq d"], at: Int[Tensor, "n part"]
) -> Float[Tensor, "members n seq d"]:
    """`other`, with `stream` at the positions `at`."""
    rows = torch.arange(len(at))[:, None]
    mixed = other.clone()
    mixed[:, rows, at] = stream[:, rows, at]
    return mixed
