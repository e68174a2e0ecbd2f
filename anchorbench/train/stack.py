"""Trains a stack: several recipes of one structure as one program, each member as if it were alone.

Per member are: initial weights, data, their order, initialization rates, learning rate, weight decay and the other numbers of
AdamW, and gradient clipping. Common are the model's shape, batch size, steps and sequence length. A checkpoint holds all that the
rest of the training depends on, so that a continued run ends with the same bits.
"""

import ctypes
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchorbench.files import require_plain, write_atomically
from anchorbench.machine import Machine, this_machine
from anchorbench.model.gpt import GPT
from anchorbench.model.initialize import initialize, stream_seed
from anchorbench.recipe import Optimizer, Recipe
from anchorbench.sweeps.run_folder import CheckpointState
from anchorbench.task import Task
from anchorbench.train.batches import Batches
from anchorbench.train.gradients.backprop import ALIGNED, Backprop, OneByOne, aligned
from anchorbench.verdict import Behaviour, EvalSet

EVALUATIONS = 12
"""Evaluations during training, at log-spaced steps; the last is the final one."""
EVALUATION_SIZE, FINAL_SIZE = 256, 1000
"""Sequences a split, during training and at its end."""
FIRST_EVALUATION = 50
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
"""The type of activations and products; None is that of the weights."""
CHECKPOINT_SECONDS = 15.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
SETTLED_EVALUATIONS, SETTLED_LOSS, SETTLED_EVERY = 3, 0.01, 0.05
"""With `stop: settled`, a member ends early once its last 3 evaluations (at least one each 5% of the steps) name the same
inferential, memorizing, ordered or symmetric solution, with a training loss below 0.01 in each."""


@dataclass(frozen=True)
class Point:
    """A member's state at one step of its trajectory."""

    step: int
    loss: float | None
    """Mean training loss of the batch just trained on; None once the member has diverged."""
    verdict: str | None
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
    kept: dict[int, dict[str, Tensor]]
    """Weights at the intermediate steps that were asked for."""
    states: dict[int, dict[str, Tensor]]
    """The optimizer's state at those steps: all that going on from there takes besides the weights."""
    initial: dict[str, str]
    """Parameter -> digest of its initial weights."""
    machines: list[tuple[int, Machine]]
    """Where it was trained, each with the step from which on; more than one if it went on elsewhere."""
    behaviour: Behaviour
    trajectory: list[Point]
    diverged_at: int | None
    """The step of the evaluation that first found a loss or weight that is not finite; None if all went well."""
    steps_trained: int
    """Less than the recipe's steps only if the member was settled before."""
    seconds: float
    """Its share of the stack's training time."""


def structure(recipe: Recipe) -> tuple[Any, ...]:
    """What the members of one stack must have in common."""
    task = recipe.load_task()
    evaluated = (task.name, task.splits, min(recipe.data_size, FINAL_SIZE))  # evaluation sets of one size
    return (recipe.model, recipe.batch, recipe.steps, recipe.stop, recipe.precision, task.seq_len, task.vocab_size, evaluated)


def evaluation_steps(recipe: Recipe) -> set[int]:
    """Log-spaced steps, ending with the last; with `stop: settled` also every 5% of the steps."""
    first = min(FIRST_EVALUATION, recipe.steps)
    steps = {round(step) for step in np.geomspace(first, recipe.steps, EVALUATIONS).tolist()} | {recipe.steps}
    if recipe.stop == "settled":
        steps |= set(range(recipe.steps, 0, -max(1, round(SETTLED_EVERY * recipe.steps))))
    return steps


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """The rate at `step`, counted from 1: linear warm-up to the peak, then the schedule's way down to `lr * end` at `steps`."""
    if step <= optimizer.warmup:
        return optimizer.lr * (optimizer.start + (1 - optimizer.start) * step / optimizer.warmup)
    done = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    left = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[optimizer.schedule]
    return optimizer.lr * (optimizer.end + (1 - optimizer.end) * left)


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 in hardware; elsewhere it is emulated, slowly."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def weight_decay(optimizer: Optimizer, step: int) -> float:
    """The decay's strength at `step`: constant within its window, else zero."""
    inside = optimizer.decay_from < step and (optimizer.decay_until is None or step <= optimizer.decay_until)
    return optimizer.weight_decay if inside else 0.0


def memory_of_member(recipe: Recipe) -> float:
    """Bytes that one member adds to a stack: parameters, gradients, optimizer state, the step's arrays, and training data.

    Worked out on shapes alone, without allocating. A quarter is added for what an operation needs while it runs.
    """
    task = recipe.load_task()
    with torch.device("meta"):
        model = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
        backprop = Backprop(model, recipe.batch, PRECISIONS[recipe.precision])
        backprop(torch.zeros(1, recipe.batch, task.seq_len, dtype=torch.long), torch.zeros(1, recipe.batch, dtype=torch.long))
    # Four rows of parameters (weights, gradients, two moments), and what the step works on; data once as drawn, once as int16.
    rows = 4 * sum(parameter.nbytes for parameter in model.parameters())
    step = sum(array.nbytes for array in [*backprop.gradients.values(), *backprop.buffers])
    return 1.25 * (rows + step + 10 * recipe.data_size * (task.seq_len + 1))


class Stack:
    """Members in training: model, optimizer state, and what was seen of each. One buffer row a member, `[members, size]`."""

    def __init__(self, recipes: Sequence[Recipe], device: torch.device | None = None) -> None:
        """Members at step 0. Raises ValueError if the recipes differ in structure."""
        _keep_freed_memory()
        structures = {structure(recipe) for recipe in recipes}
        if len(structures) != 1:
            raise ValueError(f"a stack holds recipes of one structure; these have {len(structures)}")
        self.asked = len(recipes)
        first, task = recipes[0], recipes[0].load_task()
        self._batched = aligned(first.model, first.batch, task.vocab_size, task.seq_len, bf16=first.precision == "bf16")
        # A batched matmul of one is another kernel, with other roundings: a lone member is trained beside a copy of itself.
        self.recipes = recipes = [*recipes, *recipes] if self.asked == 1 and self._batched else list(recipes)
        self.tasks = [recipe.load_task() for recipe in recipes]
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.step = 0
        self.seconds = [0.0] * len(recipes)
        self.trajectories: list[list[Point]] = [[] for _ in recipes]
        self.diverged_at: list[int | None] = [None] * len(recipes)
        self.kept: dict[int, dict[str, Tensor]] = {}
        """Step -> rows of the weights and the optimizer's state, each `[members, size]`."""
        self.machines = [(0, this_machine(first.precision, gpu=self.device.type == "cuda"))]

        self.model = GPT(first.model, members=len(recipes), vocab_size=task.vocab_size, seq_len=task.seq_len)
        initialize(self.model, [recipe.init for recipe in recipes], [recipe.seeds.init for recipe in recipes])
        self.model.to(self.device)
        self._parameters = list(self.model.parameters())
        self.weights, self.gradients, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(len(recipes), sum(self._sizes()), device=self.device) for _ in range(4)
        )
        for parameter, view in zip(self._parameters, self._views(self.weights), strict=True):
            view.copy_(parameter.data)
            parameter.data = view
        self._gradient_views = self._views(self.gradients)
        self.initial = [digests(self.named(member)) for member in range(len(recipes))]
        backprop = Backprop if self._batched else OneByOne
        self._backprop = backprop(self.model, first.batch, PRECISIONS[first.precision])
        self._largest_norm = torch.tensor([recipe.optimizer.clip for recipe in recipes], device=self.device)
        self._decayed = self._decay_mask()
        self._adam = self._make_adam()
        self._batches = Batches(self.recipes, self.tasks, self.device, FINAL_SIZE)
        self._eval_sets = [
            EvalSet.of(task, FINAL_SIZE, stream_seed(recipe.seeds.data, "evaluation"), train=head)
            for recipe, task, head in zip(recipes, self.tasks, self._batches.heads, strict=True)
        ]
        self._small_sets = [eval_set.head(EVALUATION_SIZE) for eval_set in self._eval_sets]

    @property
    def run_ids(self) -> list[str]:
        return [recipe.run_id for recipe in self.recipes[: self.asked]]

    def _views(self, rows: Tensor) -> list[Tensor]:
        """The parameters' parts of a buffer `[members, size]`, each shaped as its parameter."""
        parts = rows.split(self._sizes(), dim=1)
        return [
            part[:, : parameter[0].numel()].view(parameter.shape) for part, parameter in zip(parts, self._parameters, strict=True)
        ]

    def _sizes(self) -> list[int]:
        """Each parameter's place in a row: zeros fill it up so that the members' weights are equally aligned."""
        return [-(-parameter[0].numel() // ALIGNED) * ALIGNED for parameter in self._parameters]

    def named(self, member: int, rows: Tensor | None = None) -> dict[str, Tensor]:
        """The member's weights, or its part of another buffer `[members, size]`: parameter name -> tensor."""
        views = self._views(self.weights if rows is None else rows)
        return {name: view[member].cpu().clone() for (name, _), view in zip(self.model.named_parameters(), views, strict=True)}

    def load(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor] | None) -> None:
        """Puts all members at `step` with the weights and the optimizer's state of one `Member` (`weights`, `states[step]`).

        Raises KeyError or RuntimeError if they are another shape's.
        """
        for part, rows in self._rows_by_name().items():
            for (name, _), view in zip(self.model.named_parameters(), self._views(rows), strict=True):
                if part == "weights":
                    view.copy_(weights[name].expand(view.shape))
                elif state is not None:
                    view.copy_(state[f"{part}.{name}"].expand(view.shape))
        self._go_to(step)

    def _go_to(self, step: int) -> None:
        self.step = step
        for row in self._rows:
            self._adam.state[row]["step"].fill_(float(step))

    def keep(self) -> None:
        """Keeps the weights and the optimizer's state of this step."""
        self.kept[self.step] = {name: rows.clone() for name, rows in self._rows_by_name().items()}

    def _rows_by_name(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def _decay_mask(self) -> Float[Tensor, "members size"] | None:
        """1 where weight decay acts, 0 on embeddings of members that leave them out; None if it acts everywhere."""
        if all(recipe.optimizer.decay_embeddings for recipe in self.recipes):
            return None
        mask = torch.ones_like(self.weights)
        embeddings = {self.model.token_embedding, self.model.position_embedding, *self.model.unembedding.parameters()}
        for parameter, view in zip(self._parameters, self._views(mask), strict=True):
            if parameter in embeddings:
                for member, recipe in enumerate(self.recipes):
                    view[member] = float(recipe.optimizer.decay_embeddings)
        return mask

    def _make_adam(self) -> torch.optim.AdamW:
        """AdamW over the buffer's rows, with one parameter group for all members of equal numbers; decay is applied apart."""
        groups: dict[Optimizer, list[torch.nn.Parameter]] = {}
        self._rows: list[torch.nn.Parameter] = []
        for recipe, weights, gradients in zip(self.recipes, self.weights, self.gradients, strict=True):
            row = torch.nn.Parameter(weights)
            row.grad = gradients
            self._rows.append(row)
            groups.setdefault(recipe.optimizer, []).append(row)
        self._group_optimizers = list(groups)
        adam = torch.optim.AdamW(
            [{"params": rows, "betas": (o.beta1, o.beta2), "eps": o.eps, "weight_decay": 0.0} for o, rows in groups.items()],
            fused=True,
        )
        for row, exp_avg, exp_avg_sq in zip(self._rows, self.exp_avg, self.exp_avg_sq, strict=True):
            step = torch.tensor(float(self.step), device=self.device)
            adam.state[row] = {"step": step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        return adam

    def advance(self) -> Float[Tensor, " members"]:
        """One training step; returns each member's loss on its batch."""
        self.step += 1
        tokens, labels = self._batches.batch(self.step)
        losses = self._backprop(tokens, labels)
        for parameter, view in zip(self._parameters, self._gradient_views, strict=True):
            view.copy_(self._backprop.gradients[parameter])
        norms = torch.linalg.vector_norm(self.gradients, dim=1)
        self.gradients.mul_((self._largest_norm / (norms + 1e-6)).clamp(max=1.0)[:, None])
        rates = [learning_rate(optimizer, self.step, self.recipes[0].steps) for optimizer in self._group_optimizers]
        for group, rate in zip(self._adam.param_groups, rates, strict=True):
            group["lr"] = rate
        self._decay()
        self._adam.step()
        return losses

    def _decay(self) -> None:
        shrink = [0.0] * len(self.recipes)
        coupled = [0.0] * len(self.recipes)
        for member, recipe in enumerate(self.recipes):
            optimizer = recipe.optimizer
            strength = weight_decay(optimizer, self.step)
            if optimizer.decay == "coupled":
                coupled[member] = strength
            else:
                scaled = optimizer.decay == "scaled"
                shrink[member] = strength * (learning_rate(optimizer, self.step, recipe.steps) if scaled else 1.0)
        for amounts, target in ((coupled, self.gradients), (shrink, self.weights)):
            if any(amounts):
                amount = torch.tensor(amounts, device=self.device)[:, None]
                amount = -amount if target is self.weights else amount
                target.addcmul_(self.weights, amount if self._decayed is None else amount * self._decayed)

    def evaluate(self, losses: Float[Tensor, " members"]) -> None:
        """Adds a point to every member's trajectory, and marks the members that are no longer finite."""
        behaviours = answer_all(self.model, self._small_sets, batched=self._batched)
        finite = (losses.isfinite() & self.weights.isfinite().all(1)).tolist()
        for member, (loss, behaviour) in enumerate(zip(losses.tolist(), behaviours, strict=True)):
            if not finite[member] and self.diverged_at[member] is None:
                self.diverged_at[member] = self.step
            self.trajectories[member].append(_point(self.step, loss if finite[member] else None, behaviour))

    def settled(self, member: int) -> bool:
        """Whether the member's recipe lets it stop early and its verdict is settled."""
        last = self.trajectories[member][-SETTLED_EVALUATIONS:]
        decided = last[-1].verdict in ("inferential", "memorizing", "symmetric")
        calm = all(point.loss is not None and point.loss < SETTLED_LOSS and point.verdict == last[-1].verdict for point in last)
        return self.recipes[member].stop == "settled" and len(last) == SETTLED_EVALUATIONS and decided and calm

    def members(self) -> list[Member]:
        """All members as trained so far, judged on their full evaluation sets."""
        behaviours = answer_all(self.model, self._eval_sets, batched=self._batched)

        def state(rows: dict[str, Tensor], member: int) -> dict[str, Tensor]:
            return {
                f"{part}.{name}": tensor
                for part in ("exp_avg", "exp_avg_sq")
                for name, tensor in self.named(member, rows[part]).items()
            }

        return [
            Member(
                recipe=recipe,
                task=task,
                weights=self.named(member),
                kept={step: self.named(member, rows["weights"]) for step, rows in self.kept.items()},
                states={step: state(rows, member) for step, rows in self.kept.items()},
                initial=self.initial[member],
                machines=self.machines,
                behaviour=behaviours[member],
                trajectory=self.trajectories[member],
                diverged_at=self.diverged_at[member],
                steps_trained=self.step,
                seconds=self.seconds[member],
            )
            for member, (recipe, task) in enumerate(zip(self.recipes, self.tasks, strict=True))
        ][: self.asked]

    def subset(self, members: list[int]) -> "Stack":
        """The same training with only these members left."""
        stack = Stack([self.recipes[member] for member in members], self.device)
        members = [members[member % len(members)] for member in range(len(stack.recipes))]  # a lone one has a copy
        stack.machines = self.machines
        stack._restore(
            {name: tensor[members] for name, tensor in self._state().items()},
            {name: [values[member] for member in members] for name, values in self._seen().items()},
            self.step,
        )
        return stack

    def _state(self) -> dict[str, Tensor]:
        kept = {f"kept.{step}.{name}": rows for step, parts in self.kept.items() for name, rows in parts.items()}
        return self._rows_by_name() | kept

    def _seen(self) -> dict[str, list[Any]]:
        return {
            "seconds": self.seconds,
            "trajectories": self.trajectories,
            "diverged_at": self.diverged_at,
            "initial": self.initial,
        }

    def _restore(self, state: dict[str, Tensor], seen: dict[str, list[Any]], step: int) -> None:
        for name, rows in self._rows_by_name().items():
            rows.copy_(state[name])
        self.kept = {}
        for name, rows in state.items():
            if name.startswith("kept."):
                _, kept_step, part = name.split(".")
                self.kept.setdefault(int(kept_step), {})[part] = rows.clone()
        self.seconds, self.diverged_at, self.initial = seen["seconds"], seen["diverged_at"], seen["initial"]
        self.trajectories = [list(points) for points in seen["trajectories"]]  # a lone member's copy has its own
        self._go_to(step)

    def save(self, path: Path) -> None:
        """Writes a checkpoint atomically."""
        from safetensors.torch import save

        seen = self._seen() | {"trajectories": [[asdict(point) for point in points] for points in self.trajectories]}
        machines = [(step, machine.model_dump()) for step, machine in self.machines]
        about = json.dumps({"run_ids": self.run_ids, "step": self.step, "machines": machines, "seen": seen})
        state = {name: tensor.cpu() for name, tensor in self._state().items()}
        write_atomically(path, save(state, {"anchorbench": about, "digest": _digest(about, state)}))

    @classmethod
    def resume(cls, recipes: Sequence[Recipe], path: Path) -> "Stack":
        """The stack that was saved at `path`, which must hold these recipes in this order. Its last machine is this one.

        Raises ValueError with one sentence if the file is damaged or another stack's.
        """
        from safetensors import SafetensorError, safe_open

        try:
            require_plain(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            if metadata["digest"] != _digest(metadata["anchorbench"], state):
                raise KeyError("digest")
            about = CheckpointState.read(metadata["anchorbench"], path)
            stack = cls(recipes)
            if about.run_ids != stack.run_ids:
                raise ValueError(f"checkpoint {path} belongs to another stack")
            alike = all(tensor.shape == stack.weights.shape and tensor.dtype == stack.weights.dtype for tensor in state.values())
            if not alike or len(about.seconds) != len(stack.seconds) or about.step > recipes[0].steps:
                raise KeyError("shape")
            points = [[Point(**point.model_dump()) for point in points] for points in about.trajectories]
            seen = {"seconds": about.seconds, "diverged_at": about.diverged_at, "initial": about.initial, "trajectories": points}
            stack._restore(state, seen, about.step)
            [(_, here)] = stack.machines
            stack.machines = about.machines
            if stack.machines[-1][1] != here:
                stack.machines.append((stack.step, here))
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError):
            raise ValueError(f"checkpoint {path} is damaged") from None
        return stack


def _keep_freed_memory() -> None:
    """Else glibc returns freed memory and gets it back, cleared, in every step."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that it takes
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def digests(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's bytes, by name."""
    return {name: hashlib.sha256(tensor.contiguous().numpy().data).hexdigest() for name, tensor in weights.items()}


def _digest(about: str, state: dict[str, Tensor]) -> str:
    """Of all that a checkpoint holds: safetensors would not notice a changed step, name, type or number."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def train(
    recipes: Sequence[Recipe],
    progress: Callable[[int], None] = lambda step: None,
    checkpoint: Path | None = None,
    keep_steps: Sequence[int] = (),
    finished: Callable[[Member], None] = lambda member: None,
    warn: Callable[[str], None] = lambda sentence: None,
    *,
    strict_bits: bool = False,
) -> list[Member]:
    """Trains the recipes as one stack and returns its members in the same order.

    `progress` is called after every step with its number, `finished` with each member as soon as it has ended. With
    `checkpoint`, the state is saved there every 15 seconds, and training goes on from what is found there; a file that is damaged
    or lacks one of `keep_steps`, the steps whose weights are kept as well, is ignored. `warn` is told when the state cannot be
    saved, and when training is resumed on a machine where its bits may differ; with `strict_bits` it is restarted instead. Raises
    ValueError if the recipes differ in structure.
    """
    stack = _resumed(recipes, checkpoint, keep_steps, warn, strict_bits=strict_bits) or Stack(recipes)
    done: dict[str, Member] = {}
    evaluate_at = evaluation_steps(recipes[0])
    saved = time.perf_counter()

    def end(members: list[Member]) -> None:
        for member in members:
            done[member.recipe.run_id] = member
            finished(member)

    while stack.step < recipes[0].steps:
        start = time.perf_counter()
        losses = stack.advance()
        if stack.step in keep_steps:
            stack.keep()
        if stack.step in evaluate_at:
            stack.evaluate(losses)
        spent = (time.perf_counter() - start) / stack.asked
        stack.seconds = [seconds + spent for seconds in stack.seconds]
        progress(stack.step)
        if stack.step in evaluate_at and stack.step < recipes[0].steps:
            settled = [member for member in range(stack.asked) if stack.settled(member)]
            if settled:
                members = stack.members()
                end([members[member] for member in settled])
                left = [member for member in range(stack.asked) if member not in settled]
                if not left:
                    break
                stack = stack.subset(left)
        if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            try:
                stack.save(checkpoint)
            except OSError as error:
                warn(f"training continues without checkpoints: {checkpoint.parent} cannot be written ({error.strerror or error})")
            saved = time.perf_counter()
    else:
        end(stack.members())
    return [done[recipe.run_id] for recipe in recipes]


def _resumed(
    recipes: Sequence[Recipe], checkpoint: Path | None, keep_steps: Sequence[int], warn: Callable[[str], None], *, strict_bits: bool
) -> Stack | None:
    """The stack that a checkpoint holds, or None if there is none, or none that will do."""
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        stack = Stack.resume(recipes, checkpoint)
    except ValueError:
        return None
    if not {step for step in keep_steps if step <= stack.step} <= stack.kept.keys():
        return None
    if stack.machines[-1][0] == stack.step > 0 and len(stack.machines) > 1:
        difference = stack.machines[-2][1].differences(stack.machines[-1][1])
        if strict_bits:
            warn(f"restarting: the first {stack.step} steps were trained where results may differ in the last bits ({difference})")
            return None
        warn(f"resuming at step {stack.step} where results may differ in the last bits ({difference}); --strict-bits restarts")
    return stack


@torch.no_grad()
def answer_all(model: GPT, eval_sets: list[EvalSet], *, batched: bool = True) -> list[Behaviour]:
    """The behaviour of every member on its own evaluation set; `batched` as `backprop.aligned` says."""
    device = model.token_embedding.device
    tokens = torch.from_numpy(np.stack([eval_set.tokens for eval_set in eval_sets])).to(device)
    if batched:
        answers = _answers(model, tokens)
    else:
        alone = GPT(model.shape, members=1, vocab_size=model.vocab_size, seq_len=model.seq_len).to(device)
        answers = np.concatenate(
            [_answers(alone.load_member(model, member), tokens[member : member + 1]) for member in range(model.members)]
        )
    return [eval_set.behaviour(row) for eval_set, row in zip(eval_sets, answers, strict=True)]


def _answers(model: GPT, tokens: Int[Tensor, "members n seq"]) -> Int[np.ndarray, "members n"]:
    return torch.cat([model(part).argmax(-1) for part in tokens.split(EVALUATION_SIZE, dim=1)], dim=1).cpu().numpy()


def _point(step: int, loss: float | None, behaviour: Behaviour) -> Point:
    return Point(
        step=step,
        loss=loss,
        verdict=behaviour.verdict,
        accuracy_train=behaviour.accuracy_train.value,
        accuracy_iid=behaviour.accuracy_iid.value,
        inferential=behaviour.inferential,
        symmetric=None if behaviour.symmetric is None else behaviour.symmetric.value,
        groups={name: share.value for name, share in behaviour.groups.items()},
    )
