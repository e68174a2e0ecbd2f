"""The public names: the main job and its figures from Python."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import TINY

import anchorbench
from anchorbench.presets import PRESETS
from anchorbench.sweeps.make import Runs
from anchorbench.sweeps.runner import Sweep


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "laptop", TINY)
        return anchorbench.sweep(gamma=[0.5, 0.7], seeds=2, precision="fp32", out=tmp_path_factory.mktemp("api") / "sweep")


def test_a_sweep_is_its_runs_and_is_not_trained_again(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(run.recipe.init.gamma, run.recipe.seed) for run in runs] == [(0.5, 0), (0.5, 1), (0.7, 0), (0.7, 1)]
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    monkeypatch.setattr("anchorbench.sweeps.runner._train", None)
    again = anchorbench.sweep(gamma=[0.5, 0.7], seeds=2, precision="fp32", out=str(runs.out))
    assert [run.result for run in again] == [run.result for run in runs]
    whole = Sweep(runs[0].recipe, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})
    with pytest.raises(ValueError, match="steps given with a complete sweep; allowed: one or the other"):
        anchorbench.sweep(whole, out=runs.out, steps=3)


def test_its_frame_is_that_of_load_results(runs: Runs) -> None:
    expected = anchorbench.load_results(runs.out).set_index("run_id")
    frame = runs.frame()
    assert list(frame.run_id) == [run.result.run_id for run in runs]
    pd.testing.assert_frame_equal(frame.set_index("run_id"), expected.loc[list(frame.run_id)])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preset": "desktop"}, "unknown preset 'desktop'; allowed: laptop"),
        ({"seeds": 0}, "seeds is 0; allowed: 1 to"),
        ({"gamma": []}, "axis init.gamma has no values"),
        ({"precision": "fp8"}, "precision is 'fp8'; allowed: auto, fp32, bf16"),
        ({"gamma": [0.5], "axes": {"init.gamma": [0.7]}}, "axis init.gamma is given twice"),
        ({"task": "composit"}, "unknown task 'composit'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        anchorbench.sweep(**options, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_figures_are_drawn_on_my_axes(runs: Runs) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert anchorbench.plot_phase(runs, ax=left) is left
    assert anchorbench.plot_flow(runs[0], ax=right) is right
    lines = {line.get_label(): line.get_xydata() for line in left.get_lines()}
    seen = lines["trained pairs, unseen key and position (iid)"]
    expected = runs.frame().groupby("gamma").accuracy_iid.mean()
    np.testing.assert_allclose(seen, np.column_stack([expected.index, expected]))
    words = [text.get_text() for text in right.texts]
    assert words.count("?") == 1
    assert len(words) > 9
    plt.close(figure)


def test_figures_take_the_current_axes(runs: Runs) -> None:
    figure, axes = plt.subplots()
    assert anchorbench.plot_phase(runs) is axes
    plt.close(figure)


def test_a_phase_figure_of_two_conditions_says_which(runs: Runs) -> None:
    other = [run.model_copy(update={"recipe": run.recipe.override({"model.norm": "post"})}) for run in runs]
    with pytest.raises(ValueError, match="differ in more than gamma and seeds: pre-LN; post-LN; allowed: one of these at a time"):
        anchorbench.plot_phase([*runs, *other])
