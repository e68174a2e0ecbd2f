"""The runs of a sweep: every combination of its axes' values, block by block."""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from anchorbench.recipe import SEEDS, Recipe, is_seed

MAX_RUNS = 1_000_000
"""Maximum number of runs: larger sweeps are a mistake in the recipe."""
INTRINSIC = "optimizer.intrinsic_lr"
"""An axis: the intrinsic learning rate (2010.02916), peak learning rate times weight decay, which sets the pace at which training
of scale-invariant weights reaches its equilibrium. With an axis `optimizer.lr`, both vary at a constant product."""
Axes = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Sweep:
    """A base recipe and the values of its axes; the runs are all combinations.

    An axis is a recipe field, given by its dotted path: `init.gamma`, `model.n_layer`, `optimizer.weight_decay`, `seed`, ...; or
    several fields that vary together, joined by commas (`model.d_model,model.d_ff`), whose values are lists of one value per
    field; or INTRINSIC, which is not a field: it sets the weight decay to its value divided by the learning rate.

    Each of `blocks` adds axes to the common ones, and the runs are those of all blocks.
    """

    base: Recipe
    axes: Axes
    blocks: tuple[Axes, ...] = ()

    def runs(self) -> list[Recipe]:
        """All runs, with the last axis varying fastest. Raises ValueError with one sentence for an invalid value."""
        return self._runs

    def numbers(self) -> dict[str, int]:
        """Run id -> number of the combination, for `run`, in the order of `runs`, but without its memory: a run takes 200 bytes.

        Raises ValueError as `runs` does.
        """
        return self._numbered

    def groups(self) -> list["Group"]:
        """The runs of `numbers` by what they share: all but the seeds. Raises ValueError as `runs` does."""
        return self._groups

    @property
    def size(self) -> int:
        """Number of combinations, of which some may be the same run."""
        return sum(math.prod(map(len, axes.values())) for axes in self._every_block())

    def run(self, number: int) -> Recipe:
        """The recipe of one combination, without those before it. Raises ValueError if there are not so many."""
        left = number
        for axes in self._every_block():
            if left < (count := math.prod(map(len, axes.values()))):
                values: list[Any] = []
                for choices in reversed(axes.values()):
                    left, at = divmod(left, len(choices))
                    values.insert(0, choices[at])
                return self._recipe(axes, values)
            left -= count
        raise ValueError(f"run number {number} does not exist; allowed: less than {number - left}")

    @property
    def fields(self) -> list[str]:
        """Dotted paths of all fields that the axes set."""
        return list(dict.fromkeys(path for axes in self._every_block() for names in axes for path in names.split(",")))

    def _every_block(self) -> list[Axes]:
        return [self.axes | block for block in self.blocks or ({},)]

    @cached_property
    def _groups(self) -> list["Group"]:
        for axes in self._every_block():
            _require_sound(axes)
        if self.size > MAX_RUNS:
            raise ValueError(f"the axes make {self.size} runs; allowed: at most {MAX_RUNS}")
        found: list[Group] = []
        first = 0
        for axes in self._every_block():
            found += self._groups_of(axes, first)
            first += math.prod(map(len, axes.values()))
        return found

    def _groups_of(self, axes: Axes, first: int) -> Iterator["Group"]:
        """The groups of one block, whose first combination has the number `first`: few recipes are made one by one."""
        places = {names: math.prod(map(len, list(axes.values())[at + 1 :])) for at, names in enumerate(axes)}
        varied = [names for names in axes if names in SEEDS]
        for names in varied:
            for bad in itertools.filterfalse(is_seed, axes[names]):
                self.base.override({names: bad})  # which says what is wrong
        seeds = list(itertools.product(*(axes[names] for names in varied)))
        steps = [sum(map(operator.mul, at, (places[names] for names in varied))) for at in _counted(axes, varied)]
        others = [names for names in axes if names not in varied]
        for at in _counted(axes, others):
            start = first + sum(map(operator.mul, at, (places[names] for names in others)))
            chosen = dict(zip(others, at, strict=True)) | dict.fromkeys(varied, 0)
            recipe = self._recipe(axes, [axes[names][chosen[names]] for names in axes])
            yield Group(recipe, varied, seeds, [start + step for step in steps], recipe.ids_with_seeds(varied, seeds))

    @cached_property
    def _numbered(self) -> dict[str, int]:
        numbered = ((number, run_id) for group in self._groups for number, run_id in zip(group.numbers, group.ids, strict=True))
        found: dict[str, int] = {}
        for number, run_id in sorted(numbered):
            found.setdefault(run_id, number)
        return found

    @cached_property
    def _runs(self) -> list[Recipe]:
        made = {number: recipe for group in self._groups for number, recipe in zip(group.numbers, group.recipes(), strict=True)}
        return [made[number] for number in self._numbered.values()]

    def _recipe(self, axes: Axes, values: Any) -> Recipe:
        fields: dict[str, Any] = {}
        for names, value in zip(axes, values, strict=True):
            paths = names.split(",")
            fields |= {names: value} if len(paths) == 1 else dict(zip(paths, value, strict=True))
        if INTRINSIC not in fields:
            return self.base.override(fields)
        product = fields.pop(INTRINSIC)
        if not isinstance(product, int | float) or isinstance(product, bool):
            raise ValueError(f"{INTRINSIC} is {product!r}; allowed: a number")
        recipe = self.base.override(fields)
        # Rounded, so that 0.0001 at a rate of 0.001 has the weight decay 0.1, and the run id of that.
        return recipe.override({"optimizer.weight_decay": float(f"{product / recipe.optimizer.lr:.12g}")})


class Group(NamedTuple):
    """Runs of one block that differ in nothing but their seeds."""

    recipe: Recipe
    """The first of them."""
    names: list[str]
    """The seeds that vary."""
    seeds: list[tuple[int, ...]]
    """Their values in each run."""
    numbers: list[int]
    ids: list[str]

    def recipes(self) -> Iterator[Recipe]:
        """All of them."""
        return (self.recipe.with_seeds(dict(zip(self.names, values, strict=True))) for values in self.seeds)


def _counted(axes: Axes, names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """The positions of the values in all combinations of some axes, with the last varying fastest."""
    return itertools.product(*(range(len(axes[each])) for each in names))


def _require_sound(axes: Axes) -> None:
    paths: list[str] = []
    for names, values in axes.items():
        if not values:
            raise ValueError(f"axis {names} has no values; allowed: at least 1")
        paths += names.split(",")
        if "," in names:
            for value in values:
                if not isinstance(value, list | tuple) or len(value) != names.count(",") + 1:
                    raise ValueError(f"axis {names} has the value {value!r}; allowed: one value per field")
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"axis {twice[0]} is given twice; allowed: once")
    if INTRINSIC in paths and "optimizer.weight_decay" in paths:
        raise ValueError(f"axes are optimizer.weight_decay and {INTRINSIC}; allowed: one of them, as each sets the weight decay")
