"""The looks of verdicts and measures: apart for colour-blind readers and in greyscale, and readable on light and dark pages."""

import itertools

import numpy as np
import pytest

from anchorbench.palette import MEASURES, PARTS, SOFT, TEXT, VERDICTS, Look, css

DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
"""Matrices for linear RGB (Machado, Oliveira and Fernandes, 2009)."""
WHITE, DARK = "#ffffff", "#16181a"


def linear(color: str) -> np.ndarray:
    """Linear RGB of a colour such as #0072b2."""
    values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def lightness(color: str) -> float:
    """L* of CIELAB, for colours that are not nearly black."""
    return 116 * max(luminance(color), 0.009) ** (1 / 3) - 16


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def together() -> list[list[Look]]:
    """Looks that occur in one figure: those of either question that a task may ask, and the measures."""
    composition = [VERDICTS[name] for name in ("memorizing", "underfit", "inferential", "mixed")]
    exception = [VERDICTS[name] for name in ("symmetric", "underfit", "inferential", "other")]
    return [composition, exception, list(MEASURES.values())]


def test_contrast_by_hand() -> None:
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#767676", WHITE) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("looks", together())
def test_they_are_apart(looks: list[Look]) -> None:
    """In greyscale at least 6 units of lightness, for any eye at least 12 units of CIELAB; and never by colour alone."""
    for a, b in itertools.combinations(looks, 2):
        assert a.marker != b.marker or a.line != b.line
        for one, other in ((a.color, b.color), (a.dark, b.dark)):
            if looks is not together()[2] and {a, b}.isdisjoint(MEASURES.values()):
                assert abs(lightness(one) - lightness(other)) >= 6, (one, other)
            for eye in (np.eye(3), DEUTERANOPIA, PROTANOPIA, TRITANOPIA):
                seen = [lab(np.clip(np.array(eye) @ linear(color), 0, 1)) for color in (one, other)]
                assert np.linalg.norm(seen[0] - seen[1]) >= 12, (one, other)


def test_they_can_be_read() -> None:
    """Marks 3:1, text 4.5:1."""
    for look in (*VERDICTS.values(), *MEASURES.values()):
        assert contrast(look.color, WHITE) >= 3
        assert contrast(look.dark, DARK) >= 4.5
    for color, dark in PARTS.values():
        assert contrast(color, WHITE) >= 4.5
        assert contrast(dark, DARK) >= 4.5
    for verdict, look in VERDICTS.items():
        assert contrast(look.color, TEXT if verdict in ("mixed", "other") else WHITE) >= 4.5
    assert contrast(SOFT, WHITE) >= 4.5


def test_pages_have_them_all() -> None:
    text = css()
    for name, look in VERDICTS.items():
        assert text.count(f"--{name}: {look.color};") == 1
        assert text.count(f"--{name}: {look.dark};") == 1
