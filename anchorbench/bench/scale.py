"""`bench scale`: how the time of one member's gradient grows with threads, members, width, length and depth, one at a time."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.gradients.choice import Path
from anchorbench.train.gradients.native import Native, available
from anchorbench.train.memory import usable_cores
from anchorbench.train.seams import Layout

VOCABULARY = 120
ROUNDS = 5
SECONDS = 0.3
"""Duration of each measurement; the median counts."""


@dataclass(frozen=True)
class Point:
    """One measurement; the defaults are those of the laptop preset."""

    threads: int
    members: int = 8
    width: int = 64
    length: int = 9
    depth: int = 2
    batch: int = 128

    @property
    def model(self) -> ModelConfig:
        """Its heads and feed-forward layer grow with the width."""
        return ModelConfig(n_layer=self.depth, d_model=self.width, d_head=self.width, d_ff=4 * self.width)

    @property
    def macs(self) -> int:
        """Matmul MACs of one member's gradient, before any savings."""
        return 3 * self.batch * GPT.forward_macs(self.model, VOCABULARY, self.length)


def points() -> dict[str, list[Point]]:
    """Axis -> the points along it."""
    cores = usable_cores()
    base = Point(cores)
    return {
        "threads": [replace(base, threads=threads) for threads in sorted({1, 2, cores} & set(range(1, cores + 1)))],
        "members": [replace(base, members=members) for members in (1, 2, 4, 8, 16, 32, 64)],
        "width": [replace(base, width=width, members=2) for width in (32, 64, 128, 256, 512)],
        "length": [replace(base, length=length, members=2) for length in (3, 9, 16, 32, 64)],
        "depth": [replace(base, depth=depth, members=2) for depth in (1, 2, 4, 8)],
    }


def fastest_path() -> Path:
    """The gradient path of the laptop preset on this machine."""
    return "native" if available() else "backprop"


def bench_scale(
    console: Console, axes: Mapping[str, list[Point]], path: Path, *, rounds: int = ROUNDS, seconds: float = SECONDS
) -> list[dict[str, object]]:
    """Measures the points along all axes, prints a table, and returns its rows."""
    console.print(f"One member's gradient ({path}, fp32), batch 128; all else as in the laptop preset.\nGMAC/s: matmuls alone.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("axis", "value", "members", "threads", "ms", "GMAC/s"):
        table.add_column(header, justify="left" if header == "axis" else "right")
    rows: list[dict[str, object]] = []
    for axis, along in axes.items():
        for point in along:
            each = measure(point, path, rounds, seconds)
            rate = point.macs / each / 1e9
            rows.append({"axis": axis, **asdict(point), "path": path, "seconds": each, "gmacs_per_s": rate})
            value = str(getattr(point, axis))
            table.add_row(axis, value, str(point.members), str(point.threads), f"{1000 * each:.2f}", f"{rate:.1f}")
        table.add_section()
    console.print(table)
    return rows


def measure(point: Point, path: Path, rounds: int, seconds: float) -> float:
    """Seconds per step and member: the median over `rounds`, each of which lasts `seconds`."""
    before = torch.get_num_threads()
    torch.set_num_threads(point.threads)
    try:
        model = GPT(point.model, members=point.members, vocab_size=VOCABULARY, seq_len=point.length)
        initialize(model, [Rate.Config(gamma=0.5)] * point.members, list(range(point.members)))
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(VOCABULARY, (point.members, point.batch, point.length), generator=generator)
        labels = tokens[:, :, 0]
        layout = Layout.of(model)
        rows = torch.zeros(2, point.members, sum(layout.sizes))
        for parameter, view in zip(model.parameters(), layout.views(rows[0]), strict=True):
            view.copy_(parameter.data)
        if path == "native":
            native = Native(model, layout, point.batch)

            def step() -> object:
                return native.gradient(rows[0], rows[1], tokens, labels)
        else:
            backprop = Backprop(model, point.batch)

            def step() -> object:
                return backprop(tokens, labels)

        step()
        found: list[float] = []
        for _ in range(rounds):
            steps, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                step()
                steps += 1
            found.append(spent / steps / point.members)
        return statistics.median(found)
    finally:
        torch.set_num_threads(before)
