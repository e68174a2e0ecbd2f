"""Every kind of file that a command reads, changed in thousands of ways: accepted, or refused in one sentence, within two seconds.

ANCHORBENCH_CORPUS=9 makes it nine times as large as in the suite: 5,500 files.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import hostile
import pytest
from conftest import TINY, sign
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load, save

from anchorbench.cli.plan import load_sweep, parse_axis
from anchorbench.files import visible
from anchorbench.hub import datasets as data
from anchorbench.hub.models import export, load_member, load_model
from anchorbench.inspect.forecast import WIDTHS, load_widths
from anchorbench.leaderboard.check import read_entry, read_recipe
from anchorbench.leaderboard.submit import Origin, _origin
from anchorbench.presets import PRESETS
from anchorbench.show.examine import _task_of as task_of
from anchorbench.sweeps.folder import SweepFolder, checkpoint_runs
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.run_folder import read_run
from anchorbench.train import checkpoint
from anchorbench.train.checkpoint import _digest, resume
from anchorbench.train.stack import Stack

TIMES = int(os.environ.get("ANCHORBENCH_CORPUS", "1"))
SECONDS = 2.0
"""Processor time, so that other work on the machine does not count."""

SWEEP_YAML = b"""\
preset: laptop
task: composite
variant: conflict  # of the paper
optimizer: {lr: 1e-3, weight_decay: 0.1, schedule: "cosine"}
init:
  gamma: 0.5
  depth_scale: true
task_config: {offsets: {1: 5, 2: 1, 3: -2, 4: -8}, held_out: [[4, 3]], modulus: 9}
steps: 0x20
axes:
  init.gamma: [0.5, .7]
  model.n_layer:
  - 2
  - 3
  seed: 2
"""
BOARD_YAML = b"""\
name: gamma 0.8, wide
authors: [A. Person]
description: >-
  What it is,
  and where it comes from.
track: laptop
model: {d_model: 32, n_layer: 2}
init: {gamma: 0.8}
optimizer:
  lr: 1e-3
  weight_decay: 0.0
steps: 600
"""


def attempt(read: Callable[[], object]) -> str | None:
    """What the command says on standard error; None if it takes the file."""
    start = time.process_time()
    try:
        read()
        said = None
    except (ValueError, OSError) as error:  # `anchorbench.cli.main.main` prints these, and nothing else
        assert not isinstance(error, ValidationError | UnicodeError), repr(error)
        said = str(error)
        assert len(said.split()) > 2, said
        assert "\n" not in visible(said)
    assert time.process_time() - start < SECONDS
    return said


def run_all(path: Path, changed: Iterator[bytes], read: Callable[[], object], again: Callable[[], object] = lambda: None) -> None:
    """Reads each changed version of the file at `path`; `again` makes what is signed fit to it."""
    whole = path.read_bytes()
    assert attempt(read) is None, "the file as it was is not taken"
    refused = 0
    for content in changed:
        path.write_bytes(content)
        again()
        try:
            refused += attempt(read) is not None
        except BaseException:
            print(f"{path.name}: {content[:2000]!r}")
            raise
    path.write_bytes(whole)
    again()
    assert refused, "nothing was refused"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "laptop", TINY)


@pytest.fixture
def run_folder(sweep: Path) -> Path:
    return sorted((sweep / "runs").iterdir())[0]


def read_whole_run(folder: Path) -> None:
    """What `report`, `classify` and `export` read of a run."""
    run = read_run(folder)
    run.trajectory()
    run.row()
    load_member(run)


def test_sweep_yaml(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(SWEEP_YAML)
    run_all(path, corpus.changed(SWEEP_YAML, 250 * TIMES // 3), lambda: load_sweep(path, ()))
    as_json = json.dumps({"task": "composite", "axes": {"init.gamma": [0.5, 0.7], "seed": 2}, "model": {"n_layer": 2}}).encode()
    path.write_bytes(as_json)
    run_all(path, corpus.changed(as_json, 150 * TIMES // 3), lambda: load_sweep(path, ()))


def test_axes() -> None:
    for text in corpus.changed(b"init.gamma=0.5,0.7", 150 * TIMES // 3):
        attempt(lambda text=text: Sweep(TINY, dict([parse_axis(os.fsdecode(text))])).runs())


def test_board_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(BOARD_YAML)
    run_all(path, corpus.changed(BOARD_YAML, 150 * TIMES // 3), lambda: read_recipe(path))


def test_board_entry(tmp_path: Path) -> None:
    whole = hostile.honest_entry().to_json()
    path = tmp_path / "entry.json"
    path.write_bytes(whole)
    run_all(path, corpus.changed(whole, 40 * TIMES // 3), lambda: read_entry(path))

    def signed() -> Iterator[bytes]:
        for content in corpus.changed(whole, 40 * TIMES // 3, seed=1):
            try:
                yield hostile.sealed(json.loads(content))
            except (ValueError, AttributeError, RecursionError):
                yield content

    run_all(path, signed(), lambda: read_entry(path))


@pytest.mark.parametrize("name", ["recipe.json", "result.json", "trajectory.jsonl", "digests.json"])
def test_run_folder(run_folder: Path, name: str) -> None:
    path = run_folder / name
    again = (lambda: None) if name == "digests.json" else (lambda: sign(run_folder))
    run_all(path, corpus.changed(path.read_bytes(), 60 * TIMES // 3), lambda: read_whole_run(run_folder), again)


def test_run_trajectory_lines(run_folder: Path) -> None:
    path = run_folder / "trajectory.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    changed = (b"".join([line.replace(b"\n", b" ") + b"\n", *rest]) for line in corpus.changed(first, 80 * TIMES // 3))
    run_all(path, changed, lambda: read_whole_run(run_folder), lambda: sign(run_folder))


def test_run_weights(run_folder: Path) -> None:
    path = run_folder / "weights.safetensors"
    changed = corpus.changed_safetensors(path.read_bytes(), 60 * TIMES // 3)
    run_all(path, changed, lambda: read_whole_run(run_folder), lambda: sign(run_folder))


def test_sweep_folder(sweep: Path) -> None:
    path, recipe = sweep / "sweep.json", read_run(sorted((sweep / "runs").iterdir())[0]).recipe
    same = Sweep(recipe, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})
    run_all(path, corpus.changed(path.read_bytes(), 80 * TIMES // 3), lambda: SweepFolder(sweep, same))


def test_stack_checkpoint(tmp_path: Path) -> None:
    """Changed metadata are signed again: a crafted step or trajectory is held to its bounds too."""
    recipes = [TINY, TINY.model_copy(update={"seed": 1})]
    stack, path = Stack(recipes), tmp_path / "checkpoint.safetensors"
    stack.advance()
    checkpoint.save(stack, path)
    with safe_open(path, "pt") as file:
        about: str = file.metadata()["anchorbench"]
    state = load(path.read_bytes())

    def read() -> object:
        return checkpoint_runs(path), resume(recipes, path)

    def signed() -> Iterator[bytes]:
        for content in corpus.changed(about.encode(), 50 * TIMES // 3):
            text = content.decode(errors="replace")
            yield save(state, {"anchorbench": text, "digest": _digest(text, state)})

    run_all(path, signed(), read)
    run_all(path, corpus.changed_safetensors(path.read_bytes(), 20 * TIMES // 3), read)


@pytest.mark.parametrize(
    ("name", "count"), [("anchorbench.json", 60), ("tokenizer.json", 15), ("tokenizer_config.json", 15), ("ood.parquet", 50)]
)
def test_data_set(tmp_path: Path, name: str, count: int) -> None:
    data.build("composite-conflict", tmp_path / "set", size=8)
    path = tmp_path / "set" / "composite-conflict" / name
    run_all(path, corpus.changed(path.read_bytes(), count * TIMES // 3), lambda: data.verify(tmp_path / "set"))


def test_data_card(tmp_path: Path) -> None:
    data.build("composite-conflict", tmp_path / "set", size=8)
    path = tmp_path / "set" / "README.md"
    header, rest = path.read_bytes().split(b"---\n")[1], path.read_bytes().split(b"---\n", 2)[2]
    changed = (b"---\n" + content + b"---\n" + rest for content in corpus.changed(header, 40 * TIMES // 3))
    run_all(path, changed, lambda: data.verify(tmp_path / "set"))


def test_widths(tmp_path: Path) -> None:
    path = Path(shutil.copy(WIDTHS, tmp_path / "forecast.json"))
    run_all(path, corpus.changed(path.read_bytes(), 120 * TIMES // 3), lambda: load_widths(path))


def test_origin(tmp_path: Path) -> None:
    path = tmp_path / "origin.json"
    path.write_text(Origin(machine=hostile.MACHINE, git=None).model_dump_json())
    run_all(path, corpus.changed(path.read_bytes(), 80 * TIMES // 3), lambda: _origin(tmp_path))


@pytest.fixture
def exported(run_folder: Path, tmp_path: Path) -> Path:
    return export(read_run(run_folder), tmp_path / "exported")


def test_exported_task(exported: Path) -> None:
    path, model = exported / "anchorbench.json", load_model(exported)
    run_all(path, corpus.changed(path.read_bytes(), 80 * TIMES // 3), lambda: task_of(str(exported), model, None))


def test_exported_config(exported: Path) -> None:
    path = exported / "config.json"
    run_all(path, corpus.changed(path.read_bytes(), 40 * TIMES // 3), lambda: load_model(exported))


def test_exported_weights(exported: Path) -> None:
    path = exported / "model.safetensors"
    run_all(path, corpus.changed_safetensors(path.read_bytes(), 30 * TIMES // 3), lambda: load_model(exported))


@pytest.fixture(scope="session", autouse=True)
def _count() -> Iterator[None]:
    """With -s, how many files there were."""
    counted: dict[str, Any] = {"n": 0, "worst": 0.0}
    real = globals()["attempt"]

    def count(read: Callable[[], object]) -> str | None:
        start = time.process_time()
        said = real(read)
        counted["n"] += 1
        counted["worst"] = max(counted["worst"], time.process_time() - start)
        return said

    globals()["attempt"] = count
    yield
    globals()["attempt"] = real
    print(f"{counted['n']} files, the slowest {counted['worst']:.2f} s")
