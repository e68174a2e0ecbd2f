"""Claims whose arms are sweeps: what all of them promise, and the helpers that read runs, by hand."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from claim_runs import require_findings, tiny
from pydantic import ValidationError
from trainings import quickly

from anchorbench.claim import SCALES, Experiment, Measure, Panel, Scale, Verdict, above, claims
from anchorbench.claims import arms
from anchorbench.claims.arms import Arms, ClaimOnArms, Found
from anchorbench.sweeps.lock import StackLock
from anchorbench.task import load_task

ON_ARMS = sorted(name for name, claim in claims.all.items() if issubclass(claim, ClaimOnArms))
SMALL = {
    "task": "identity",
    "model": {"d_model": 8, "d_head": 8, "d_ff": 8},
    "optimizer": {"warmup": 0},
    "batch": 4,
    "steps": 60,
    "data_size": 20,
}


class Toy(ClaimOnArms):
    """Two sizes of a data set."""

    scales: ClassVar[Mapping[Scale, Experiment]] = {}

    def read(self, runs: Mapping[str, Sequence[Any]]) -> Found:
        curve = arms.over_arms("accuracy", [1, 2], list(runs.values()), arms.accuracy)
        lines = [arms.over_steps(label, each, "accuracy_iid") for label, each in runs.items()]
        panels = [Panel(title="accuracy", x="arm", y="share", curves=[curve]), Panel(title="on the way", x="", y="", curves=lines)]
        return {"accuracy": arms.measure(runs["more data"], arms.accuracy)}, panels

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        return above(measures["accuracy"], 0)


SETTINGS = Arms(seeds=3, base=SMALL, arms={"less data": {"data_size": 10}, "more data": {}})


@pytest.fixture(autouse=True)
def _small_evaluations() -> Iterator[None]:
    with quickly():
        yield


# --- Every claim


@pytest.mark.parametrize("name", ON_ARMS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_is_a_training_that_could_start(name: str, scale: Scale) -> None:
    settings: Any = claims[name].scales[scale]
    for recipe in claims[name].recipes(settings):
        assert recipe.macs_per_step() > 0
        assert all(step <= recipe.steps for step in settings.keep_steps)
        task = recipe.load_task()
        assert all(len(task.sample(split, 10, 0)) == 10 for split in task.splits)


@pytest.mark.parametrize("name", ON_ARMS)
def test_a_tiny_version_runs(name: str) -> None:
    findings = tiny(name)
    require_findings(name, findings)
    assert findings.gradient
    for variant, fingerprint in findings.data.items():
        assert load_task(*variant.split("/")).fingerprint == fingerprint


# --- How they are run


def test_arms_are_paired_and_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    found = Toy(SETTINGS, tmp_path).run()
    assert found.passes == 2 * 3 * 60
    assert found.data == {"identity/default": load_task("identity").fingerprint}
    assert found.gradient.split()[0] in ("native", "backprop")
    assert found.earlier == 0
    assert {path.name for path in tmp_path.iterdir()} == {"less-data", "more-data"}
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    assert len(first) == 6
    shutil.rmtree(next(iter(first)).parent)
    again = Toy(SETTINGS, tmp_path).run()
    assert (again.measures, again.panels) == (found.measures, found.panels), "a resumed claim finds the same"
    assert sum(path.stat().st_mtime_ns == time for path, time in first.items()) == 5
    assert again.earlier > 0
    assert Toy(SETTINGS).run().measures == found.measures, "in a temporary folder as well"


def test_another_process_is_said(tmp_path: Path) -> None:
    recipe = SETTINGS.recipe("less data")
    toy = Toy(SETTINGS, tmp_path)
    toy.run()
    folder = tmp_path / "less-data"
    shutil.rmtree(folder / "runs" / recipe.run_id)
    lock = StackLock.acquire(folder / "locks" / "another", [recipe.run_id])
    assert lock is not None
    with lock, pytest.raises(ValueError, match=r"another process trains in .*less-data; allowed: one at a time in a folder"):
        toy.run()


def test_runs_of_another_recipe_are_refused(tmp_path: Path) -> None:
    Toy(SETTINGS, tmp_path).run()
    with pytest.raises(ValueError, match="belongs to another recipe"):
        Toy(SETTINGS.model_copy(update={"base": SMALL | {"batch": 5}}), tmp_path).run()


@pytest.mark.parametrize(
    ("machines", "sentence"),
    [
        (
            (("native (gcc)", "0.1"), ("backprop", "0.1")),
            "runs of 'arm' are trained by backprop and native; allowed: one gradient path",
        ),
        ((("native (gcc)", "0.1"), ("native (clang)", "0.2")), "runs are of anchorbench 0.1 and 0.2; allowed: one version"),
        ((("native (gcc)", "0.1"), ("native (clang)", "0.1")), None),
    ],
)
def test_runs_of_several_paths_or_versions_are_refused(machines: Sequence[tuple[str, str]], sentence: str | None) -> None:
    every = [
        SimpleNamespace(result=SimpleNamespace(machines=[(0, SimpleNamespace(gradient=gradient, anchorbench=version))]))
        for gradient, version in machines
    ]
    runs: Any = {"arm": every}
    if sentence is None:
        arms.require_alike(runs)
    else:
        with pytest.raises(ValueError, match=sentence):
            arms.require_alike(runs)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"arms": {"a": {"steps": 0}}}, "arm 'a': steps is 0"),
        ({"arms": {"a": {"stepz": 1}}}, "arm 'a': unknown field 'stepz'"),
        ({"arms": {"a b": {}, "a-b": {}}}, "allowed: labels whose letters and digits differ"),
        ({"arms": {}}, "at least 1"),
        ({"keep_steps": [0]}, "greater than or equal to 1"),
    ],
)
def test_arms_that_make_no_sense_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Arms.model_validate(SETTINGS.model_dump() | changed)


# --- What is read off runs


def run_of(points: Sequence[Mapping[str, Any]] = (), **result: Any) -> Any:
    return SimpleNamespace(trajectory=lambda: list(points), result=SimpleNamespace(**result))


def test_the_first_step_by_hand() -> None:
    """Halfway from .2 to .6, between steps 100 and 400: at their geometric mean, 200."""
    points = [{"step": 100, "loss": 2.0, "a": 0.2}, {"step": 400, "loss": 1.0, "a": 0.6}, {"step": 800, "loss": None, "a": 0.9}]
    assert arms.first_step("a", 0.4)(run_of(points)) == pytest.approx(200)
    assert arms.first_step("a", 0.1)(run_of(points)) == 100
    assert arms.first_step("a", 0.95)(run_of(points)) == 800
    assert arms.first_step("loss", 1.5, falls=True)(run_of(points)) == pytest.approx(200)
    assert arms.first_step("loss", 0.5, falls=True)(run_of(points)) == 400
    assert arms.crossing([10, 1000], [0, 1]) == pytest.approx(100)
    assert arms.highest("a")(run_of(points)) == 0.9


def test_shares_of_groups_are_pooled() -> None:
    share = SimpleNamespace
    run = run_of(groups={"a": share(hits=1, n=10), "b": share(hits=9, n=10)}, inferential=None)
    assert arms.of_group("a")(run) == pytest.approx(0.1)
    assert arms.of_group("a", "b")(run) == pytest.approx(0.5)
    assert arms.composed(run) == 0


def test_curves_are_over_seeds() -> None:
    points = [[{"step": 10, "x": 0.0, "groups": {"g": 0.1}}], [{"step": 10, "x": 1.0, "groups": {"g": 0.3}}]]
    runs = [run_of(each) for each in points]
    assert arms.over_steps("x", runs, "x").y == [0.5]
    assert arms.over_steps("x", runs, "groups.g").y == pytest.approx([0.2])
    curve = arms.over_arms("x", [1, 2], [runs, runs[::-1]], lambda run: run.trajectory()[0]["x"], share=False)
    assert (curve.x, curve.y) == ([1, 2], [0.5, 0.5])
    assert np.isclose(curve.high[0] - 0.5, 12.706 * 0.5, rtol=1e-3), "Student's interval of two"
