"""The axes of a sweep: paired fields and blocks, each run with its number; and bad ones in one sentence."""

import itertools
import random
from pathlib import Path

import pytest
from conftest import TINY, Cli, require_one_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorbench.cli.plan import load_sweep
from anchorbench.presets import PRESETS
from anchorbench.recipe import SEEDS
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.summary import conditions
from anchorbench.task import list_tasks
from anchorbench.train.stack import structure

BASE = TINY.override({"variant": "heldout-both"})
TEXT = """
preset: laptop
axes:
  init.gamma: [0.5, 0.7]
  zip: {model.n_layer: [2, 3], batch: [16, 8]}
  seed: 2
blocks:
  - {optimizer: {kind: lion, lr: 0.002}, axes: {seed: [5]}}
  - {optimizer: {kind: sgd}, axes: {optimizer.momentum: [0, 0.9], init.gamma: [0.6]}}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return load_sweep(path, ())


def test_paired_axes_and_blocks(sweep: Sweep) -> None:
    """Written out by hand: a block's axis replaces the common one of its name, in its place."""
    found = [
        (run.optimizer.kind, run.init.gamma, run.model.n_layer, run.batch, run.seed, getattr(run.optimizer, "momentum", None))
        for run in sweep.runs()
    ]
    lion = [("lion", gamma, *pair, 5, None) for gamma in (0.5, 0.7) for pair in ((2, 16), (3, 8))]
    sgd = [("sgd", 0.6, *pair, seed, m) for pair in ((2, 16), (3, 8)) for seed in (0, 1) for m in (0, 0.9)]
    assert found == lion + sgd
    assert {run.optimizer.lr for run in sweep.runs() if run.optimizer.kind == "lion"} == {0.002}
    assert set(sweep.fields) == {
        "init.gamma", "model.n_layer", "batch", "seed", "optimizer.kind", "optimizer.lr", "optimizer.momentum"
    }  # fmt: skip


VALUES = {"init.gamma": (0.5, 0.6, 0.7), "seed": (0, 1, 2), "model.n_layer,batch": ((2, 4), (3, 8)), "steps": (6, 7)}


@settings(max_examples=20)
@given(st.lists(st.sets(st.sampled_from(sorted(VALUES))), min_size=0, max_size=3), st.sets(st.sampled_from(sorted(VALUES))))
def test_every_run_is_found_by_its_number(blocks: list[set[str]], common: set[str]) -> None:
    made = Sweep(
        BASE, {name: VALUES[name] for name in sorted(common)}, tuple({name: VALUES[name][:2] for name in sorted(b)} for b in blocks)
    )
    assert {run_id: made.run(number).run_id for run_id, number in made.numbers().items()} == {
        run.run_id: run.run_id for run in made.runs()
    }
    beyond = next(number for number in itertools.count(max(made.numbers().values()) + 1) if not exists(made, number))
    with pytest.raises(ValueError, match=rf"^run number {beyond} does not exist; allowed: less than {beyond}$"):
        made.run(beyond)


def exists(made: Sweep, number: int) -> bool:
    """Numbers after the last new run may be of combinations that came before."""
    try:
        return made.run(number).run_id in made.numbers()
    except ValueError:
        return False


BAD = {
    "blocks: 3": "blocks is 3; allowed: a list of mappings",
    "blocks: [3]": "blocks is [3]; allowed",
    "blocks: [{}]": "blocks is [{}]; allowed",
    "blocks: [{optimizer.kind: sgd}]": "has the field 'optimizer.kind'; allowed: sections",
    "blocks: [{axes: 3}]": "axes is 3; allowed: a mapping",
    "blocks: [{stepz: 3}]": "did you mean 'steps'",
    "axes: {zip: 3}": "zip is 3; allowed: a mapping of at least two",
    "axes: {zip: {seed: [1, 2]}}": "allowed: a mapping of at least two",
    "axes: {zip: {seed: [1, 2], steps: [3]}}": "zip has 2 of seed, 1 of steps; allowed: as many values of each field",
    "axes: {zip: {seed: [1], steps: [3]}, seed: 3}": "axis seed is given twice; allowed: once",
    "axes: {'seed,steps': [[1]]}": "has the value [1]; allowed: one value per field",
    "axes: {'seed,steps': [1]}": "has the value 1; allowed: one value per field",
    "axes: {zip: {optimizer.intrinsic_lr: [1], seed: [1]}, optimizer.weight_decay: [1]}": "one of them",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_axes_are_one_sentence(cli: Cli, tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    refused = cli("sweep", "run", path, "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert BAD[text] in refused.err
    assert not (tmp_path / "out").exists()


def test_an_axis_of_the_command_line_that_blocks_set_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    refused = cli("sweep", "plan", path, "--axis", "optimizer.momentum=0.5")
    require_one_sentence(refused.err)
    assert "--axis is optimizer.momentum, which blocks of" in refused.err


def test_runs_that_differ_in_a_field_of_some_are_not_one_condition(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        def __init__(self, recipe: object) -> None:
            self.recipe = recipe

    found = conditions([Known(recipe) for recipe in sweep.runs()])  # pyright: ignore[reportArgumentType]
    assert len(found) == 4 + 4
    assert sorted(len(condition.runs) for condition in found) == [1] * 4 + [2] * 4


@settings(max_examples=60)
@given(
    st.sampled_from(["heldout-both", "heldout-pairs", "conflict"]),
    st.fixed_dictionaries({name: st.sampled_from([None, 0, 1, 7]) for name in SEEDS[1:]}),
    st.dictionaries(
        st.sampled_from(SEEDS), st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 2), min_size=1, max_size=3), min_size=1
    ),
    st.randoms(),
)
def test_runs_that_differ_in_seeds_have_the_ids_of_their_recipes(
    variant: str, own: dict[str, int | None], seeds: dict[str, list[int]], rng: random.Random
) -> None:
    """Wherever the seeds stand among the axes; the recipes are made one by one, from nothing."""
    axes = list({**seeds, "init.gamma": [0.5, 0.6]}.items())
    rng.shuffle(axes)
    base = TINY.override({"variant": variant, **own})
    sweep = Sweep(base, {path: tuple(values) for path, values in axes})
    numbers: dict[str, int] = {}
    for number, values in enumerate(itertools.product(*(values for _, values in axes))):
        numbers.setdefault(base.override(dict(zip(dict(axes), values, strict=True))).run_id, number)
    assert list(sweep.numbers().items()) == list(numbers.items())
    assert [recipe.run_id for recipe in sweep.runs()] == list(numbers)
    assert sweep.runs() == [sweep.run(number) for number in numbers.values()]
    assert sorted(run_id for group in sweep.groups() for run_id in set(group.ids)) == sorted(numbers)


@pytest.mark.parametrize("seed", [-1, 2**31, True, 1.5, "1", None])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed is"):
        Sweep(BASE, {"init.gamma": (0.5,), "seed": (1, seed)}).numbers()


@pytest.mark.parametrize(("task", "variant"), list_tasks())
def test_runs_of_one_condition_fit_in_one_stack(task: str, variant: str) -> None:
    """What a variant rotates over seeds changes no shape: plans ask for the structure of one run of each condition."""
    recipe = TINY.override({"task": task, "variant": variant})
    assert len({structure(recipe.with_seeds({"seed": seed})) for seed in range(14)}) == 1
