"""The calibration figure: every graded model in its kind, and none that the widths were fitted on."""

from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("holdout", "kind"),
    [("relu", 0), ("conflict-control", 0), ("post-decay", 1), ("random-permutations", 2), ("neox", 3), ("other-rule", 4)],
)
def test_the_kind_of_a_holdout(holdout: str, kind: int) -> None:
    assert kind_of(holdout) == list(KINDS)[kind]


def test_kinds_are_told_apart_in_greyscale() -> None:
    assert len({marker for _, marker in KINDS.values()}) == len({color for color, _ in KINDS.values()}) == len(KINDS)
