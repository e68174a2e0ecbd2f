"""The stack on a GPU: whether it trains as on the CPU, and how fast, next to a loop over models on the same card."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console

from anchorbench.bench.train import loop_steps, paper_runs
from anchorbench.model.gpt import ModelConfig
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.stack import Stack

LAPTOP_MEMBERS, PAPER_MEMBERS = (20, 64, 256, 1024), (2, 8, 20)
STEPS, TURNS = 64, 5
"""Steps per turn, and turns; the first is warm-up."""
COPIED = 2**28
"""Elements of the array that is copied to measure the card's bandwidth."""
SECONDS_A_DAY = 86_400


def bench_gpu(console: Console) -> dict[str, Any]:
    """Runs the checks, then the measurements, and prints each. Raises ValueError if there is no GPU."""
    if not torch.cuda.is_available():
        raise ValueError("this machine has no GPU; allowed: one on which torch.cuda.is_available()")
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "checks": {}, "rows": []}
    console.print(f"{found['gpu']}, torch {found['torch']}")
    for name, check in {"gradients": gradients, "one of three": one_of_three, "resume": resume}.items():
        found["checks"][name] = check()
        console.print(f"{name}: {found['checks'][name]}")
    bandwidth = copy_rate()
    console.print(f"copies {bandwidth / 1e9:.0f} GB/s")
    laptop = PRESETS["laptop"]
    wide = laptop.override({"model": ModelConfig(d_model=400, d_head=400, d_ff=1200).model_dump(), "batch": 2048})
    for shape, recipe, members in (("A", laptop, LAPTOP_MEMBERS), ("B", wide, PAPER_MEMBERS)):
        loop = loop_seconds(recipe)
        for precision in ("fp32", "tf32", "bf16"):
            for k in members:
                try:
                    row: dict[str, Any] = measured(recipe.override({"precision": precision}), k, bandwidth)
                except torch.cuda.OutOfMemoryError:
                    row = {"out_of_memory": True}
                row |= {"shape": shape, "precision": precision, "members": k, "loop_ms": 1000 * loop}
                if "ms" in row:
                    row["x_loop"] = row["loop_ms"] / row["ms"]
                found["rows"].append(row)
                console.print(str(row), soft_wrap=True)
                torch.cuda.empty_cache()
    return found


def gradients() -> dict[str, float]:
    """Largest difference between the gradients on the GPU and on the CPU, relative to each parameter's largest entry."""
    recipes = [PRESETS["laptop"].override({"seed": seed}) for seed in range(3)]
    here, there = (Stack(recipes, torch.device(device), path="backprop") for device in ("cuda", "cpu"))
    (losses, rows), (wanted, expected) = here.oracle(1), there.oracle(1)
    pairs = zip(here.layout.names, here.layout.views(rows.cpu()), there.layout.views(expected), strict=True)
    # The gradient of a key's bias is zero up to rounding.
    worst = max(float((a - b).abs().max() / b.abs().max()) for name, a, b in pairs if not name.endswith("key.bias"))
    return {"loss": float((losses.cpu() - wanted).abs().max()), "gradient": worst}


def one_of_three() -> dict[str, float]:
    """Distance after STEPS steps between a member trained in a stack and the same one trained alone; 0 means identical bits."""
    recipes = [PRESETS["laptop"].override({"seed": seed}) for seed in range(3)]
    together, alone = Stack(recipes), Stack(recipes[1:2])
    for stack in (together, alone):
        train(stack, STEPS)
    return {"difference": float((together.weights[1] - alone.weights[0]).abs().max())}


def resume() -> dict[str, float]:
    """Distance between a stack that was saved and restored and one that was not; 0 means identical bits."""
    recipes = [PRESETS["laptop"].override({"seed": seed}) for seed in range(3)]
    whole, first, second = Stack(recipes), Stack(recipes), Stack(recipes)
    train(whole, STEPS)
    train(first, STEPS // 2)
    second.restore({name: rows.cpu() for name, rows in first.saved().items()}, first.seen(), first.step)
    train(second, STEPS)
    return {"difference": float((second.weights - whole.weights).abs().max())}


def train(stack: Stack, until: int) -> None:
    """Trains to step `until`."""
    while stack.step < until:
        stack.advance(until)


def measured(recipe: Recipe, members: int, bandwidth: float) -> dict[str, Any]:
    """Milliseconds per member-step, FLOP/s of the plain step's matmuls, and the share of the bandwidth used if each step reads and
    writes every array once.
    """
    stack = Stack([recipe.override({"seed": seed % 64, "order_seed": seed}) for seed in range(members)])

    def turn() -> None:
        train(stack, stack.step + STEPS)

    seconds = timed(turn) / STEPS / members
    rows = [stack.weights, stack.gradients, *stack.state().values()]
    activations = stack._gradient.buffers if isinstance(stack._gradient, Backprop) else []
    traffic = 2 * sum(array.numel() * array.element_size() for array in [*rows, *activations]) / members
    total = sum(run.steps * run.macs_per_step() for run in paper_runs()) * seconds / recipe.macs_per_step()
    return {
        "ms": 1000 * seconds,
        "member_steps_per_s": 1 / seconds,
        "tflops": 2e-12 * recipe.macs_per_step() / seconds,
        "bandwidth_share": traffic / seconds / bandwidth,
        "paper_days": total / SECONDS_A_DAY,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def loop_seconds(recipe: Recipe) -> float:
    """Seconds per step of the plain loop over models, on this card."""
    loop = loop_steps(recipe, torch.device("cuda"))

    def turn() -> None:
        for _ in range(STEPS):
            next(loop)

    return timed(turn) / STEPS


def copy_rate() -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(COPIED, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / timed(lambda: target.copy_(source))


def timed(turn: Callable[[], object]) -> float:
    """Median seconds per turn, synchronized."""
    seconds: list[float] = []
    for _ in range(TURNS):
        start = time.perf_counter()
        turn()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
