"""The training benchmark: what it counts and what it compares with are right, and the file holds what is promised."""

import io
import itertools
import json
import statistics
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from conftest import TINY, Cli, require_one_sentence
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from anchorbench.bench import scale
from anchorbench.bench import train as module
from anchorbench.bench.train import Case, Row, as_json, bench_train, cases, loop_steps, paper_days, paper_runs, performed_macs
from anchorbench.model.gpt import GPT
from anchorbench.presets import PRESETS
from anchorbench.train.evaluation import evaluation_steps
from anchorbench.train.gradients.backprop import Backprop
from anchorbench.train.gradients.native import available

BASE = TINY.override({"variant": "heldout-both"})
FIELDS = {"shape", "path", "k", "precision", "member_steps_per_s", "loop_member_steps_per_s", "ratio", "floor_share", "peak_share"}
CLOCK = itertools.count()
LARGE_SHAPE = "B"


def test_products_of_a_step_by_hand() -> None:
    """width 8 = 2 heads of 4, d 8, d_ff 16, 9 tokens, 120 words, batch 16, 2 layers; per sequence:

    layer 1: query, key, value and output at 9 positions   4 x 9 x 8 x 8  = 2304
             feed-forward, in and out                      2 x 9 x 8 x 16 = 2304
             scores and their sums, 9 x 9 of each head     2 x 9 x 9 x 8  = 1296
    layer 2: key and value at 9 positions                  2 x 9 x 8 x 8  = 1152
             query, output and feed-forward at one         2 x 64 + 2 x 128 = 384
             scores and their sums of one query            2 x 9 x 8      = 144
    answer:                                                8 x 120        = 960     in all 8544, thrice, for 16 sequences
    """
    assert (BASE.load_task().seq_len, BASE.load_task().vocab_size) == (9, 120)
    assert BASE.macs_per_step() == 3 * 16 * 8544


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model.d_head": 5},
        {"model.n_layer": 1},
        {"model.n_layer": 3, "model.norm": "post", "model.activation": "relu", "model.bias": False},
        {"model.query_norm_only": True, "batch": 5},
        {"batch": 256},
        {"batch": 256, "model.n_layer": 1},
    ],
    ids=str,
)
def test_products_are_those_that_the_step_runs(fields: dict[str, object]) -> None:
    """As PyTorch counts them; it does not know the product that adds in place."""
    recipe = BASE.override(fields)
    task = recipe.load_task()
    model = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    backprop = Backprop(model, recipe.batch)

    def adding(into: torch.Size, a: torch.Size, b: torch.Size, **_: object) -> int:
        return 2 * a[0] * a[1] * a[2] * b[2]

    tokens = torch.zeros(1, recipe.batch, task.seq_len, dtype=torch.long)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: adding}) as counter:
        backprop(tokens, tokens[:, :, 0])
    assert performed_macs(recipe, "backprop") * 2 == counter.get_total_flops()


def test_products_of_the_hand_written_steps_by_hand() -> None:
    """width 8 = 2 heads of 4, d_ff 16, 9 tokens, 120 words, batch 16, 2 layers; per sequence:

    layer 1: output and feed-forward at 9 positions        9 x (8 x 8 + 2 x 8 x 16) = 2880
             scores and their sums, up to each position    2 x 45 x 8 = 720
    layer 2: query, keys' map, values' map and output at one    4 x 64 = 256; feed-forward 256
             scores and sums of whole rows, 2 heads        2 x 9 x 2 x 8 = 288
    answer:                                                8 x 120 = 960     in all 5360
    and query, key and value of layer 1 for each distinct pair of token and position in the batch, 3 x 64 each

    In torch, 2 x 81 x 8 = 1296 for attention in layer 1, 576 more; and query, key and value at every position, or, if there are at
    most half as many, for all pairs of 9 positions and 120 words, padded to 128.
    """
    tokens = BASE.load_task().sample("train", 16, 0).tokens
    pairs = len({(position, token) for row in tokens.tolist() for position, token in enumerate(row)})
    assert 50 < pairs < 144
    assert performed_macs(BASE, "native") == 3 * (16 * 5360 + 192 * pairs)
    assert performed_macs(BASE, "backprop") == 3 * 16 * (5936 + 192 * 9)
    for batch, read in ((255, 255 * 9), (256, 128 * 9)):
        assert performed_macs(BASE.override({"batch": batch}), "backprop") == 3 * (batch * 5936 + 192 * read)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """What `loop_steps` makes and computes: its models, and the losses of its steps with the logits they are of."""
    seen = types.SimpleNamespace(models=[], losses=[], logits=[])

    class Watched(transformers.GPT2LMHeadModel):
        def __init__(self, config: transformers.GPT2Config) -> None:
            super().__init__(config)
            seen.models.append(self)

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        loss = real(logits, labels)
        seen.losses.append(loss.item())
        seen.logits.append((tuple(logits.shape), tuple(labels.shape)))
        return loss

    real = F.cross_entropy
    monkeypatch.setattr("transformers.GPT2LMHeadModel", Watched)
    monkeypatch.setattr("torch.nn.functional.cross_entropy", cross_entropy)
    torch.manual_seed(0)
    return seen


def test_the_loop_trains_a_gpt2_of_the_same_shape(watched: types.SimpleNamespace) -> None:
    """Its parameters are ours but for the output's map, which GPT-2 shares with the embedding."""
    recipe = BASE.override({"optimizer.lr": 1e-2, "data_size": 32})  # two batches, to be learned by heart
    loop = loop_steps(recipe)
    next(loop)
    [model] = watched.models
    task = recipe.load_task()
    ours = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count - ours.unembedding.weight.numel()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for _ in range(60):
        next(loop)
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name
    assert set(watched.logits) == {((16, 120), (16,))}  # the last position alone
    assert len(watched.losses) == 61
    assert statistics.mean(watched.losses[-10:]) < statistics.mean(watched.losses[:10]) - 0.5


def test_the_loop_sees_all_examples_again_and_again(watched: types.SimpleNamespace) -> None:
    loop = loop_steps(BASE.override({"data_size": 40}))
    for _ in range(7):  # two batches of 16 an epoch, what is left is dropped
        next(loop)
    assert len(watched.models) == 1
    assert set(watched.logits) == {((16, 120), (16,))}


def test_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is measured where the processor has it."""
    monkeypatch.setattr(module, "native_bf16", lambda: False)
    small, large = cases(large=False), cases(large=True)
    assert list(small) == list(large)[:1]
    [laptop] = small.values()
    assert laptop.recipe == PRESETS["laptop"]
    assert {stack for stack in laptop.stacks if stack[0] == "backprop"} == {("backprop", "fp32", 1), ("backprop", "fp32", 8)}
    assert (("native", "fp32", 8) in laptop.stacks) == available()
    wide = list(large.values())[1].recipe
    assert (wide.model.d_model, wide.model.d_ff, wide.batch) == (400, 1200, 2048)
    monkeypatch.setattr(module, "native_bf16", lambda: True)
    best = {case.stacks[-1] for case in cases(large=True).values()}
    assert best == {("backprop", "bf16", 16), ("backprop", "bf16", 2)}


@pytest.fixture
def _a_second_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by a second at each look."""
    clock = types.SimpleNamespace(perf_counter=lambda: next(CLOCK))
    for where in (module, scale):
        monkeypatch.setattr(where, "time", clock)


@pytest.mark.usefixtures("_a_second_a_look")
def test_a_row_per_config_and_stack() -> None:
    """Each measurement takes a second: ten steps of the first config, one of the second, whose batch is large."""
    other = BASE.override({"batch": 200, "model.n_layer": 1})
    measured = {
        "one": Case(BASE, [("backprop", "fp32", 1), ("backprop", "bf16", 3)], steps=10),
        "two": Case(other, [("backprop", "fp32", 2)], steps=1, like_paper=True),
    }
    console = Console(file=io.StringIO(), width=120)
    rows = as_json(bench_train(console, measured, turns=1, side=256, peak=lambda threads: 1e12))
    out = console.file.getvalue()
    assert [(row["shape"], row["k"]) for row in rows] == [("one", 1), ("one", 3), ("two", 2)]
    rate = 2 * 256**3  # operations per second: one matmul takes a second
    for row, (steps, recipe) in zip(rows, [(10, BASE), (10, BASE), (1, other)], strict=True):
        assert row.keys() == FIELDS
        assert row["precision"] == ("bf16" if row["k"] == 3 else "fp32")
        assert row["loop_member_steps_per_s"] == pytest.approx(steps)
        assert row["member_steps_per_s"] == pytest.approx(steps * row["k"])  # a turn takes a second
        assert row["ratio"] == pytest.approx(row["k"])
        floor = 2 * recipe.macs_per_step() / rate
        share = 2 * performed_macs(recipe, "backprop") * row["member_steps_per_s"] / 1e12
        assert row["peak_share"] == (None if row["precision"] == "bf16" else pytest.approx(share))
        assert row["floor_share"] == pytest.approx(floor * row["member_steps_per_s"])
    lines = [line.split() for line in out.splitlines()]
    assert [line for line in lines if line[:1] == ["one"] and "bf16" in line] == [
        ["one", "backprop", "bf16", "3", "33.33", "100.0", "3.0", f"{rows[1]['floor_share']:.0%}"]
    ]
    # Each evaluation takes a second, and so do four steps.
    evaluations = 4 * (len(evaluation_steps(BASE)) + 1)
    assert f"one: evaluations during {BASE.steps} steps take {evaluations / BASE.steps:.1%} of the training time" in out
    assert "The 108 runs of paper-neurips would take about" in out


def test_the_papers_diagram_is_projected_by_its_products() -> None:
    """By hand: were every run as the measured one but for its depth and steps, at one member-step a second."""
    runs = paper_runs()
    assert len(runs) == 108
    row = Row(LARGE_SHAPE, "native", 1, "fp32", 1.0, 1.0, 1.0, 1.0, 1.0)
    measured = cases(large=True)[LARGE_SHAPE].recipe
    days = sum(77_700 * run.macs_per_step() / measured.macs_per_step() for run in runs) / 86_400
    assert paper_days(row, measured) == pytest.approx(days)


def test_the_command_measures_all_cases_or_the_small_one(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[list[str]] = []
    row = Row("A", "native", 1, "fp32", 1.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(module, "bench_train", lambda console, cases: measured.append(list(cases)) or [row])
    monkeypatch.chdir(tmp_path)
    assert cli("bench", "train", "--small") == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    assert cli("bench", "train", "--json", "bench.json") == (0, "", "")
    assert measured == [["A"], ["A", "B"]]
    [written] = json.loads(Path("bench.json").read_text())
    assert written.keys() == FIELDS


@pytest.mark.usefixtures("_a_second_a_look")
@pytest.mark.parametrize("path", ["native", "backprop"])
def test_scale_measures_a_point_along_each_axis(path: str) -> None:
    few = {axis: along[:1] for axis, along in scale.points().items()}
    rows = scale.bench_scale(Console(file=io.StringIO()), few, path, rounds=1, seconds=1.5)  # a second a look: one step
    assert [row["axis"] for row in rows] == ["threads", "members", "width", "length", "depth"]
    assert [(row["members"], row["width"], row["length"], row["depth"]) for row in rows] == [
        (8, 64, 9, 2), (1, 64, 9, 2), (2, 32, 9, 2), (2, 64, 3, 2), (2, 64, 9, 1)
    ]  # fmt: skip
    assert {row["path"] for row in rows} == {path}
    # Key and value of both layers; query, output and feed-forward at 9 positions and at one; attention; answer
    assert scale.Point(1).macs == 3 * 128 * ((4 * 9 + 9 * 10 + 10) * 64**2 + 2 * 9 * 10 * 64 + 64 * 120)
    assert {row["seconds"] * row["members"] for row in rows} == {2.0}


def test_a_file_that_cannot_be_written_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    refused = cli("bench", "train", "--small", "--json", tmp_path / "none" / "bench.json")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert str(tmp_path / "none") in refused.err
