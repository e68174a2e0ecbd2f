"""The speed of training: the stack, against what a competent user writes today and against the machine's matrix products.

    loop    Hugging Face GPT-2 of the same shape, a DataLoader over a tensor data set, last-position loss, AdamW and clipping,
            one model after another
    floor   the time of the step's matrix products alone, at the rate that the machine reaches on large ones

All are timed in turns in one run; figures are medians over turns.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.model import Shape
from anchorbench.recipe import PRESETS, Recipe
from anchorbench.train import Stack

TURNS = 7
LARGE = 2048
"""Side of the square product whose rate counts as the machine's."""


@dataclass(frozen=True)
class Row:
    """One measured shape and stack size."""

    shape: str
    k: int
    path: str
    precision: str
    member_steps_per_s: float
    loop_member_steps_per_s: float
    ratio: float
    floor_share: float
    """The floor's time divided by the stack's."""


def shapes(*, large: bool) -> dict[str, tuple[Recipe, list[int]]]:
    """Name -> a recipe and the stack sizes to measure it at."""
    laptop = PRESETS["laptop"]
    wide = Shape(d_model=400, d_head=200, d_ff=1200)
    measured = {"A (d 64, batch 128)": (laptop, [1, 2, 4, 8, 16])}
    if large:
        measured["B (d 400, batch 2048)"] = (laptop.override({"model": wide.model_dump(), "batch": 2048}), [2])
    return measured


def bench_train(console: Console, *, large: bool = True, turns: int = TURNS) -> list[Row]:
    """Measures all shapes, prints a table, and returns its rows."""
    rows: list[Row] = []
    for name, (recipe, sizes) in shapes(large=large).items():
        loop = loop_steps(recipe)
        stacks = {k: Stack([recipe.override({"seed": seed}) for seed in range(k)]) for k in sizes}
        square = torch.randn(LARGE, LARGE)
        loops: list[float] = []
        products: list[float] = []
        times: dict[int, list[float]] = {k: [] for k in sizes}
        steps = 10 if recipe.batch <= 128 else 1
        for turn in range(turns + 1):  # the first warms up
            for seconds, action, repeats in [
                (loops, lambda: next(loop), steps),  # noqa: B023
                (products, lambda: square @ square, 1),  # noqa: B023
                *((times[k], stack.advance, steps) for k, stack in stacks.items()),
            ]:
                spent = _timed(action, repeats)
                if turn:
                    seconds.append(spent)
        rate = 2 * LARGE**3 / statistics.median(products)
        floor = 2 * products_per_step(recipe) / rate
        for k, seconds in times.items():
            each = statistics.median(seconds) / k
            single = statistics.median(loops)
            rows.append(Row(name, k, "written-out step", "fp32", 1 / each, 1 / single, single / each, floor / each))
    table = Table(box=box.SIMPLE_HEAD, title=f"training on {torch.get_num_threads()} threads", title_justify="left")
    for header in ("shape", "members", "member-steps/s", "ms", "loop, ms", "ratio", "share of floor"):
        table.add_column(header, justify="left" if header == "shape" else "right")
    for row in rows:
        each, single = 1000 / row.member_steps_per_s, 1000 / row.loop_member_steps_per_s
        table.add_row(
            row.shape,
            str(row.k),
            f"{row.member_steps_per_s:.1f}",
            f"{each:.2f}",
            f"{single:.2f}",
            f"{row.ratio:.1f}",
            f"{row.floor_share:.0%}",
        )
    console.print(table)
    return rows


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]


def products_per_step(recipe: Recipe) -> int:
    """Multiplications in a member-step's matrix products, forward and backward; the last layer answers one position."""
    shape, task = recipe.model, recipe.load_task()
    width, d, seq = shape.n_head * shape.d_head, shape.d_model, task.seq_len
    total = 0
    for layer in range(shape.n_layer):
        answered = 1 if layer == shape.n_layer - 1 else seq
        total += 2 * seq * d * width + answered * (2 * d * width + 2 * d * shape.d_ff) + 2 * answered * seq * width
    return 3 * recipe.batch * (total + d * task.vocab_size)  # backward is twice forward


def loop_steps(recipe: Recipe) -> Iterator[None]:
    """Endless training steps of one Hugging Face GPT-2, as a competent user writes them."""
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset
    from transformers import GPT2Config, GPT2LMHeadModel

    task, shape = recipe.load_task(), recipe.model
    examples = task.sample("train", recipe.data_size, recipe.seed)
    data = TensorDataset(torch.from_numpy(examples.tokens), torch.from_numpy(examples.label))
    loader = DataLoader(data, batch_size=recipe.batch, shuffle=True, drop_last=True)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=task.vocab_size,
            n_positions=task.seq_len,
            n_embd=shape.d_model,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_inner=shape.d_ff,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay)
    for tokens, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        loss = cross_entropy(model(tokens, logits_to_keep=1).logits[:, -1], labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip)
        optimizer.step()
        yield


def _timed(action: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - start) / repeats
