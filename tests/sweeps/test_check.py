"""`anchorbench check`: an honest run holds in every part, each kind of lie is found, and another machine proves nothing."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Cli, require_one_sentence, sign
from safetensors.torch import load_file, save_file

from anchorbench.recipe import parse_recipe
from anchorbench.sweeps.check import check
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.train.execution import Execution

SWEEP = Sweep(TINY.override({"variant": "heldout-both", "data_size": 200}), {"seed": (0, 1)})
KEPT = (2, 5)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a stack of two, with kept steps."""
    out = tmp_path_factory.mktemp("check") / "out"
    return run_sweep(SWEEP, SweepFolder(out, SWEEP), how=Execution(keep_steps=KEPT))[1].path


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / honest.name))


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    sign(folder)


def nudge(folder: Path, name: str, parameter: str) -> None:
    """The smallest change of one weight."""
    change_file(folder, name, lambda tensors: tensors[parameter].view(-1)[:1].nextafter_(torch.tensor(math.inf)))


def change_file(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    sign(folder)


def found(folder: Path, steps: int = 100) -> dict[str, bool | None]:
    """What was checked, with the steps that were trained again -> whether it holds."""
    findings = check(folder, steps)
    return {
        finding.what + (f" {finding.why.split(',')[0].split(' were')[0]}" if finding.what == "training" else ""): finding.holds
        for finding in findings
    }


PARTS = ("training steps 0 to 2", "training steps 2 to 5", "training steps 5 to 6")
HOLDS = dict.fromkeys(("files", "recipe", "initial weights", *PARTS, "answers"), True)


def test_an_honest_run_holds(honest: Path) -> None:
    assert found(honest) == HOLDS


def test_as_many_steps_are_trained_as_were_allowed(honest: Path) -> None:
    """The shortest parts first; what is left is said to be unknown."""
    unknown = {"training steps 0 to 2": None, "training steps 2 to 5": None}
    assert found(honest, steps=1) == HOLDS | unknown
    assert found(honest, steps=5) == HOLDS | {"training steps 2 to 5": None}
    [last] = [finding for finding in check(honest, 5) if finding.holds is None]
    assert "--steps 6 would" in last.why


LIES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "final weights": (lambda run: nudge(run, "weights.safetensors", "unembedding.weight"), {"training steps 5 to 6"}),
    "weights at a kept step": (
        lambda run: nudge(run, "weights-2.safetensors", "token_embedding"),
        {"training steps 0 to 2", "training steps 2 to 5"},
    ),
    "state at a kept step": (
        lambda run: change_file(run, "state-5.safetensors", lambda state: state["optimizer.exp_avg"].mul_(2)),
        {"training steps 5 to 6"},
    ),
    "step 0": (
        lambda run: edit(run, "result.json", lambda result: result["initial"].update(token_embedding="0" * 64)),
        {"initial weights"},
    ),
    "a parameter more": (
        lambda run: edit(run, "result.json", lambda result: result["initial"].update({"a\x1b[31m": "0" * 64})),
        {"initial weights"},
    ),
    "a share": (lambda run: edit(run, "result.json", lambda result: result.update(accuracy_iid=[999, 1000])), {"answers"}),
    "the verdict": (lambda run: edit(run, "result.json", lambda result: result.update(verdict="inferential")), {"answers"}),
    "the run's id": (lambda run: edit(run, "result.json", lambda result: result.update(run_id="0" * 16)), {"recipe"}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_where_it_is(copy: Path, lie: str) -> None:
    change, fails = LIES[lie]
    change(copy)
    assert found(copy) == HOLDS | dict.fromkeys(fails, False)


@pytest.mark.parametrize(
    ("field", "value", "fails"),
    [
        ("seed", 7, {"initial weights", *PARTS, "answers"}),
        ("optimizer.lr", 0.0011, set(PARTS)),
    ],
)
def test_another_recipe_in_its_place_is_found(copy: Path, field: str, value: float, fails: set[str]) -> None:
    recipe = parse_recipe(json.loads((copy / "recipe.json").read_text())).override({field: value})
    (copy / "recipe.json").write_text(recipe.model_dump_json())
    edit(copy, "result.json", lambda result: result.update(run_id=recipe.run_id))
    assert found(copy) == HOLDS | dict.fromkeys(fails, False)


def test_what_differs_on_another_machine_proves_nothing(copy: Path) -> None:
    nudge(copy, "weights.safetensors", "unembedding.weight")
    edit(copy, "result.json", lambda result: result["machines"][0][1].update(cpu="Another"))
    assert found(copy) == HOLDS | {"training steps 5 to 6": None}
    [unknown] = [finding for finding in check(copy, 100) if finding.holds is None]
    assert "results may differ in the last bits here (cpu Another there and" in unknown.why


def test_the_command_prints_a_line_per_finding(honest: Path, copy: Path, cli: Cli) -> None:
    fine = cli("check", honest)
    assert (fine.code, fine.err) == (0, "")
    assert [line.split()[0] for line in fine.out.splitlines()] == ["holds"] * len(HOLDS)
    nudge(copy, "weights.safetensors", "unembedding.weight")
    failed = cli("check", copy)
    assert failed.code == 1
    edit(copy, "result.json", lambda result: result["initial"].update({"a\x1b[31m": "0" * 64}))
    assert "\x1b" not in cli("check", copy).out
    assert "FAILS    training: steps 5 to 6, retrained, end with a different unembedding.weight" in failed.out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "weights.safetensors").write_bytes(b""), "is damaged"),
        (lambda run: (run / "result.json").unlink(), "missing"),
        (lambda run: nothing_fits(run, "weights-2.safetensors"), "do not fit its recipe"),
        (lambda run: nothing_fits(run, "state-2.safetensors"), "do not fit its recipe"),
        (lambda run: nothing_fits(run, "weights.safetensors"), "do not fit its recipe"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_sentence(copy: Path, cli: Cli, spoil: Callable[[Path], object], said: str) -> None:
    spoil(copy)
    refused = cli("check", copy)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert said in refused.err


def nothing_fits(run: Path, name: str) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        for parameter, tensor in list(tensors.items()):
            tensors[parameter] = tensor.flatten()[:3].clone()

    change_file(run, name, shrink)


def test_a_crafted_list_of_machines_is_no_traceback(copy: Path) -> None:
    """Training that begins nowhere: its first machine is held against what differs."""
    nudge(copy, "weights.safetensors", "unembedding.weight")
    edit(copy, "result.json", lambda result: result["machines"][0].__setitem__(0, 6))
    assert found(copy) == HOLDS | {"training steps 5 to 6": False}
