"""How fast things are, on the machine at hand. `bench data`: sequences per second of each task's generator."""

import random
import time
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.show.catalogue import by_name, find_tasks
from anchorbench.task import Task

BATCH = 16_384
"""Sequences that are made at a time, as in training; what one batch needs stays in the processor's cache."""
ROUNDS = 5
SECONDS = 0.05
"""Length of each measurement, of which the best counts."""


def plain_loop(n: int, seed: int) -> list[tuple[list[int], int]]:
    """`n` training examples of composite (heldout-both) as (tokens, label), by the same rule, in plain Python."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    offsets = {1: 5, 2: 1, 3: -2, 4: -8}
    examples: list[tuple[list[int], int]] = []
    while len(examples) < n:
        key, position = rng.randrange(20, 100), rng.randrange(7)
        first, second = rng.randrange(1, 5), rng.randrange(1, 5)
        if key % 9 == position % 9 or (first, second) in ((3, 4), (4, 3)):
            continue
        tokens = [rng.randrange(20, 100) for _ in range(9)]
        tokens[position : position + 3] = [key, first, second]
        examples.append((tokens, key + offsets[first] + offsets[second]))
    return examples


def bench_data(console: Console) -> None:
    """Prints sequences per second of every task, and of composite beside a plain Python loop, measured in turns."""
    console.print(
        f"Training sequences a second on one core, made in batches of {BATCH:,}.\n"
        f"Processor time, so that what else runs hardly counts; the best of {ROUNDS} rounds."
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("task", "variant"):
        table.add_column(header)
    for header in ("tokens", "sequences/s"):
        table.add_column(header, justify="right")
    for variants in by_name(find_tasks("all")):
        task = variants[0]
        (rate,) = _rates([(BATCH, _batches(task))])
        table.add_row(task.name, task.variant, str(task.seq_len), f"{rate:,.0f}")
    console.print(table)

    task = find_tasks("composite")[0]
    seeds = iter(range(10**9))
    streamed, at_once, plain = _rates(
        [
            (BATCH, _batches(task)),
            (1_000_000, lambda: task.sample("train", 1_000_000, next(seeds))),
            (BATCH, lambda: plain_loop(BATCH, next(seeds))),
        ]
    )
    console.print(
        f"composite, measured in turns:\n"
        f"  {streamed:>12,.0f} in batches of {BATCH:,}: {streamed / plain:.0f} times the plain loop\n"
        f"  {at_once:>12,.0f} 1,000,000 at once: {at_once / plain:.0f} times\n"
        f"  {plain:>12,.0f} by a plain Python loop of the same rule"
    )


def _batches(task: Task) -> Callable[[], object]:
    stream: Iterator[object] = task.iter_batches("train", BATCH, seed=0)
    return lambda: next(stream)


def _rates(what: list[tuple[int, Callable[[], object]]]) -> list[float]:
    """Sequences per second of each (sequences a call, call), measured in turns; the best round counts."""
    best = [0.0] * len(what)
    for _, call in what:
        call()  # tables that a task makes once are not counted
    for _ in range(ROUNDS):
        for i, (n, call) in enumerate(what):
            calls, start = 0, time.process_time()
            while (passed := time.process_time() - start) < SECONDS:
                call()
                calls += 1
            best[i] = max(best[i], n * calls / passed)
    return best
