"""The plan of a sweep, `plan.json`: the missing runs, cut into stacks for a number of workers, each of which needs nothing else.

A plan holds what is trained, never how: a worker chooses the gradient path by the machine that it runs on, not the planner's.
"""

import itertools
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from anchorbench.files import Plain, read_json, write_atomically
from anchorbench.recipe import SCHEMA, Recipe, parse_recipe
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import MAX_RUNS, Axes, Sweep
from anchorbench.sweeps.lock import nobody_inside
from anchorbench.sweeps.store import stack_name
from anchorbench.task import first_sentence
from anchorbench.train.memory import free_memory
from anchorbench.train.trajectory import Step

STACK_MEMBERS = 8
"""Members trained at once: enough to fill two cores, while results still arrive stack by stack."""
GPU_STACK_MEMBERS = 256
"""The same on a GPU, which takes hundreds of small models to fill."""
MAX_PLAN_BYTES = 2**26
MAX_WORKERS = 100_000
Device = Literal["cpu", "cuda"]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
T = TypeVar("T")
_Axes = dict[str, Annotated[list[Any], Field(min_length=1)]]


class Cut(Plain):
    """What the stacks were cut for."""

    workers: int = Field(ge=1, le=MAX_WORKERS)
    memory: float | None = Field(gt=0, le=1e18)
    """Bytes that a stack may use; None: what was free where the plan was made."""
    device: Device | None
    """Kind of device of the workers; None: that of the planner."""
    keep_steps: Annotated[list[Step], Field(max_length=10_000)]
    """Intermediate steps at which weights and optimizer state are kept."""


class PlannedStack(Plain):
    """The runs of one stack."""

    runs: Annotated[list[RunId], Field(min_length=1)]
    numbers: Annotated[list[Annotated[int, Field(ge=0, lt=MAX_RUNS)]], Field(min_length=1)]
    """The number of each run's combination in the sweep."""

    @property
    def name(self) -> str:
        return stack_name(self.runs)


class Plan(Plain):
    """The content of `plan.json`."""

    schema_version: Literal[1] = 1
    run_ids: int = Field(ge=1, le=1000)
    """The version of run ids."""
    base: dict[str, Any]
    axes: _Axes
    blocks: list[_Axes]
    cut: Cut
    stacks: Annotated[list[PlannedStack], Field(max_length=MAX_RUNS)]

    def sweep(self) -> Sweep:
        """The sweep that was planned. Raises ValueError if its recipe is invalid."""
        blocks = tuple(_as_axes(block) for block in self.blocks)
        return Sweep(parse_recipe(self.base), _as_axes(self.axes), blocks)

    def recipes(self, number: int, sweep: Sweep) -> list[Recipe]:
        """The recipes of a stack. Raises ValueError if there is no such stack, or if they have other run ids here."""
        if not 0 <= number < len(self.stacks):
            raise ValueError(f"stack is {number}; allowed: 0 to {len(self.stacks) - 1}, the stacks of the plan")
        stack = self.stacks[number]
        recipes = [sweep.run(each) for each in stack.numbers]
        if [recipe.run_id for recipe in recipes] != stack.runs:
            raise ValueError(f"stack {number} of the plan has other run ids here; plan again with this version")
        return recipes


def _as_axes(axes: dict[str, list[Any]]) -> Axes:
    return {path: tuple(values) for path, values in axes.items()}


class PlanInUseError(ValueError):
    """Workers are training by another plan."""


def plan_path(out: Path) -> Path:
    """Where a folder's plan is."""
    return out / "plan.json"


def read_plan(out: Path) -> Plan:
    """The plan in an output folder. Raises ValueError with one sentence if there is none, it is damaged, or of another version."""
    path = plan_path(out)
    if not path.exists():
        raise ValueError(f"{out} holds no plan; allowed: the folder of anchorbench sweep plan RECIPE.yaml --workers N --out DIR")
    try:
        plan = Plan.model_validate(read_json(path, most=MAX_PLAN_BYTES))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {first_sentence(error)}") from None
    if plan.run_ids != SCHEMA:
        raise ValueError(f"{path} is of a version of anchorbench with other run ids; plan again")
    return plan


def write_plan(sweep: Sweep, folder: SweepFolder, cut: Cut) -> Plan:
    """Plans the missing runs of a sweep and writes `plan.json`.

    A plan of the same sweep and cut that still covers what is missing is kept, since workers refer to its stacks by number. Damaged
    run folders are removed, so that workers see that these runs are missing. Raises PlanInUseError if workers are training by
    another plan.
    """
    numbers = sweep.numbers()
    done, _ = folder.ids(cut.keep_steps)
    missing = [run_id for run_id in numbers if run_id not in done]
    folder.require_free(missing)
    grouped = cut_stacks(missing_runs(sweep, done), cut.memory, device=cut.device, workers=cut.workers)
    plan = Plan.model_validate(
        {
            "run_ids": SCHEMA,
            "base": sweep.base.model_dump(mode="json"),
            "axes": {path: list(values) for path, values in sweep.axes.items()},
            "blocks": [{path: list(values) for path, values in block.items()} for block in sweep.blocks],
            "cut": cut,
            "stacks": [{"runs": stack, "numbers": [numbers[run_id] for run_id in stack]} for stack in grouped],
        }
    )
    if plan_path(folder.out).exists():
        known = read_plan(folder.out)
        covered = {run_id for stack in known.stacks for run_id in stack.runs}
        same = known.model_copy(update={"stacks": []}) == plan.model_copy(update={"stacks": []})
        if same and covered.issuperset(missing):
            return known
        with nobody_inside(folder.out / "locks") as now:
            if now is None and (folder.out / "locks").is_dir():
                raise PlanInUseError(f"{folder.out} is being trained by another plan; allowed: a new plan when no worker is left")
    folder.remove(missing)
    write_atomically(plan_path(folder.out), (plan.model_dump_json() + "\n").encode())
    return plan


def missing_runs(sweep: Sweep, done: Container[str]) -> list[tuple[Recipe, list[str]]]:
    """The runs that are not `done`, for `cut_stacks`: those that differ only in seeds with one recipe that stands for all."""
    numbers = sweep.numbers()
    return [
        (
            group.recipe,
            [
                run_id
                for number, run_id in zip(group.numbers, group.ids, strict=True)
                if run_id not in done and numbers[run_id] == number  # else it is another combination's as well
            ],
        )
        for group in sweep.groups()
    ]


def stacks(
    recipes: Sequence[Recipe], memory: float | None = None, *, device: Device | None = None, workers: int = 1
) -> list[list[Recipe]]:
    """`cut_stacks` of recipes."""
    return cut_stacks([(recipe, [recipe]) for recipe in recipes], memory, device=device, workers=workers)


def cut_stacks(
    runs: Iterable[tuple[Recipe, list[T]]], memory: float | None = None, *, device: Device | None = None, workers: int = 1
) -> list[list[T]]:
    """Groups runs of the same structure into stacks, the longest runs first; a recipe tells the structure of each list of runs.

    A stack has at most STACK_MEMBERS (GPU_STACK_MEMBERS) members, as many as fit in `memory` bytes (default: 60% of free memory,
    on the GPU if there is one), and no more than its share of the work of `workers`. `device` is the workers' kind, if it may
    differ from this machine's. Raises ValueError if not even one member fits, or a GPU's memory is unknown.
    """
    import torch

    from anchorbench.train.memory import memory_of_member

    here = torch.cuda.is_available()
    on_gpu = here if device is None else device == "cuda"
    if memory is None and on_gpu and not here:
        raise ValueError("device is cuda, and there is no GPU here to ask for its memory; give --memory in GiB")
    free = 0 if memory is not None else torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
    budget = 0.6 * free if memory is None else memory
    # Elsewhere the compiled step, which takes less, may not be available.
    alike = [
        (recipe, of, memory_of_member(recipe) if device is None else memory_of_member(recipe, native=False))
        for recipe, of in _alike(runs)
    ]
    share = sum(len(of) * each * recipe.steps for recipe, of, each in alike) / workers
    grouped: list[tuple[float, list[T]]] = []
    for recipe, of, each in alike:
        if 2 * each > budget:  # a single member is trained as a stack of two
            raise ValueError(
                f"the smallest stack takes {2 * each / 2**30:.2f} GiB of memory; allowed here: {budget / 2**30:.2f} GiB (--memory)"
            )
        cost = each * recipe.steps
        most = min(GPU_STACK_MEMBERS if on_gpu else STACK_MEMBERS, budget / each)
        if workers > 1:
            most = min(most, max(1, round(share / cost)))
        count = -(-len(of) // int(most))  # balanced sizes within the limit
        edges = [len(of) * i // count for i in range(count + 1)]
        grouped += [(cost, of[left:right]) for left, right in itertools.pairwise(edges)]
    return [stack for _, stack in sorted(grouped, key=lambda item: -item[0])]


def _alike(runs: Iterable[tuple[Recipe, list[T]]]) -> list[tuple[Recipe, list[T]]]:
    from anchorbench.train.stack import structure

    alike: dict[Any, tuple[Recipe, list[T]]] = {}
    for recipe, of in runs:
        if of:
            alike.setdefault(structure(recipe), (recipe, []))[1].extend(of)
    return list(alike.values())
