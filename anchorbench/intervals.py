"""95% intervals."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of `hits` in `n`; both may be effective numbers."""
    share, per = hits / n, Z * Z / n
    center = (share + per / 2) / (1 + per)
    half = Z * math.sqrt(share * (1 - share) / n + per / (4 * n)) / (1 + per)
    return (0.0 if hits == 0 else center - half), (1.0 if hits == n else center + half)


def half_width(error: float, n: int) -> float:
    """Half-width of the t-interval of a mean over `n` units with standard error `error`."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975)) * error


def mean_and_half_width(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean over two or more units, `values [n]`, and half-width of its t-interval."""
    x = np.asarray(values, float)
    return float(x.mean()), half_width(float(x.std(ddof=1) / np.sqrt(len(x))), len(x))
