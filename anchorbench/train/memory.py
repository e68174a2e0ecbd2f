"""Memory that this process may still allocate (the minimum of what the machine has free, its cgroups allow and SLURM granted), and
memory that a member of a stack takes.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from anchorbench.model.gpt import ModelConfig, new_model
from anchorbench.parts import estimators, models, optimizers, penalties
from anchorbench.recipe import Recipe
from anchorbench.train import evaluation
from anchorbench.train.batches import ORDER_BLOCK
from anchorbench.train.gradients.backprop import by_pair, padded
from anchorbench.train.gradients.choice import gradient_path
from anchorbench.train.seams import Layout


class _Names(NamedTuple):
    """The files of a cgroup, and the line of `memory.stat` that counts reclaimable page cache."""

    limits: tuple[str, ...]
    usage: str
    cache: str


V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_memory(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Bytes that may still be allocated; `root` is where `/proc/self/cgroup` and `/sys/fs/cgroup` are looked up."""
    return max(0, min([psutil.virtual_memory().available, *_cgroups(root), *_slurm(environ)]))


def usable_cores(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Cores that this process may use, by its affinity, its cgroups' quotas and `OMP_NUM_THREADS`; at least 1."""
    found = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    for folder, version in _folders(root, "cpu"):
        with suppress(OSError, ValueError):  # ValueError: "max", which is no limit
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text().split())
            else:
                quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            found += [quota / period] if quota > 0 else []
    with suppress(KeyError, ValueError):
        found.append(int(environ["OMP_NUM_THREADS"]))
    return max(1, round(min(found)))


def _cgroups(root: Path) -> Iterator[int]:
    """What is left of each memory limit on this process's cgroups and their ancestors."""
    for folder, version in _folders(root, "memory"):
        names = V2 if version == 2 else V1
        for limit in names.limits:
            with suppress(OSError, ValueError):  # ValueError: "max", which is no limit
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / names.usage).read_text()) - int(stat.get(names.cache, 0))
                yield int((folder / limit).read_text()) - max(0, used)


def _folders(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """Folders of this process's cgroups and their ancestors, each with its cgroup version."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        found = [(mounts, 2), (mounts / "unified", 2)] if controllers == "" else []  # the second beside v1
        if controller in controllers.split(","):
            found = [(mounts / controller, 1)]
        # A container may see its own cgroup as the root of the mount, but its path on the host: missing folders are skipped.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        yield from ((mount.joinpath(*parts[:depth]), version) for mount, version in found for depth in range(len(parts) + 1))


def _slurm(environ: Mapping[str, str]) -> Iterator[int]:
    """What is left of the memory that SLURM granted on this node; its variables are in MiB, and 0 means the whole node."""
    taken = psutil.Process().memory_info().rss
    for name, count in (("SLURM_MEM_PER_NODE", "1"), ("SLURM_MEM_PER_CPU", environ.get("SLURM_CPUS_ON_NODE", "1"))):
        with suppress(KeyError, ValueError):
            if granted := int(environ[name]) * int(count):
                yield granted * 2**20 - taken


def memory_of_member(recipe: Recipe, *, native: bool | None = None) -> float:
    """Bytes that one member adds to a stack: parameters, gradients, state of the parts, the step's arrays, and training data.

    `native`: whether the compiled step trains it (default: as on this machine).

    Computed from shapes, without allocating: parts create their state with `new_zeros`, as `zeros_like` of a meta tensor imports
    sympy. A quarter is added for temporary memory of operations.
    """
    task, shape = recipe.load_task(), recipe.model_at(recipe.steps)
    with torch.device("meta"):
        layout = Layout.of(new_model(shape, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len))
        row = torch.empty(1, size := sum(layout.sizes))
    chosen = ((optimizers, recipe.optimizer), (estimators, recipe.estimator), *((penalties, one) for one in recipe.penalties))
    state = sum(rows.numel() for registry, config in chosen for rows in registry[config.kind]([config], layout, row).state.values())
    width = 2 if recipe.precision == "bf16" else 4
    length = models[shape.kind].positions(shape, task.seq_len)
    step = width * (size + recipe.passes * step_elements(shape, recipe.batch, task.vocab_size, length))
    if native or (native is None and gradient_path(recipe) == "native"):  # its arrays are per thread, not per member
        step = 0
    # Data as sampled and as int16; the order of a block of steps; evaluation sets with the foils of each example.
    data = 10 * recipe.data_size * (task.seq_len + 1) + 8 * ORDER_BLOCK * recipe.batch
    data += 8 * evaluation.FINAL_SIZE * (len(task.splits) + 1) * (task.seq_len + 4)
    # Weights and gradients, the state of the parts, and the arrays of the step
    return 1.25 * (4 * (2 * size + state) + step + data)


def step_elements(shape: ModelConfig, batch: int, vocab_size: int, seq_len: int) -> int:
    """Elements of all arrays that `Backprop` keeps for one member, besides gradients; other paths keep about as many."""
    d, ff, heads, width = shape.d_model, shape.d_ff, shape.n_head, shape.n_head * shape.d_head
    rows, pre = batch * seq_len, shape.norm == "pre"
    pairs = padded(vocab_size) * seq_len if by_pair(shape, batch, vocab_size) else 0

    def norm(count: int) -> int:  # output, gradient times gain, normalized rows, and mean and scale of each
        return count * (3 * d + 2)

    total = padded(vocab_size) * d + (pairs or rows) * d + 2 * batch * vocab_size + batch * d + (norm(batch) if pre else 0)
    total += 3 * pairs * width + rows * d * (pairs > 0)  # query, key, value of all pairs; the batch's rows of their input
    for layer in range(shape.n_layer):
        last = layer == shape.n_layer - 1
        answered, read = batch if last else rows, rows if layer else pairs or rows
        if last:
            total += batch * (3 * width + 2 * heads * d)  # query, mixed heads and their gradient; the query's map of x, mixed x
        else:
            total += 9 * rows * width  # query, key, value, mixed heads and their gradients
        total += read * d + 2 * answered * heads * seq_len  # gradient of the input; attention
        total += answered * (3 * ff + 2 * d)  # hidden layer before and after its activation, its gradient; both outputs
        total += norm(read if pre else answered) + norm(answered)
        total += answered * d * pre + (batch if last else read) * d * (last or shape.query_norm_only)
        total += rows * d * (last and shape.query_norm_only)
    return total
