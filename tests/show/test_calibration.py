"""The calibration figure: every graded model in its kind, and none that the widths were fitted on."""

from pathlib import Path
from typing import Any

from anchorbench.inspect.foreign import KINDS as ARCHITECTURES
from anchorbench.inspect.validation import CRADLE, WITHOUT_RULE, sweeps
from anchorbench.show import calibration
from anchorbench.show.calibration import KINDS, calibration_figure, kind_of


def row(holdout: str, forecast: float | None, *, fits: bool = True) -> dict[str, Any]:
    interval = {"low": None, "high": None} if forecast is None else {"low": forecast - 0.1, "high": forecast + 0.1}
    return {"holdout": holdout, "composed": 0.4, "forecast": forecast, "fits": fits, **interval}


def test_graded_models_are_counted_by_kind(tmp_path: Path) -> None:
    rows = [row("width-64", 0.5), row("relu", 0.3), row("post", 0.9), row("llama", 0.2), row("no-rule", 0.1)]
    rows += [row("cradle", 0.5), row("post", None), row("post", 0.4, fits=False)]
    text = calibration_figure(rows, tmp_path / "figure.svg").read_text()
    for kind, count in {"post-LN": 1, "other architectures": 1, "no rule to infer": 1}.items():
        assert f"{kind} ({count})" in text
    assert "... (2)" in text
    assert "other tasks" not in text


def test_every_holdout_has_its_kind() -> None:
    assert kind_of("no-rule") == kind_of("other-rule") == list(KINDS)[-1]
    names = {*sweeps(), *ARCHITECTURES}
    assert {*calibration.NORMS, *calibration.TASKS, *calibration.FOREIGN} <= names
    assert calibration.CRADLE == CRADLE
    assert calibration.WITHOUT_RULE == WITHOUT_RULE
    assert {name for name in names if sweeps().get(name) and sweeps()[name].base.model.norm == "post"} == {*calibration.NORMS}
    assert len({marker for _, marker in KINDS.values()}) == len({color for color, _ in KINDS.values()}) == len(KINDS)
