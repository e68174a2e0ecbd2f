"""Training speed: the stack against a competent baseline and against the machine's matmul throughput.

    loop    Hugging Face GPT-2 of the same config, a DataLoader over a tensor dataset, last-position loss, AdamW and clipping,
            one model after another
    floor   time of the plain step's matmuls alone, at the rate that this machine reaches on large ones
    peak    rate of multiply-accumulates in registers, on all threads: no fp32 matmul can be faster

All are timed in alternation in one run; figures are medians over turns.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.machine import native_bf16
from anchorbench.model.gpt import ModelConfig
from anchorbench.presets import AXES, PRESETS
from anchorbench.recipe import Recipe
from anchorbench.sweeps.runner import Sweep
from anchorbench.train.evaluation import evaluation_steps
from anchorbench.train.gradients.backprop import by_pair, padded
from anchorbench.train.gradients.choice import PRECISIONS, Path
from anchorbench.train.gradients.compiled import find_library
from anchorbench.train.stack import Stack

CPU = torch.device("cpu")
TURNS = 7
PEAK_SECONDS = 0.3
LARGE = 2048
"""Side of the square matmul whose rate is taken as the machine's."""
PAPER_RUNS = "paper-neurips"


@dataclass(frozen=True)
class Row:
    """One measured config, gradient path, precision and stack size."""

    shape: str
    path: Path
    k: int
    precision: str
    member_steps_per_s: float
    loop_member_steps_per_s: float
    ratio: float
    floor_share: float
    """Time of the floor, at this precision's matmul rate, divided by the stack's time."""
    peak_share: float | None
    """Rate of the multiply-accumulates actually performed, divided by the peak of the cores in use; fp32 only, otherwise None."""


@dataclass(frozen=True)
class Case:
    """A model config, and the stacks to measure it with: (gradient path, precision, members)."""

    recipe: Recipe
    stacks: list[tuple[Path, str, int]]
    steps: int
    """Steps per turn."""
    like_paper: bool = False
    """Whether the time of the paper's runs is extrapolated from it."""


def cases(*, large: bool) -> dict[str, Case]:
    """Name -> benchmark case: in fp32, also with the compiled step where there is one, and in bf16 if the CPU supports it."""
    bf16, native = native_bf16(), find_library().library is not None
    laptop = PRESETS["laptop"]
    sizes = _stacks("backprop", "fp32", 1, 8)
    # One head of the model's width, as in GPT-2; the paper's is half as wide.
    wide = laptop.override({"model": ModelConfig(d_model=400, d_head=400, d_ff=1200).model_dump(), "batch": 2048})
    pairs = _stacks("backprop", "fp32", 2)
    if native:
        sizes += _stacks("native", "fp32", 1, 8)
        pairs += _stacks("native", "fp32", 2)
    if bf16:
        sizes += _stacks("backprop", "bf16", 1, 2, 4, 8, 16)
        pairs += _stacks("backprop", "bf16", 2)
    found = {"A": Case(laptop, sizes, steps=16)}
    if large:
        found["B"] = Case(wide, pairs, steps=1, like_paper=True)
    return found


def _stacks(path: Path, precision: str, *members: int) -> list[tuple[Path, str, int]]:
    return [(path, precision, k) for k in members]


def peak(threads: int) -> float:
    """FLOP/s of this many threads that multiply and add in registers; 0 without the compiled step."""
    library = find_library().library
    return 0.0 if library is None else library.peak(threads, PEAK_SECONDS)


def bench_train(
    console: Console,
    measured: Mapping[str, Case],
    *,
    turns: int = TURNS,
    side: int = LARGE,
    peak: Callable[[int], float] = peak,
) -> list[Row]:
    """Measures all cases, prints a table, and returns its rows."""
    rows: list[Row] = []
    shapes = "; ".join(f"{name}: width {case.recipe.model.d_model}, batch {case.recipe.batch}" for name, case in measured.items())
    threads = torch.get_num_threads()
    table = Table(box=box.SIMPLE_HEAD, title=f"{shapes}; {threads} threads", title_justify="left")
    for header in ("shape", "path", "precision", "members", "ms", "loop, ms", "ratio", "floor", "peak"):
        text = header in ("shape", "path", "precision")
        table.add_column(header, justify="left" if text else "right", no_wrap=text)
    lines: list[str] = []
    for name, case in measured.items():
        loop = loop_steps(case.recipe)
        stacks: list[Stack] = []
        for path, precision, k in case.stacks:
            recipes = [case.recipe.override({"seed": seed, "precision": precision}) for seed in range(k)]
            stacks.append(Stack(recipes, path=path))
        squares = {p: torch.randn(side, side, dtype=PRECISIONS[p]) for p in {precision for _, precision, _ in case.stacks}}
        loops: list[float] = []
        peaks: list[float] = []
        matmuls: dict[str, list[float]] = {precision: [] for precision in squares}
        times: list[list[float]] = [[] for _ in stacks]
        for turn in range(turns + 1):  # the first turn is warm-up
            peaks.append(peak(threads))
            for seconds, action, repeats in [
                (loops, lambda: next(loop), case.steps),  # noqa: B023
                *((matmuls[precision], lambda square=square: square @ square, 1) for precision, square in squares.items()),
                *((times[i], lambda stack=stack: _advance(stack, case.steps), 1) for i, stack in enumerate(stacks)),  # noqa: B023
            ]:
                spent = _timed(action, repeats)
                if turn:
                    seconds.append(spent)
        single, most = statistics.median(loops), statistics.median(peaks)
        for (path, precision, k), seconds in zip(case.stacks, times, strict=True):
            each = statistics.median(seconds) / k / case.steps
            floor = 2 * case.recipe.macs_per_step() * statistics.median(matmuls[precision]) / (2 * side**3)
            share = 2 * performed_macs(case.recipe, path) / each / most if most and precision == "fp32" else None
            rows.append(Row(name, path, k, precision, 1 / each, 1 / single, single / each, floor / each, share))
            cells = (f"{1000 * each:.2f}", f"{1000 * single:.1f}", f"{single / each:.1f}", f"{floor / each:.0%}")
            table.add_row(name, path, precision, str(k), *cells, "" if share is None else f"{share:.0%}")
        fastest = max(zip(stacks, rows[-len(stacks) :], strict=True), key=lambda pair: pair[1].member_steps_per_s)[0]
        share = evaluation_share(fastest)
        lines.append(f"{name}: evaluations during {case.recipe.steps} steps take {share:.1%} of the training time")
    console.print(table)
    for line in lines:
        console.print(line)
    for name, case in measured.items():
        if case.like_paper:
            fastest = max((row for row in rows if row.shape == name), key=lambda row: row.member_steps_per_s)
            days = paper_days(fastest, case.recipe)
            console.print(f"The {len(paper_runs())} runs of {PAPER_RUNS} would take about {days:.0f} days here.")
    return rows


def performed_macs(recipe: Recipe, path: Path) -> float:
    """Matmul MACs that a hand-written step actually performs: see the savings listed in step.cpp and backprop.py."""
    task, shape = recipe.load_task(), recipe.model
    d, width, heads, seq = shape.d_model, shape.n_head * shape.d_head, shape.n_head, task.seq_len
    if path == "native":
        tokens = task.sample("train", recipe.batch, recipe.seeds.data).tokens
        pairs = len(np.unique(tokens + task.vocab_size * np.arange(seq)))
    else:
        pairs = seq * (padded(task.vocab_size) if by_pair(shape, recipe.batch, task.vocab_size) else recipe.batch)
    # Last layer, one position: query, its product with the key projection, values and output; scores and weighted sums.
    last = d * (4 * width + 2 * shape.d_ff + task.vocab_size) + 2 * seq * heads * d
    keys = (seq + 1) / 2 if path == "native" else seq  # on average per query: the compiled step skips masked ones
    others = seq * (d * (width + 2 * shape.d_ff) + 2 * keys * width)  # output, feed-forward, attention
    projections = 3 * d * width * (pairs + max(0, shape.n_layer - 2) * seq * recipe.batch) if shape.n_layer > 1 else 0
    return 3 * (recipe.batch * (last + (shape.n_layer - 1) * others) + projections)


def evaluation_share(stack: Stack) -> float:
    """Time of a run's evaluations, during and after training, relative to that of its steps."""
    losses = stack.advance()
    step = min(_timed(lambda: _advance(stack, 4), 1) for _ in range(3)) / 4
    during, final = _timed(lambda: stack.evaluate(losses), 1), _timed(stack.members, 1)
    return (len(evaluation_steps(stack.recipes[0])) * during + final) / (stack.recipes[0].steps * step)


def paper_runs() -> list[Recipe]:
    """The 108 runs of the phase diagram of 2405.05409."""
    return Sweep(PRESETS[PAPER_RUNS], AXES[PAPER_RUNS]).runs()


def paper_days(row: Row, recipe: Recipe) -> float:
    """Days that these runs would take at the matmul rate of `row`, which was measured on `recipe`."""
    rate = row.member_steps_per_s * recipe.macs_per_step()
    return sum(run.steps * run.macs_per_step() for run in paper_runs()) / rate / 86_400


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]


def loop_steps(recipe: Recipe, device: torch.device = CPU) -> Iterator[None]:
    """Endless training steps of a single Hugging Face GPT-2, as a competent user would write them."""
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset
    from transformers import GPT2Config, GPT2LMHeadModel

    task, shape = recipe.load_task(), recipe.model
    examples = task.sample("train", recipe.data_size, recipe.seeds.data)
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
    moved: Any = model
    moved.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay)
    clip: Any = recipe.optimizer.clip
    for tokens, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        logits = model(tokens.to(device), logits_to_keep=1).logits[:, -1]
        loss = cross_entropy(logits, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip.most)
        optimizer.step()
        yield


def _advance(stack: Stack, steps: int) -> None:
    until = stack.step + steps
    while stack.step < until:
        stack.advance(until)


def _timed(action: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - start) / repeats
