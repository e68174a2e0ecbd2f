"""Trains a stack: several recipes of one structure as one program, each member as if it were alone.

Per member are: initial weights, data, their order, initialization rates, learning rate, weight decay and the other numbers of
AdamW, and gradient clipping. Common are the model's shape, batch size, steps and sequence length.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.backprop import Backprop
from anchorbench.initialize import initialize, stream_seed
from anchorbench.model import GPT
from anchorbench.recipe import Optimizer, Recipe
from anchorbench.task import Task
from anchorbench.verdict import Behaviour, EvalSet

EVALUATIONS = 12
"""Evaluations during training, at log-spaced steps; the last is the final one."""
EVALUATION_SIZE, FINAL_SIZE = 256, 1000
"""Sequences a split, during training and at its end."""
FIRST_EVALUATION = 50


@dataclass(frozen=True)
class Point:
    """A member's state at one step of its trajectory."""

    step: int
    loss: float | None
    """Mean training loss of the batch just trained on; None once the member has diverged."""
    accuracy_train: float
    accuracy_iid: float
    inferential: float | None
    symmetric: float | None
    groups: dict[str, float]
    """Accuracy by group."""


@dataclass(frozen=True)
class Member:
    """A trained member: its weights (name -> tensor without the member axis), behaviour and trajectory."""

    recipe: Recipe
    task: Task
    weights: dict[str, Tensor]
    behaviour: Behaviour
    trajectory: list[Point]
    diverged_at: int | None
    """The step of the evaluation that first found a loss or weight that is not finite; None if all went well."""
    seconds: float
    """The stack's training time divided by its members."""


def structure(recipe: Recipe) -> tuple[Any, ...]:
    """What the members of one stack must have in common."""
    task = recipe.load_task()
    return (recipe.model, recipe.batch, recipe.steps, task.seq_len, task.vocab_size)


def evaluation_steps(steps: int) -> list[int]:
    """Log-spaced steps, ending with the last."""
    first = min(FIRST_EVALUATION, steps)
    return sorted({round(step) for step in np.geomspace(first, steps, EVALUATIONS).tolist()} | {steps})


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """The rate at `step`, counted from 1: linear warm-up to the peak, then a cosine down to `lr * end` at `steps`."""
    if step <= optimizer.warmup:
        return optimizer.lr * (optimizer.start + (1 - optimizer.start) * step / optimizer.warmup)
    done = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    return optimizer.lr * (optimizer.end + (1 - optimizer.end) * (1 + math.cos(math.pi * done)) / 2)


class Flat:
    """A stack's parameters in one buffer `[members, size]`, so that norms, clipping and AdamW see a member as one row."""

    def __init__(self, model: GPT) -> None:
        parameters = list(model.parameters())
        size = sum(parameter[0].numel() for parameter in parameters)
        self.weights = torch.empty(model.members, size, device=parameters[0].device)
        self.gradients = torch.zeros_like(self.weights)
        self._gradient_views: dict[torch.nn.Parameter, Tensor] = {}
        at = 0
        for parameter in parameters:
            end = at + parameter[0].numel()
            view = self.weights[:, at:end].view(parameter.shape)
            view.copy_(parameter.data)
            parameter.data = view
            self._gradient_views[parameter] = self.gradients[:, at:end].view(parameter.shape)
            at = end

    def collect(self, gradients: dict[torch.nn.Parameter, Tensor]) -> None:
        """Copies the gradients into the buffer."""
        for parameter, view in self._gradient_views.items():
            view.copy_(gradients[parameter])

    def clip(self, norms: Float[Tensor, " members"]) -> None:
        """Scales each member's gradient down to its largest norm `norms [members]`."""
        scale = norms / (torch.linalg.vector_norm(self.gradients, dim=1) + 1e-6)
        self.gradients.mul_(scale.clamp(max=1.0)[:, None])

    def adamw(self, optimizers: list[Optimizer]) -> torch.optim.AdamW:
        """AdamW with a parameter group per member."""
        groups: list[dict[str, Any]] = []
        for weights, gradients, optimizer in zip(self.weights, self.gradients, optimizers, strict=True):
            row = torch.nn.Parameter(weights)
            row.grad = gradients
            groups.append(
                {
                    "params": [row],
                    "lr": optimizer.lr,
                    "weight_decay": optimizer.weight_decay,
                    "betas": (optimizer.beta1, optimizer.beta2),
                    "eps": optimizer.eps,
                }
            )
        return torch.optim.AdamW(groups, fused=True)


class Data:
    """The members' training examples and the order in which they are drawn."""

    def __init__(self, recipes: list[Recipe], tasks: list[Task], device: torch.device) -> None:
        sources: dict[tuple[str, int, int], int] = {}
        tokens: list[Tensor] = []
        labels: list[Tensor] = []
        self.source: list[int] = []
        self.head = {}
        for recipe, task in zip(recipes, tasks, strict=True):
            key = (task.fingerprint, recipe.seed, recipe.data_size)
            if key not in sources:
                examples = task.sample("train", recipe.data_size, recipe.seed)
                sources[key] = len(tokens)
                self.head[len(tokens)] = examples[:FINAL_SIZE]
                tokens.append(torch.as_tensor(examples.tokens, dtype=torch.int16, device=device))
                labels.append(torch.as_tensor(examples.label, dtype=torch.int16, device=device))
            self.source.append(sources[key])
        self._tokens, self._labels = tokens, labels
        order = {
            source: np.random.default_rng(stream_seed(recipe.seed, "order"))
            for source, recipe in zip(self.source, recipes, strict=True)
        }
        self._order, self._batch = order, recipes[0].batch

    def batches(self) -> Iterator[tuple[Int[Tensor, "members batch seq"], Int[Tensor, "members batch"]]]:
        """Endless batches: tokens `[members, batch, seq]` and labels `[members, batch]`."""
        while True:
            tokens, labels = {}, {}
            for source, rng in self._order.items():
                rows = torch.from_numpy(rng.integers(len(self._labels[source]), size=self._batch)).to(self._labels[source].device)
                tokens[source] = self._tokens[source][rows].long()
                labels[source] = self._labels[source][rows].long()
            yield torch.stack([tokens[s] for s in self.source]), torch.stack([labels[s] for s in self.source])


def train(recipes: list[Recipe], progress: Callable[[int], None] = lambda step: None) -> list[Member]:
    """Trains the recipes as one stack and returns its members in the same order.

    `progress` is called after every step with its number. Raises ValueError if the recipes differ in structure.
    """
    structures = {structure(recipe) for recipe in recipes}
    if len(structures) != 1:
        raise ValueError(f"a stack holds recipes of one structure; these have {len(structures)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks = [recipe.load_task() for recipe in recipes]
    steps, start = recipes[0].steps, time.perf_counter()

    model = GPT(recipes[0].model, members=len(recipes), vocab_size=tasks[0].vocab_size, seq_len=tasks[0].seq_len)
    initialize(model, [recipe.init for recipe in recipes], [recipe.seed for recipe in recipes])
    model.to(device)
    flat = Flat(model)
    backprop = Backprop(model, recipes[0].batch)
    optimizers = [recipe.optimizer for recipe in recipes]
    adamw = flat.adamw(optimizers)
    largest_norm = torch.tensor([optimizer.clip for optimizer in optimizers], device=device)
    data = Data(recipes, tasks, device)
    eval_sets = [
        EvalSet.of(task, FINAL_SIZE, stream_seed(recipe.seed, "evaluation"), train=data.head[source])
        for recipe, task, source in zip(recipes, tasks, data.source, strict=True)
    ]
    small_sets = [eval_set.head(EVALUATION_SIZE) for eval_set in eval_sets]
    trajectories: list[list[Point]] = [[] for _ in recipes]
    diverged_at: list[int | None] = [None] * len(recipes)
    evaluate_at = set(evaluation_steps(steps))
    behaviours: list[Behaviour] = []

    for step, (tokens, labels) in zip(range(1, steps + 1), data.batches(), strict=False):
        for group, optimizer in zip(adamw.param_groups, optimizers, strict=True):
            group["lr"] = learning_rate(optimizer, step, steps)
        losses = backprop(tokens, labels)
        flat.collect(backprop.gradients)
        flat.clip(largest_norm)
        adamw.step()
        if step in evaluate_at:
            behaviours = answer_all(model, eval_sets if step == steps else small_sets)
            finite = (losses.isfinite() & flat.weights.isfinite().all(1)).tolist()
            for member, (loss, behaviour) in enumerate(zip(losses.tolist(), behaviours, strict=True)):
                if not finite[member] and diverged_at[member] is None:
                    diverged_at[member] = step
                trajectories[member].append(_point(step, loss if finite[member] else None, behaviour))
        progress(step)

    seconds = (time.perf_counter() - start) / len(recipes)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return [
        Member(
            recipe=recipe,
            task=task,
            weights={name: tensor[member].clone() for name, tensor in state.items()},
            behaviour=behaviours[member],
            trajectory=trajectories[member],
            diverged_at=diverged_at[member],
            seconds=seconds,
        )
        for member, (recipe, task) in enumerate(zip(recipes, tasks, strict=True))
    ]


@torch.no_grad()
def answer_all(model: GPT, eval_sets: list[EvalSet]) -> list[Behaviour]:
    """The behaviour of every member on its own evaluation set."""
    device = next(model.parameters()).device
    tokens = torch.from_numpy(np.stack([eval_set.tokens for eval_set in eval_sets])).to(device)
    answers = torch.cat([model(part).argmax(-1) for part in tokens.split(512, dim=1)], dim=1).cpu().numpy()
    return [eval_set.behaviour(row) for eval_set, row in zip(eval_sets, answers, strict=True)]


def _point(step: int, loss: float | None, behaviour: Behaviour) -> Point:
    return Point(
        step=step,
        loss=loss,
        accuracy_train=behaviour.accuracy_train.value,
        accuracy_iid=behaviour.accuracy_iid.value,
        inferential=behaviour.inferential,
        symmetric=None if behaviour.symmetric is None else behaviour.symmetric.value,
        groups={name: share.value for name, share in behaviour.groups.items()},
    )
