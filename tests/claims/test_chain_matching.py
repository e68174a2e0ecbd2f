"""When the edges of a chain are matched."""

from types import SimpleNamespace
from typing import Any

import pytest

from anchorbench.claims.chain_matching import doublings


@pytest.mark.parametrize(
    ("shares", "steps"), [((0.1, 0.5, 0.9), 20), ((0.1, 0.2, 0.3), 40), ((0.6, 0.7, 0.9), 10), ((0.1, 0.3, 0.7), 28.2843)]
)
def test_the_steps_to_half_by_hand(shares: tuple[float, ...], steps: float) -> None:
    points = [{"step": step, "accuracy_iid": share} for step, share in zip((10, 20, 40), shares, strict=True)]
    run: Any = SimpleNamespace(trajectory=lambda: points, recipe=SimpleNamespace(steps=40))
    assert 2 ** doublings("accuracy_iid")(run) == pytest.approx(steps, rel=1e-4)
