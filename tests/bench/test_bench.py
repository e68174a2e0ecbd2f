"""The speed table: what is timed is right, and every task is in it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, require_one_sentence
from rich.console import Console

from anchorbench import list_tasks, load_task
from anchorbench.bench import data as bench
from anchorbench.task import SPLITS


def test_the_plain_loop_makes_training_examples_of_composite():
    task = load_task("composite")
    tokens, labels = (np.array(values) for values in zip(*bench.plain_loop(3_000, seed=1), strict=True))
    answers = task.answer(tokens).require_valid()
    np.testing.assert_array_equal(answers.label, labels)
    np.testing.assert_array_equal(answers.split, SPLITS.index("train"))
    assert set(answers.group.tolist()) == {i for i, group in enumerate(task.groups) if group.role == "trained"}
    assert bench.plain_loop(10, seed=1) == bench.plain_loop(10, seed=1) != bench.plain_loop(10, seed=2)


def test_rates_are_sequences_a_second_of_processor_time(monkeypatch):
    """A clock that each call moves on by a known time: 100 sequences in 2 s, then in 4 s, are 50 a second at best."""
    clock = {"now": 0.0, "step": 2.0}
    monkeypatch.setattr("anchorbench.bench.data.time.process_time", lambda: clock["now"])

    def call() -> None:
        clock["now"] += clock["step"]
        clock["step"] = 4.0 if clock["now"] > 4 else 2.0

    assert bench.rates([(100, call)], rounds=2) == [50.0]


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_has_every_task(width):
    def measure(calls: bench.Calls) -> list[float]:
        return [1000.0 * n for n, call in calls if call() is not None]

    console = Console(width=width, file=io.StringIO())
    bench.bench_data(console, batch=50, measure=measure)
    text = console.file.getvalue()
    for name in dict(list_tasks()):
        assert f" {name} " in text
    assert "50,000 in batches of 50: 1 times the plain loop" in text
    assert "1,000,000,000 1,000,000 at once: 20000 times" in text


def test_the_store_is_measured_at_every_size(cli: Cli, tmp_path: Path) -> None:
    done = cli("bench", "store", "--runs", "2,3", "--json", tmp_path / "store.json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads((tmp_path / "store.json").read_text())
    assert [row.pop("runs") for row in rows] == [2, 3]
    assert all(0 < seconds < 600 for row in rows for seconds in row.values())


@pytest.mark.parametrize("runs", ["0", "-1", "x", "1,", "1e3", "²", "9" * 30])
def test_sizes_that_make_no_sense_are_one_sentence(cli: Cli, runs: str) -> None:
    refused = cli("bench", "store", "--runs", runs)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "allowed: numbers from 1 to 100000" in refused.err
