"""Memory that this process may still take (the least of what the machine has free, its cgroups allow and SLURM granted), and what a
member of a stack takes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from anchorbench.recipe import Recipe


class _Names(NamedTuple):
    """The files of a cgroup, and the line of `memory.stat` that counts the page cache which the kernel gives back by itself."""

    limits: tuple[str, ...]
    usage: str
    cache: str


V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_memory(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Bytes that may still be allocated; `root` is where `/proc/self/cgroup` and `/sys/fs/cgroup` are looked up."""
    return max(0, min([psutil.virtual_memory().available, *_cgroups(root), *_slurm(environ)]))


def _cgroups(root: Path) -> Iterator[int]:
    """What is left of each memory limit on this process's cgroups and on those that hold them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(mounts, path, V2)
            yield from _left(mounts / "unified", path, V2)  # beside v1
        elif "memory" in controllers.split(","):
            yield from _left(mounts / "memory", path, V1)


def _left(mount: Path, path: str, names: _Names) -> Iterator[int]:
    # A container may see its own cgroup as the root of the mount, but be told its path on the host: what is not there is skipped.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts) + 1):
        folder = mount.joinpath(*parts[:depth])
        for limit in names.limits:
            with suppress(OSError, ValueError):  # ValueError: "max", which is no limit
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / names.usage).read_text()) - int(stat.get(names.cache, 0))
                yield int((folder / limit).read_text()) - max(0, used)


def _slurm(environ: Mapping[str, str]) -> Iterator[int]:
    """What is left of the memory that SLURM granted on this node, in MiB in its variables; 0 there is all of the node."""
    taken = psutil.Process().memory_info().rss
    for name, count in (("SLURM_MEM_PER_NODE", "1"), ("SLURM_MEM_PER_CPU", environ.get("SLURM_CPUS_ON_NODE", "1"))):
        with suppress(KeyError, ValueError):
            if granted := int(environ[name]) * int(count):
                yield granted * 2**20 - taken


def memory_of_member(recipe: Recipe) -> float:
    """Bytes that one member adds to a stack: parameters, gradients, state of the parts, the step's arrays, and training data.

    Worked out on shapes alone, without allocating. A quarter is added for what an operation needs while it runs.
    """
    import torch

    from anchorbench.model.gpt import GPT, ModelConfig, new_model
    from anchorbench.train.gradients.backprop import Backprop
    from anchorbench.train.gradients.choice import PRECISIONS

    task = recipe.load_task()
    sizes = {"vocab_size": task.vocab_size, "seq_len": task.seq_len}
    with torch.device("meta"):
        model = new_model(recipe.model, members=1, **sizes)
        # Other paths keep about as much for the backward pass as this one does for the usual model of the same shape.
        shape = ModelConfig(**recipe.model.model_dump(include=set(ModelConfig.model_fields) - {"kind"}))
        backprop = Backprop(GPT(shape, members=1, **sizes), recipe.batch, PRECISIONS[recipe.precision])
        backprop(torch.zeros(1, recipe.batch, task.seq_len, dtype=torch.long), torch.zeros(1, recipe.batch, dtype=torch.long))
    # Four rows of parameters (weights, gradients, two moments), and what the step works on; data once as drawn, once as int16.
    rows = 4 * sum(parameter.nbytes for parameter in model.parameters())
    step = sum(array.nbytes for array in [*backprop.gradients.values(), *backprop.buffers])
    return 1.25 * (rows + step + 10 * recipe.data_size * (task.seq_len + 1))
