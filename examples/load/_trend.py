"""Whether a series grows: the slope of Theil and Sen, with its confidence.

The slope is the median of the slopes between all pairs of points, so a few outliers do not change
it. Its interval and the confidence come from Kendall's test, which asks of how many pairs the later
point is the higher one. Neighbouring readings of memory depend on each other, which the test does
not know of; so the series is first cut into blocks, and the median of each block is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import NormalDist, median

BLOCKS = 24
LEAST_BLOCKS = 6
"""With fewer points no growth is called certain."""
CONFIDENCE = 0.95
"""Of the interval `low` to `high`."""


@dataclass(frozen=True)
class Trend:
    """How a series grows, per second."""

    slope: float
    low: float
    high: float
    confidence: float
    """That it grows at all: 0.5 is a toss-up, near 1 is certain, near 0 is certain to fall."""
    seconds: float
    """What the points span."""


def block_medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Cut points (seconds, value) into `BLOCKS` of equal length; give the median of each."""
    count = min(BLOCKS, len(points))
    cuts = [round(number * len(points) / count) for number in range(count + 1)]
    blocks = [points[low:high] for low, high in pairwise(cuts)]
    return [(median(x for x, _ in block), median(y for _, y in block)) for block in blocks]


def find_trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Give the trend of points (seconds, value) in the order of time; None: too few of them."""
    if len(points) < LEAST_BLOCKS:
        return None
    blocks = block_medians(points)
    pairs = list(combinations(blocks, 2))
    slopes = sorted((y - y0) / (x - x0) for (x0, y0), (x, y) in pairs)
    score = sum((slope > 0) - (slope < 0) for slope in slopes)
    count = len(blocks)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * deviation
    low = max(0, math.floor((len(slopes) - reach) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + reach) / 2))
    # One step towards zero: the score moves in steps, the normal distribution does not.
    corrected = score - ((score > 0) - (score < 0))
    return Trend(
        slope=median(slopes),
        low=slopes[low],
        high=slopes[high],
        confidence=NormalDist().cdf(corrected / deviation),
        seconds=blocks[-1][0] - blocks[0][0],
    )
