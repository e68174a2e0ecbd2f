"""Sweeps from YAML, their plan, and a boundary located through the command line; nothing is trained here but a few steps."""

import gc
import json
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RUNS, TINY, Cli, require_one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench.cli.costs import TIMED_STEPS
from anchorbench.cli.plan import load_sweep, parse_axis
from anchorbench.files import MAX_YAML_BYTES
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe
from anchorbench.sweeps.locate import FIRST, locate
from anchorbench.sweeps.plan import STACK_MEMBERS, Sweep, SweepFolder, stacks
from anchorbench.sweeps.run_folder import Run
from anchorbench.train.memory import memory_of_member
from anchorbench.train.stack import Stack

BASE = TINY.override({"variant": "heldout-both"})

Write = Callable[[str | bytes], Path]


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "laptop", TINY)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# YAML


def test_a_file_becomes_the_sweep(write: Write, laptop: None) -> None:
    path = write("""
        preset: laptop
        steps: 8
        optimizer: {weight_decay: 0.1}   # what is not named stays the preset's
        axes: {init.gamma: [0.5, 0.7], model.n_layer: [2, 3], seed: 2}
    """)
    sweep = load_sweep(path, ())
    assert sweep.base == BASE.override({"steps": 8, "optimizer.weight_decay": 0.1})
    assert list(sweep.axes.items()) == [("init.gamma", (0.5, 0.7)), ("model.n_layer", (2, 3)), ("seed", (0, 1))]
    found = [(run.init.gamma, run.model.n_layer, run.seed) for run in sweep.runs()]
    assert found == [(0.5, 2, 0), (0.5, 2, 1), (0.5, 3, 0), (0.5, 3, 1), (0.7, 2, 0), (0.7, 2, 1), (0.7, 3, 0), (0.7, 3, 1)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_is_one_run(write: Write, preset: str) -> None:
    [run] = load_sweep(write(f"preset: {preset}"), ()).runs()
    assert run == PRESETS[preset].override({"variant": run.load_task().variant})


def test_the_preset_is_laptop_if_none_is_named(write: Write, laptop: None) -> None:
    assert load_sweep(write("seed: 5"), ()) == Sweep(BASE.override({"seed": 5}), {})


def test_a_list_of_seeds_is_those_seeds(write: Write, laptop: None) -> None:
    assert [run.seed for run in load_sweep(write("axes: {seed: [7, 3]}"), ()).runs()] == [7, 3]


def test_axes_of_the_command_line_replace_and_add(write: Write, laptop: None) -> None:
    path = write("axes: {init.gamma: [0.5, 0.7], seed: 2}")
    sweep = load_sweep(path, ["init.gamma=0.9", "optimizer.lr=1e-3,0.01", "model.norm=post"])
    found = [(run.init.gamma, run.seed, run.optimizer.lr, run.model.norm) for run in sweep.runs()]
    assert found == [(0.9, seed, lr, "post") for seed in (0, 1) for lr in (0.001, 0.01)]


def test_values_that_are_equal_as_numbers_are_one_run(write: Write, laptop: None) -> None:
    text = "axes: {optimizer.lr: [1e-3, 0.001, 1.0e-3], optimizer.weight_decay: [1, 1.0]}"
    assert len(load_sweep(write(text), ()).runs()) == 1


def test_the_intrinsic_rate_sets_the_weight_decay(write: Write, laptop: None) -> None:
    path = write("axes: {optimizer.intrinsic_lr: [1e-4, 0], optimizer.lr: [1e-3, 3e-3, 0.01]}")
    found = [(run.optimizer.lr, run.optimizer.weight_decay) for run in load_sweep(path, ()).runs()]
    assert found == [(0.001, 0.1), (0.003, 0.0333333333333), (0.01, 0.01), (0.001, 0), (0.003, 0), (0.01, 0)]
    [run] = load_sweep(write("optimizer: {lr: 0.003}"), ["optimizer.intrinsic_lr=6e-4"]).runs()
    assert run.run_id == BASE.override({"optimizer.lr": 0.003, "optimizer.weight_decay": 0.2}).run_id


def test_parse_axis() -> None:
    assert parse_axis("model.n_layer=2,3") == ("model.n_layer", (2, 3))
    assert parse_axis("model.norm=pre, post") == ("model.norm", ("pre", "post"))
    assert parse_axis("optimizer.decay_until=null") == ("optimizer.decay_until", (None,))


LAUGHS = "\n".join(["a0: &a0 [x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))])
"""Nine to the fortieth values in two kilobytes."""
# What is said must hold the value and a part of what is allowed.
BAD_FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("recipe.yaml", "a mapping of fields")),
    "a word": ("laptop", ("a mapping of fields",)),
    "not text": (b"\xff\xfe\x00\xd8", ("recipe.yaml is not UTF-8",)),
    "a control character": ("steps: \0", ("recipe.yaml is not YAML",)),
    "two documents": ("steps: 1\n---\nsteps: 2", ("recipe.yaml is not plain YAML", "a second document")),
    "too large": ("#" * (MAX_YAML_BYTES + 1), ("recipe.yaml", str(MAX_YAML_BYTES))),
    "a month 13": ("steps: 2020-13-01", ("steps is '2020-13-01'", "integer")),
    "5000 digits": ("steps: " + "9" * 5000, ("recipe.yaml is not plain YAML", "5000 characters")),
    "a tag that calls": ("steps: !!python/object/apply:os.mkdir [called]", ("recipe.yaml is not plain YAML", "python/object")),
    "a tag that makes": ("steps: !!python/object:anchorbench.recipe.Recipe {}", ("recipe.yaml is not plain YAML", "python/object")),
    "a tag that names": ("steps: !!python/name:os.system", ("recipe.yaml is not plain YAML", "python/name")),
    "lists 60,000 deep": ("steps: " + "[" * 60_000, ("recipe.yaml is not plain YAML", "deep")),
    "lists 80 deep": ("task_config: {a: " + "[" * 80 + "]" * 80 + "}", ("recipe.yaml is not plain YAML", "deep")),
    "mappings 80 deep": ("task_config: {a: " + "{a: " * 80 + "1" + "}" * 81, ("recipe.yaml is not plain YAML", "deep")),
    "billion laughs": (f"{LAUGHS}\nsteps: *a39", ("recipe.yaml is not plain YAML", "anchors are not allowed")),
    "billion laughs as axes": (f"{LAUGHS}\naxes: {{seed: *a39}}", ("recipe.yaml is not plain YAML", "anchors are not allowed")),
    "a list in itself": ("steps: &a [*a]", ("recipe.yaml is not plain YAML", "anchors are not allowed")),
    "a mapping in itself": ("optimizer: &a {lr: *a}", ("recipe.yaml is not plain YAML", "anchors are not allowed")),
    "unknown inner field": ("optimizer: {speed: 1}", ("'optimizer.speed'",)),
    "a list for a name": ("[a]: 2", ("recipe.yaml is not plain YAML", "['a']")),
    "a group that is a field": ("steps: {lr: 3}", ("steps",)),
    "a value out of range": ("optimizer: {lr: -1}", ("optimizer.lr is -1", "greater than 0")),
    "not a number": ("optimizer: {lr: .nan}", ("recipe.yaml is not plain YAML", ".nan", "finite")),
    "unknown precision": ("precision: fp8", ("'fp8'", "'fp32', 'bf16' or 'tf32'")),
    "unknown task": ("task: compsite", ("'compsite'", "did you mean 'composite'")),
    "unknown variant": ("variant: heldout", ("'heldout'", "heldout-both")),
    "axes that are nothing": ("axes:", ("axes is None", "a mapping")),
    "an axis of one bare value": ("axes: {init.gamma: 0.5}", ("axis init.gamma is 0.5", "a list")),
    "an axis without a name": ("axes: {1: [2]}", ("axis 1", "allowed")),
    "an unknown axis": ("axes: {init.delta: [1]}", ("'init.delta'",)),
    "an axis below a field": ("axes: {optimizer.lr.peak: [1]}", ("'optimizer.lr.peak'",)),
    "an axis with one bad value": ("axes: {init.gamma: [0.5, big]}", ("init.gamma is 'big'", "number")),
    "an intrinsic rate in words": ("axes: {optimizer.intrinsic_lr: [high]}", ("optimizer.intrinsic_lr is 'high'", "a number")),
    "an intrinsic rate too high": ("axes: {optimizer.intrinsic_lr: [1e9]}", ("optimizer.weight_decay is 1", "1000")),
    "an intrinsic rate and a decay": (
        "axes: {optimizer.intrinsic_lr: [0.1], optimizer.weight_decay: [0.1]}",
        ("optimizer.weight_decay and optimizer.intrinsic_lr", "one of them"),
    ),
    "a list for a seed": ("axes: {seed: [[1]]}", ("seed is [1]", "integer")),
    "fewer than no seeds": ("axes: {seed: -1}", ("axis seed is -1", "allowed")),
    "a billion seeds": ("axes: {seed: 1000000000}", ("1000000000", "allowed")),
    "too many runs": (
        "axes: {seed: 5000, steps: [" + ",".join(map(str, range(10, 5010))) + "]}",
        ("25000000 runs", "allowed"),
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence(cli: Cli, write: Write, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, said = BAD_FILES[name]
    path = write(text)
    refused = cli("sweep", "plan", path)
    assert (refused.code, refused.out) == (2, "")
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert list(tmp_path.iterdir()) == [path]  # nothing was made, nor called


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("init.gamma", ("'init.gamma' has no values", "FIELD=VALUE")),
        ("init.gamma=", ("'init.gamma=' has no values", "FIELD=VALUE")),
        ("init.gamma=[0.5", ("'init.gamma=[0.5'", "is not YAML")),
        ("seed=!!python/name:os.system", ("is not plain YAML", "python/name")),
        ("steps=" + "[" * 5000, ("is not plain YAML", "deep")),
        ("colour=red", ("'colour'",)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_axis_is_one_sentence(cli: Cli, write: Write, axis: str, said: tuple[str, ...], tmp_path: Path) -> None:
    refused = cli("sweep", "plan", write("preset: laptop"), "--axis", axis, "--out", tmp_path / "out")
    assert (refused.code, refused.out) == (2, "")
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "said"), [("none.yaml", "is missing"), ("folder", "is not a plain file")])
def test_a_file_that_cannot_be_read_is_one_sentence(cli: Cli, tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    refused = cli("sweep", "plan", tmp_path / file)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert f"{tmp_path / file} {said}" in refused.err


# The plan


def rows_of(text: str) -> list[list[str]]:
    """The table's rows, whose first cell is a number."""
    return [cells for line in text.splitlines() if (cells := line.split()) and cells[0].isdigit() and "runs," not in cells]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains or writes a run fails."""
    for name in ("anchorbench.train.loop.train", "anchorbench.sweeps.folder.write_run", "anchorbench.cli.plan.run_sweep"):
        monkeypatch.setattr(name, None)


def set_clock(monkeypatch: pytest.MonkeyPatch, looks: Iterator[int]) -> None:
    monkeypatch.setattr("anchorbench.cli.costs.time", types.SimpleNamespace(perf_counter=lambda: next(looks)))


def test_the_plan_is_printed_and_nothing_starts(
    cli: Cli, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_training: None
) -> None:
    """Nine members of two and of three layers: stacks of four and five. The clock jumps by ten seconds at each look."""
    set_clock(monkeypatch, iter(range(0, 1000, 10)))
    path = write("axes: {model.n_layer: [2, 3], seed: 9}")
    shown = cli("sweep", "plan", path, "--out", tmp_path / "out")
    assert (shown.code, shown.err) == (0, "")
    assert list(tmp_path.iterdir()) == [path]
    assert "18 runs, 0 finished; 4 stacks to train" in shown.out
    each = {layers: memory_of_member(BASE.override({"model.n_layer": layers})) for layers in (2, 3)}
    # 10 s for TIMED_STEPS steps: 2 s each, 12 s for the six of a stack
    assert TIMED_STEPS == 5
    assert rows_of(shown.out) == [
        [*f"1 {members} {layers} 8 16 6 {each[layers] * members / 2**20:.0f} MiB {milliseconds} 0 min 12 s".split()]
        for layers in (3, 2)  # long first
        for members, milliseconds in ((4, "500.00"), (5, "400.00"))
    ]
    assert "estimated time: 0 min 48 s" in shown.out
    assert "MB, without --keep-steps; nothing is downloaded" in shown.out


def test_hours_are_told_as_hours(cli: Cli, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, iter([0, 5 * 650]))  # 650 s a step, 3900 s for six
    shown = cli("sweep", "plan", write("preset: laptop"), "--out", tmp_path / "out")
    assert "estimated time: 1 h 5 min" in shown.out


def test_alike_stacks_are_timed_once(cli: Cli, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, iter([0, 10]))
    shown = cli("sweep", "plan", write("axes: {seed: 24}"), "--out", tmp_path / "out")
    assert [row[:2] + row[-4:] for row in rows_of(shown.out)] == [["3", "8", "0", "min", "36", "s"]]


def test_finished_runs_are_not_planned(cli: Cli, write: Write, sweep: Path, no_training: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    precision = json.loads((sweep / "sweep.json").read_text())["base"]["precision"]
    path = write(f"precision: {precision}\naxes: {{init.gamma: [0.5, 0.7, 0.9], seed: 2}}")
    shown = cli("sweep", "plan", path, "--out", sweep)
    assert f"{RUNS + 2} runs, {RUNS} finished; 1 stack to train" in shown.out
    [row] = rows_of(shown.out)
    assert row[:2] == ["1", "2"]
    finished = cli("sweep", "plan", path, "--axis", "init.gamma=0.5,0.7", "--out", sweep)
    assert f"{RUNS} runs, {RUNS} finished; 0 stacks to train" in finished.out
    assert rows_of(finished.out) == []
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before


@pytest.mark.parametrize("memory", ["0", "-1", "nan", "1e-9"])
def test_memory_that_makes_no_sense_is_one_sentence(cli: Cli, write: Write, tmp_path: Path, memory: str) -> None:
    refused = cli("sweep", "plan", write("preset: laptop"), "--memory", memory, "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "memory" in refused.err
    assert "allowed" in refused.err
    assert not (tmp_path / "out").exists()


def test_memory_splits_the_planned_stacks(cli: Cli, write: Write, tmp_path: Path) -> None:
    gib = 3.5 * memory_of_member(BASE) / 2**30
    shown = cli("sweep", "plan", write("axes: {seed: 8}"), "--memory", f"{gib:.12f}", "--out", tmp_path / "out")
    assert "8 runs, 0 finished; 3 stacks to train" in shown.out
    assert sorted(row[:2] for row in rows_of(shown.out)) == [["1", "2"], ["2", "3"]]


# Memory


def bytes_held(stack: Stack) -> int:
    """Bytes of all tensors and arrays that can be reached from a stack, each counted once."""
    held: dict[int, int] = {}
    seen: set[int] = set()
    todo: list[object] = [stack]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            held[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
            todo.append(thing.grad)
        elif isinstance(thing, np.ndarray):
            if thing.base is None:
                held[thing.ctypes.data] = thing.nbytes
            todo.append(thing.base)
        else:
            todo += gc.get_referents(thing)
    return sum(held.values())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data_size": 20_000},
        {"batch": 512},
        {"batch": 512, "precision": "bf16", "model.d_model": 32, "model.d_head": 16, "model.d_ff": 64},
        {"model.d_model": 128, "model.d_ff": 512},
        {"model.d_model": 128, "model.d_ff": 512, "precision": "bf16"},
        {"model.norm": "post", "model.n_layer": 4, "batch": 128},
    ],
    ids=str,
)
def test_memory_of_a_member_is_what_it_adds(fields: dict[str, object]) -> None:
    """Within a factor of two both ways: the prediction adds a quarter for what an operation needs while it runs, which is not
    held between steps, and leaves out evaluation sets and the groups and keys of examples, which count where all is small.
    """
    recipe = BASE.override(fields)

    def held(members: int) -> int:
        stack = Stack([recipe.override({"seed": seed}) for seed in range(members)])
        stack.advance()
        return bytes_held(stack)

    added = (held(4) - held(2)) / 2
    assert added > 100_000
    assert 0.5 < memory_of_member(recipe) / added < 2


STRUCTURES = [BASE.override(fields) for fields in ({}, {"steps": 60}, {"model.n_layer": 3}, {"batch": 32, "model.norm": "post"})]
EACH = [memory_of_member(recipe) for recipe in STRUCTURES]
POOL = [[recipe.override({"seed": seed}) for seed in range(18)] for recipe in STRUCTURES]
NUMBER = {id(run): number for number, runs in enumerate(POOL) for run in runs}


def stacks_of(recipes: list[Recipe], memory: float) -> list[list[Recipe]]:
    """Stacks of runs of POOL, whose memory is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.train.memory.memory_of_member", lambda recipe: EACH[NUMBER[id(recipe)]])
        return stacks(recipes, memory)


@settings(max_examples=15)
@given(counts=st.tuples(*[st.integers(0, 18)] * len(STRUCTURES)), fit=st.floats(2, 12), data=st.data())
def test_stacks_are_balanced_and_fit_and_the_longest_come_first(counts: tuple[int, ...], fit: float, data: st.DataObject) -> None:
    recipes = data.draw(st.permutations([run for pool, count in zip(POOL, counts, strict=True) for run in pool[:count]]))
    memory = fit * max(EACH)
    grouped = stacks_of(recipes, memory)
    assert Counter(map(id, recipes)) == Counter(id(run) for stack in grouped for run in stack)
    sizes: list[list[int]] = [[] for _ in STRUCTURES]
    lengths = []
    for stack in grouped:
        [number] = {NUMBER[id(run)] for run in stack}
        each = EACH[number]
        assert 1 <= len(stack) <= STACK_MEMBERS
        assert len(stack) * each <= memory * (1 + 1e-12)
        sizes[number].append(len(stack))
        lengths.append(each * stack[0].steps)
    assert lengths == sorted(lengths, reverse=True)
    for count, each, found in zip(counts, EACH, sizes, strict=True):
        assert len(found) == -(-count // int(min(STACK_MEMBERS, memory / each)))  # no more stacks than needed
        assert max(found, default=0) - min(found, default=0) <= 1


@settings(max_examples=15)
@given(kind=st.integers(0, len(STRUCTURES) - 1), share=st.floats(0, 1.999))
def test_a_stack_that_does_not_fit_is_one_sentence(kind: int, share: float) -> None:
    """A lone member is trained beside a copy of itself: two must fit."""
    with pytest.raises(
        ValueError, match=r"^the smallest stack takes \d+\.\d\d GiB of memory; allowed here: \d+\.\d\d GiB \(--memory\)$"
    ):
        stacks_of(POOL[kind][:3], share * EACH[kind])


def test_a_gpu_takes_large_stacks_and_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(9 * memory_of_member(BASE) / 0.6) + 1, 0))
    assert [len(stack) for stack in stacks(POOL[0])] == [9, 9]
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2**37, 0))
    assert [len(stack) for stack in stacks(POOL[0])] == [18]


def test_stacks_take_60_percent_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.sweeps.plan.free_memory", lambda: 2.1 * EACH[0] / 0.6)
    assert [len(stack) for stack in stacks(POOL[0][:6])] == [2, 2, 2]


# A boundary


def solved(gamma: float, seed: int) -> str:
    """Inferential above .53; every fifth member is of neither kind."""
    return "mixed" if seed % 5 == 4 else "inferential" if gamma > 0.53 else "memorizing"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, run: Run) -> list[Recipe]:
    """Runs get the verdict of `solved` instead of training; gives the recipes that were asked for."""
    asked: list[Recipe] = []

    def made(recipe: Recipe) -> Run:
        verdict = solved(recipe.init.gamma, recipe.seed)
        result = run.result.model_copy(update={"run_id": recipe.run_id, "verdict": verdict})
        return run.model_copy(update={"recipe": recipe, "result": result})

    def run_sweep(sweep: Sweep, folder: SweepFolder) -> list[Run]:
        asked.extend(sweep.runs())
        return [made(recipe) for recipe in sweep.runs()]

    monkeypatch.setattr("anchorbench.cli.plan.run_sweep", run_sweep)
    return asked


def lines_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_locate(cli: Cli, write: Write, tmp_path: Path, known: list[Recipe]) -> None:
    out = tmp_path / "out"
    path = write("optimizer: {weight_decay: 0.1}")
    shown = cli("sweep", "locate", path, "--low", "0.3", "--high", "0.8", "--width", "0.05", "--seeds", "8", "--out", out)
    assert (shown.code, shown.err) == (0, "")

    found = json.loads((out / "boundary.json").read_text())
    outcomes = {"inferential": True, "memorizing": False, "mixed": None}
    expected = locate(lambda value, seeds: [outcomes[solved(value, seed)] for seed in seeds], 0.3, 0.8, width=0.05, seeds=8)
    assert found == json.loads(json.dumps(asdict(expected)))
    assert found.keys() == {"value", "interval", "rising", "width", "grid_members", "asked"}
    assert found["rising"]
    assert found["interval"][0] <= 0.53 <= found["interval"][1]
    assert found["interval"][1] - found["interval"][0] <= 0.05
    assert (found["width"], found["grid_members"]) == (0.05, 88)
    assert len(found["asked"]) < 44

    members = [(member["value"], member["seed"]) for member in found["asked"]]
    assert known == [BASE.override({"optimizer.weight_decay": 0.1, "init.gamma": gamma, "seed": seed}) for gamma, seed in members]
    lines = lines_of(out)
    assert [(line["gamma"], line["seed"]) for line in lines] == members
    assert [outcomes[str(line["verdict"])] for line in lines] == [member["outcome"] for member in found["asked"]]
    assert [line["run_id"] for line in lines] == [recipe.run_id for recipe in known]
    assert len((out / "results.csv").read_text().splitlines()) == 1 + len(members)
    text = " ".join(shown.out.split())
    low, high = found["interval"]
    assert f"boundary: init.gamma {found['value']:.3f}, 95% interval {low:.3f} to {high:.3f}" in text
    assert f"{len(members)} runs; a grid with spacing 0.05 and 8 seeds takes 88" in text
    assert "init.gamma 0.3: memorizing, memorizing, memorizing, memorizing" in text


def test_locate_without_a_boundary_is_one_sentence(cli: Cli, write: Write, tmp_path: Path, known: list[Recipe]) -> None:
    out = tmp_path / "out"
    refused = cli("sweep", "locate", write("preset: laptop"), "--low", "0.6", "--high", "0.8", "--out", out)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "no boundary between 0.6 and 0.8" in refused.err
    assert not (out / "boundary.json").exists()
    assert len(known) >= 2 * FIRST


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--low", "0.8", "--high", "0.3"), ("range is 0.8 to 0.3",)),
        (("--low", "nan", "--high", "0.3"), ("nan",)),
        (("--low", "0.3", "--high", "1000"), ("init.gamma is 1000", "100")),
        (("--low", "0.3", "--high", "0.8", "--width", "0"), ("width is 0", "allowed")),
        (("--low", "0.3", "--high", "0.8", "--seeds", "3"), ("seeds is 3", "4 to 1000")),
        (("--low", "0.3", "--high", "0.8", "--along", "init.delta"), ("init.delta",)),
        (("--low", "0.3", "--high", "0.8", "--along", "model.norm"), ("model.norm is 0.3", "'pre' or 'post'")),
        (("--low", "1", "--high", "9", "--along", "seed"), ("'seed'", "allowed")),
    ],
)
def test_locate_of_what_makes_no_sense_is_one_sentence(
    cli: Cli, write: Write, tmp_path: Path, options: tuple[str, ...], said: tuple[str, ...], known: list[Recipe]
) -> None:
    path = write("preset: laptop")
    refused = cli("sweep", "locate", path, *options, "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert known == []
    assert list(tmp_path.iterdir()) == [path]


def test_locate_over_other_axes_is_one_sentence(cli: Cli, write: Write, tmp_path: Path, known: list[Recipe]) -> None:
    path = write("axes: {model.n_layer: [2, 3]}")
    refused = cli("sweep", "locate", path, "--low", "0.3", "--high", "0.8", "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "leave them out" in refused.err
    assert list(tmp_path.iterdir()) == [path]
