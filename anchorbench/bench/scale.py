"""`bench scale`: how the time of a member's gradient grows with threads, members, width, length and depth, one at a time."""

import statistics
import time
from dataclasses import asdict, dataclass, replace

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.gradients.native import Native, available
from anchorbench.train.memory import usable_cores
from anchorbench.train.seams import Layout

VOCABULARY = 120
ROUNDS = 5
SECONDS = 0.3
"""Duration of each measurement, of which the median counts."""


@dataclass(frozen=True)
class Point:
    """What is measured; the defaults are the laptop preset's."""

    threads: int
    members: int = 8
    width: int = 64
    length: int = 9
    depth: int = 2
    batch: int = 128

    @property
    def model(self) -> ModelConfig:
        """Heads and feed-forward layer grow with the width."""
        return ModelConfig(n_layer=self.depth, d_model=self.width, d_head=self.width, d_ff=4 * self.width)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a member's gradient, savings not taken off."""
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


def bench_scale(console: Console) -> list[dict[str, object]]:
    """Measures all points, prints a table, and returns its rows."""
    path = "native" if available() else "backprop"
    console.print(f"A member's gradient ({path}, fp32), batch 128; the others as in the laptop preset.\nrate: of the step's MACs.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("axis", "value", "members", "threads", "ms", "GMAC/s"):
        table.add_column(header, justify="left" if header == "axis" else "right")
    rows: list[dict[str, object]] = []
    for axis, along in points().items():
        for point in along:
            seconds = measure(point, path)
            rate = point.macs / seconds / 1e9
            rows.append({"axis": axis, **asdict(point), "path": path, "seconds": seconds, "gmacs_per_s": rate})
            value = str(getattr(point, axis))
            table.add_row(axis, value, str(point.members), str(point.threads), f"{1000 * seconds:.2f}", f"{rate:.1f}")
        table.add_section()
    console.print(table)
    return rows


def measure(point: Point, path: str) -> float:
    """Seconds a member."""
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
        for _ in range(ROUNDS):
            steps, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < SECONDS:
                step()
                steps += 1
            found.append(spent / steps / point.members)
        return statistics.median(found)
    finally:
        torch.set_num_threads(before)
