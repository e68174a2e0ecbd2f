"""A stack: several recipes of one structure trained as one program, each member as if it were alone.

Each member has its own initial weights, data, data order, learning rate and other numeric hyperparameters. All members share the
model config, batch size, steps, sequence length, and whatever their parts call structural.
"""

import ctypes
import hashlib
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anchorbench.machine import Machine, this_machine
from anchorbench.model.gpt import GPT, new_model
from anchorbench.model.initialize import initialize
from anchorbench.parts import clips, estimators, growths, optimizers, penalties
from anchorbench.recipe import Recipe
from anchorbench.seeds import stream_seed
from anchorbench.task import Task
from anchorbench.train import evaluation
from anchorbench.train.batches import ORDER_BLOCK, Batches
from anchorbench.train.clips.none import Unclipped
from anchorbench.train.clips.norm import Norm
from anchorbench.train.estimators.plain import Plain
from anchorbench.train.evaluation import Point
from anchorbench.train.gradients.autograd import Autograd
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.gradients.choice import Path, batched, gradient_path, make_gradient
from anchorbench.train.gradients.compiled import find_library
from anchorbench.train.gradients.graph import Graph, known
from anchorbench.train.gradients.native import Native, Steps, kind_of
from anchorbench.train.rates import decay_amounts, learning_rate, shrinkage
from anchorbench.train.seams import ActivationPenalty, Layout, Penalty, RowPart
from anchorbench.verdict import Behaviour, EvalSet

CALL_SECONDS = 0.5
"""Approximate duration of a call of the compiled step, which interruptions and progress have to wait for."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


@dataclass(frozen=True)
class Member:
    """A trained member: its weights (name -> tensor without the member axis), behaviour and trajectory."""

    recipe: Recipe
    task: Task
    weights: dict[str, Tensor]
    kept: dict[int, dict[str, Tensor]]
    """Weights at the requested intermediate steps."""
    states: dict[int, dict[str, Tensor]]
    """The state of all parts at those steps (`optimizer.exp_avg` -> row): what resuming there needs besides the weights."""
    initial: dict[str, str]
    """Parameter -> digest of its initial weights."""
    machines: list[tuple[int, Machine]]
    """The machines that trained it, each with the step at which it took over; more than one if training moved."""
    behaviour: Behaviour
    trajectory: list[Point]
    diverged_at: int | None
    """The step of the first evaluation that found a non-finite loss or weight; None if there was none."""
    steps_trained: int
    """Less than the recipe's steps only if the member settled early."""
    seconds: float
    """Its share of the stack's training time."""


def structure(recipe: Recipe) -> tuple[Any, ...]:
    """What the members of one stack must have in common. The gradient path follows from it and the machine that trains."""
    task = recipe.load_task()
    evaluated = (task.name, task.splits, min(recipe.data_size, evaluation.FINAL_SIZE))  # evaluation sets of one size
    way = (
        *(part.structure for part in (recipe.model, recipe.optimizer, recipe.estimator, recipe.noise)),
        *(part.structure for part in (*recipe.penalties, *recipe.growth)),
    )
    return (*way, recipe.batch, recipe.steps, recipe.stop, recipe.precision, task.seq_len, task.vocab_size, evaluated)


class Stack:
    """Members in training: model, state of the parts, and trajectories. One buffer row per member, `[members, size]`."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        device: torch.device | None = None,
        path: Path | None = None,
        *,
        call_seconds: float | None = None,
    ) -> None:
        """Members at step 0, trained on the gradient path that `gradient_path` chooses, or on `path`.

        The compiled step is called for about `call_seconds` at a time, by default CALL_SECONDS. Raises ValueError if the recipes
        differ in structure.
        """
        _keep_freed_memory()
        structures = {structure(recipe) for recipe in recipes}
        if len(structures) != 1:
            raise ValueError(f"a stack holds recipes of one structure; these have {len(structures)}")
        self.requested = len(recipes)
        first, task = recipes[0], recipes[0].load_task()
        self._sizes = {"vocab_size": task.vocab_size, "seq_len": task.seq_len}
        self.path: Path = path or gradient_path(first)
        shapes = [first.model_at(step) for step in (0, *(event.at for event in first.growth))]
        # A batched matmul of one uses another kernel, with other rounding: a single member is trained with a copy of itself.
        once = self.path == "native" or not any(batched(first, shape, **self._sizes) for shape in shapes)
        twice = self.requested == 1 and not once
        self.recipes = recipes = [*recipes, *recipes] if twice else list(recipes)
        self.tasks = [recipe.load_task() for recipe in recipes]
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.step = 0
        self._call_seconds = CALL_SECONDS if call_seconds is None else call_seconds
        self.seconds = [0.0] * len(recipes)
        self.trajectories: list[list[Point]] = [[] for _ in recipes]
        self.diverged_at: list[int | None] = [None] * len(recipes)
        self.kept: dict[int, dict[str, Tensor]] = {}
        """Step -> weights and state of all parts, each `[members, ...]`."""
        told = f"native ({find_library().about})" if self.path == "native" else self.path
        self.machines = [(0, this_machine(first.precision, gpu=self.device.type == "cuda", gradient=told))]

        model = self._new_model(0)
        initialize(model, [recipe.init for recipe in recipes], [recipe.seeds.init for recipe in recipes])
        self._take(model)
        self.initial = [digests(self.named(member)) for member in range(len(recipes))]
        self._batches = Batches(self.recipes, self.tasks, self.device, evaluation.FINAL_SIZE)
        self._eval_sets = [
            EvalSet.of(task, evaluation.FINAL_SIZE, stream_seed(recipe.seeds.data, "evaluation"), train=head)
            for recipe, task, head in zip(recipes, self.tasks, self._batches.heads, strict=True)
        ]
        self._small_sets = [eval_set.head(evaluation.EVALUATION_SIZE) for eval_set in self._eval_sets]
        self._step_seconds = np.inf

    def _new_model(self, step: int) -> GPT:
        """An uninitialized stack of the models that the members have after this step."""
        return new_model(self.recipes[0].model_at(step), members=len(self.recipes), **self._sizes)

    def _take(self, model: GPT) -> None:
        """Trains this model from here on, with new parts."""
        recipes, first = self.recipes, self.recipes[0]
        self.model = model.to(self.device)
        self._parameters = dict(self.model.named_parameters())
        self.layout = Layout.of(self.model)
        self.weights, self.gradients = (torch.zeros(len(recipes), sum(self.layout.sizes), device=self.device) for _ in range(2))
        for parameter, view in zip(self._parameters.values(), self.layout.views(self.weights), strict=True):
            view.copy_(parameter.data)
        self._point_at(self.weights)
        self._batched = batched(first, model.shape, **self._sizes)
        self._native = Native(self.model, self.layout, first.batch) if self.path == "native" else None
        self._gradient_views = self.layout.views(self.gradients)
        self._decayed = self._decay_mask()
        self._clip = self._part(clips, [recipe.optimizer.clip for recipe in recipes])
        self._optimizer = self._part(optimizers, [recipe.optimizer for recipe in recipes])
        self._estimator = self._part(estimators, [recipe.estimator for recipe in recipes])
        self._penalties: list[Penalty | ActivationPenalty] = [
            self._part(penalties, [recipe.penalties[number] for recipe in recipes]) for number in range(len(first.penalties))
        ]
        seeing = [penalty for penalty in self._penalties if isinstance(penalty, ActivationPenalty)]
        self._gradient = None if self._native else make_gradient(recipes, self.model, seeing)
        usual = type(self._clip) in (Norm, Unclipped) and type(self._estimator) is Plain and not self._penalties
        self._whole_steps = self._native is not None and usual and kind_of(self._optimizer) is not None
        """Whether the compiled step supports everything that this stack does."""
        self._graphed = usual and known(self._optimizer) and isinstance(self._gradient, Backprop) and self.device.type == "cuda"
        """Whether steps are recorded on the GPU."""
        self._graph: Graph | None = None

    def _part(self, registry: Any, configs: Sequence[Any]) -> Any:
        return registry[configs[0].kind](configs, self.layout, self.weights)

    def _point_at(self, rows: Tensor) -> None:
        """Points the model's parameters at these rows."""
        for parameter, view in zip(self._parameters.values(), self.layout.views(rows), strict=True):
            parameter.data = view

    def _layout_at(self, step: int) -> Layout:
        """The layout of the parameters after this step."""
        if not self.recipes[0].growth:
            return self.layout
        with torch.device("meta"):
            return Layout.of(self._new_model(step))

    def _fit(self, step: int) -> None:
        """Allocates weights and state for this step; the present ones are lost if the model has another size."""
        if self.layout != self._layout_at(step):
            self._take(self._new_model(step))

    def _grow(self, number: int) -> None:
        """The event of growth with this number."""
        configs = [recipe.growth[number] for recipe in self.recipes]
        event, layout, before = growths[configs[0].kind](configs), self.layout, self.state()
        model = self._new_model(self.step)
        with torch.no_grad():
            for name, value in event.weights(dict(zip(layout.names, layout.views(self.weights), strict=True))).items():
                model.get_parameter(name).copy_(value)
        self._take(model)
        if configs[0].state == "reset":
            return
        for name, rows in self.state().items():
            if rows.shape[-1] != sum(self.layout.sizes):  # not one value per weight
                if rows.shape != before[name].shape:
                    raise ValueError(f"{name} cannot be copied to a larger model; allowed: growth with state 'reset'")
                rows.copy_(before[name])
            elif name != "weights":
                old, new = before[name].flatten(0, -2), rows.flatten(0, -2)
                larger = event.state(dict(zip(layout.names, layout.views(old), strict=True)))
                for parameter, view in zip(self.layout.names, self.layout.views(new), strict=True):
                    view.copy_(larger[parameter])

    def _counted_from(self, step: int) -> int:
        """The step from which the optimizer counts at this step: the last event before it that reset its state."""
        return max((event.at for event in self.recipes[0].growth if event.state == "reset" and event.at < step), default=0)

    @property
    def run_ids(self) -> list[str]:
        """Run ids of the requested members."""
        return [recipe.run_id for recipe in self.recipes[: self.requested]]

    def named(self, member: int, rows: Tensor | None = None, layout: Layout | None = None) -> dict[str, Tensor]:
        """The member's weights, or its part of another buffer `[members, size]`: parameter name -> tensor."""
        layout = layout or self.layout
        views = layout.views(self.weights if rows is None else rows)
        return {name: view[member].cpu().clone() for name, view in zip(layout.names, views, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """The weights, and the state of all parts (`optimizer.exp_avg`, ...), `[members, ...]` each."""
        owners: dict[str, RowPart] = {"optimizer": self._optimizer, "estimator": self._estimator, "clip": self._clip}
        owners |= {f"penalty{number}": penalty for number, penalty in enumerate(self._penalties)}
        return {"weights": self.weights} | {
            f"{name}.{key}": rows for name, owner in owners.items() for key, rows in owner.state.items()
        }

    def state_of(self, member: int, parts: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The member's part of `state`, without the weights: the current one, or that kept at another step."""
        rows = self.state() if parts is None else parts
        return {name: part[member].cpu().clone() for name, part in rows.items() if name != "weights"}

    def load(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Puts all members at `step` with the weights and the state of one `Member` (`weights`, `states[step]`).

        Raises KeyError or RuntimeError if they are another shape's.
        """
        self._fit(step)
        for name, view in zip(self.layout.names, self.layout.views(self.weights), strict=True):
            view.copy_(weights[name].expand(view.shape))
        for name, rows in self.state().items():
            if name != "weights" and state is not None:
                rows.copy_(state[name].expand(rows.shape))
        self.step = step

    def keep(self) -> None:
        """Keeps the weights and the state of this step."""
        self.kept[self.step] = {name: rows.clone() for name, rows in self.state().items()}

    def _decay_mask(self) -> Float[Tensor, "members size"] | None:
        """1 where weight decay acts, 0 on embeddings of members that exclude them; None if it acts everywhere."""
        if all(recipe.optimizer.decay_embeddings for recipe in self.recipes):
            return None
        mask = torch.ones_like(self.weights)
        for role, view in zip(self.model.roles().values(), self.layout.views(mask), strict=True):
            if role.part == "embedding":
                for member, recipe in enumerate(self.recipes):
                    view[member] = float(recipe.optimizer.decay_embeddings)
        return mask

    def oracle(self, step: int, at: Float[Tensor, "members size"] | None = None) -> tuple[Tensor, Tensor]:
        """Losses `[members]` and gradients `[members, size]` on the batch of a step, see `seams.Oracle`."""
        tokens, labels = self._batches.batch(step)
        if self._native is not None:
            return self._native.gradient(self.weights if at is None else at, self.gradients, tokens, labels), self.gradients
        assert self._gradient is not None  # noqa: S101 - for the type checker
        if at is not None:
            self._point_at(at)
        losses = self._gradient(tokens, labels, step) if isinstance(self._gradient, Autograd) else self._gradient(tokens, labels)
        if at is not None:
            self._point_at(self.weights)
        for parameter, view in zip(self._parameters.values(), self._gradient_views, strict=True):
            view.copy_(self._gradient.gradients[parameter])
        return losses, self.gradients

    def advance(self, until: int | None = None) -> Float[Tensor, " members"]:
        """One training step, or several where one call can do them, at most to step `until`; returns each member's last loss.

        If an event of growth is due after it, the stack is the larger one.
        """
        with _tf32(used=self.recipes[0].precision == "tf32"):
            return self._advance_in_precision(until)

    def _advance_in_precision(self, until: int | None) -> Tensor:
        events = [event.at for event in self.recipes[0].growth]
        if self._whole_steps or self._graphed:
            last = min(step for step in (until or self.step + 1, *events) if step > self.step)
            losses = self._advance_many(last)
        else:
            losses = self._advance()
        if self.step in events:
            self._grow(events.index(self.step))
        return losses

    def _advance_many(self, until: int) -> Tensor:
        """Steps in one call, at most to step `until`."""
        first = self.step + 1
        most = max(1, int(self._call_seconds / self._step_seconds))
        steps = range(first, min(until, self.step + most, first - first % ORDER_BLOCK + ORDER_BLOCK - 1) + 1)
        start = time.perf_counter()
        losses = self._train_many(steps)
        self._step_seconds = (time.perf_counter() - start) / len(steps)
        self.step = steps[-1]
        return losses

    def _train_many(self, steps: range) -> Tensor:
        rates = [[learning_rate(recipe.optimizer, step, recipe.steps) for recipe in self.recipes] for step in steps]
        amounts = np.array(
            [
                [decay_amounts(recipe.optimizer, step, rate) for recipe, rate in zip(self.recipes, row, strict=True)]
                for step, row in zip(steps, rates, strict=True)
            ]
        )
        first, orders = steps[0] - self._counted_from(steps[0]), self._batches.orders(steps)
        clips = [getattr(recipe.optimizer.clip, "most", np.inf) for recipe in self.recipes]
        if self._native is not None:
            work = Steps(first, self._batches.examples(), orders, np.array(rates), amounts[..., 0], amounts[..., 1])
            return self._native.train(self.weights, self.gradients, self._optimizer, clips, self._decayed, work)
        if self._graph is None:
            assert isinstance(self._gradient, Backprop)  # noqa: S101 - for the type checker
            mine = (self._gradient, self.layout, self.weights, self.gradients, self._optimizer, clips, self._decayed)
            self._graph = Graph(*mine, self._batches.examples())
        return self._graph.train(orders, np.stack([np.array(rates), amounts[..., 0], amounts[..., 1]], 1), first)

    def _advance(self) -> Tensor:
        self.step += 1
        losses, gradients = self._estimator(self.oracle, self.weights, self.step)
        for penalty in self._penalties:
            if isinstance(penalty, Penalty):
                penalty.add(gradients, self.weights)
        rates = [learning_rate(recipe.optimizer, self.step, recipe.steps) for recipe in self.recipes]
        shrunk = [shrinkage(recipe.optimizer, each) for recipe, each in zip(self.recipes, rates, strict=True)]
        rate, share = (torch.tensor(column, dtype=torch.float64)[:, None] for column in (rates, shrunk))
        self._clip(gradients, self.weights, rate, share)
        self._decay(gradients, rates)
        self._optimizer.step(self.weights, gradients, self.weights, rate, self.step - self._counted_from(self.step))
        return losses

    def _decay(self, gradients: Tensor, rates: list[float]) -> None:
        amounts = [decay_amounts(recipe.optimizer, self.step, rate) for recipe, rate in zip(self.recipes, rates, strict=True)]
        for target, sign, column in ((gradients, 1.0, 0), (self.weights, -1.0, 1)):
            if any(amount[column] for amount in amounts):
                amount = torch.tensor([sign * amount[column] for amount in amounts], device=self.device)[:, None]
                target.addcmul_(self.weights, amount if self._decayed is None else amount * self._decayed)

    def evaluate(self, losses: Float[Tensor, " members"]) -> None:
        """Adds a point to every member's trajectory, and marks the members that are no longer finite."""
        behaviours = self._answer(self._small_sets)
        finite = (losses.isfinite() & self.weights.isfinite().all(1)).tolist()
        for member, (loss, behaviour) in enumerate(zip(losses.tolist(), behaviours, strict=True)):
            if not finite[member] and self.diverged_at[member] is None:
                self.diverged_at[member] = self.step
            self.trajectories[member].append(Point.of(self.step, loss if finite[member] else None, behaviour))

    def _answer(self, eval_sets: list[EvalSet]) -> list[Behaviour]:
        if self._native is None:
            return evaluation.answer_all(self.model, eval_sets, batched=self._batched)
        tokens = np.stack([eval_set.tokens for eval_set in eval_sets])
        answers = self._native.answers(self.weights, tokens)
        return [eval_set.behaviour(row) for eval_set, row in zip(eval_sets, answers, strict=True)]

    def settled(self, member: int) -> bool:
        """Whether the member's recipe lets it stop early and its verdict is settled."""
        return self.recipes[member].stop == "settled" and evaluation.settled(self.trajectories[member])

    def members(self) -> list[Member]:
        """All members as trained so far, evaluated on their full evaluation sets."""
        behaviours = self._answer(self._eval_sets)
        return [
            Member(
                recipe=recipe,
                task=task,
                weights=self.named(member),
                kept={step: self.named(member, parts["weights"], self._layout_at(step)) for step, parts in self.kept.items()},
                states={step: self.state_of(member, parts) for step, parts in self.kept.items()},
                initial=self.initial[member],
                machines=self.machines,
                behaviour=behaviours[member],
                trajectory=self.trajectories[member],
                diverged_at=self.diverged_at[member],
                steps_trained=self.step,
                seconds=self.seconds[member],
            )
            for member, (recipe, task) in enumerate(zip(self.recipes, self.tasks, strict=True))
        ][: self.requested]

    def subset(self, members: list[int]) -> "Stack":
        """The same training with only these members left."""
        stack = Stack([self.recipes[member] for member in members], self.device, self.path, call_seconds=self._call_seconds)
        members = [members[member % len(members)] for member in range(len(stack.recipes))]  # a single member has a copy
        stack.machines = self.machines
        stack.restore(
            {name: tensor[members] for name, tensor in self.saved().items()},
            {name: [values[member] for member in members] for name, values in self.seen().items()},
            self.step,
        )
        return stack

    def saved(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint, each `[members, ...]`."""
        kept = {f"kept.{step}.{name}": rows for step, parts in self.kept.items() for name, rows in parts.items()}
        return self.state() | kept

    def seen(self) -> dict[str, list[Any]]:
        """The trajectories and events of each member so far."""
        return {
            "seconds": self.seconds,
            "trajectories": self.trajectories,
            "diverged_at": self.diverged_at,
            "initial": self.initial,
        }

    def restore(self, saved: Mapping[str, Tensor], seen: Mapping[str, list[Any]], step: int) -> None:
        """Restores the results of `saved` and `seen` at `step`. Raises KeyError or RuntimeError if they are another stack's."""
        self._fit(step)
        for name, rows in self.state().items():
            if saved[name].shape != rows.shape or saved[name].dtype != rows.dtype:
                raise KeyError(name)
            rows.copy_(saved[name])
        self.kept = {}
        for name, rows in saved.items():
            if name.startswith("kept."):
                _, kept_step, part = name.split(".", 2)
                wanted = [*self.state()[part].shape]
                if wanted[-1] == sum(self.layout.sizes):
                    wanted[-1] = sum(self._layout_at(int(kept_step)).sizes)
                if [*rows.shape] != wanted:
                    raise KeyError(name)
                self.kept.setdefault(int(kept_step), {})[part] = rows.to(self.device, copy=True)
        self.seconds, self.diverged_at, self.initial = seen["seconds"], seen["diverged_at"], seen["initial"]
        self.trajectories = [list(points) for points in seen["trajectories"]]  # a lone member's copy has its own
        self.step = step


@contextmanager
def _tf32(*, used: bool) -> Generator[None]:
    """Context in which matmuls on a GPU use TF32, or do not."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = used
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, by name."""
    return {name: hashlib.sha256(tensor.contiguous().numpy().data).hexdigest() for name, tensor in weights.items()}


def _keep_freed_memory() -> None:
    """Without this, glibc returns freed memory to the system and gets it back, cleared, in every step."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the maximum allowed
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
