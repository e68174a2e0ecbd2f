"""The runs of a sweep: every combination of its axes' values, block by block."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from anchorbench.recipe import Recipe

MAX_RUNS = 100_000
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
        return [recipe for _, recipe in self._numbered.values()]

    def numbers(self) -> dict[str, int]:
        """Run id -> number of the combination, for `run`. Raises ValueError as `runs` does."""
        return {run_id: number for run_id, (number, _) in self._numbered.items()}

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
    def _numbered(self) -> dict[str, tuple[int, Recipe]]:
        """Run id -> number of its first combination and recipe."""
        for axes in self._every_block():
            _require_sound(axes)
        count = sum(math.prod(map(len, axes.values())) for axes in self._every_block())
        if count > MAX_RUNS:
            raise ValueError(f"the axes make {count} runs; allowed: at most {MAX_RUNS}")
        found: dict[str, tuple[int, Recipe]] = {}
        for number, recipe in enumerate(self._recipes()):
            found.setdefault(recipe.run_id, (number, recipe))
        return found

    def _recipes(self) -> Iterator[Recipe]:
        for axes in self._every_block():
            for values in itertools.product(*axes.values()):
                yield self._recipe(axes, values)

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
