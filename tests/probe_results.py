"""What the result of any probe must be."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from anchorbench.probes import Result, Score


def require_result(result: Result) -> None:
    scores = result.scores()
    assert scores
    for name, score in scores.items():
        assert isinstance(score, Score)
        assert np.isfinite(score).all(), name
        assert score.low <= score.value <= score.high, name
    assert result.does_not_show.endswith(".")
    assert result.does_not_show.count(". ") == 0
    with pytest.raises(FrozenInstanceError):
        result.does_not_show = ""  # type: ignore[misc]


def require_figure(size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """It draws on a figure and on a part of one, says what its axes are, and cuts no words off."""
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    draw(figure)
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    assert figure.axes
    for axes in figure.axes:
        if axes.get_visible():
            assert axes.get_title() or axes.get_xlabel() or axes.get_ylabel()
            box = axes.get_tightbbox()
            assert -1 <= box.x0 < box.x1 <= width + 1
            assert -1 <= box.y0 < box.y1 <= height + 1
    draw(Figure(figsize=(size[0] * 2, size[1]), layout="constrained").subfigures(1, 2)[0])
