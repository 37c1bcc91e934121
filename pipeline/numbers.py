"""Wilson's interval, the Pareto front and the time that spans cover; plain Python, so that tables need no torch."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy ``p = correct / n`` (Wilson 1927).

    ``(p + z²/2n ± z sqrt(p (1 - p) / n + z²/4n²)) / (1 + z²/n)``, with ``z`` the 97.5 % quantile of the normal.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}; give n of 1 or more, and correct from 0 to n")
    p = correct / n
    centre = p + Z**2 / (2 * n)
    half_width = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


def far_from_uniform(largest: int, images: int, classes: int) -> bool:
    """Whether the largest class has more than 1.5 times its equal share of the images: 15 % of 10 classes, 75 % of 2.

    An accuracy has to be read beside this share, which a model reaches that always answers the largest class. A share
    whose 95 % interval holds the equal one may be chance, as in a few images, and is not far from it.
    """
    return largest * classes > 1.5 * images and wilson(largest, images)[0] * classes > 1


def pareto_front(points: Sequence[tuple[int, float]]) -> list[int]:
    """Indices of the points ``(bytes, accuracy)`` that no other point beats, by ascending bytes.

    A point beats another if it is at most as large and at least as accurate, and not equal to it. Equal points all
    stay.

    >>> pareto_front([(10, 0.9), (20, 0.8), (5, 0.7)])
    [2, 0]
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def covered_seconds(spans: Iterable[tuple[datetime, datetime]]) -> float:
    """Seconds that lie in at least one of the spans, each from a start to an end."""
    total, until = 0.0, datetime.min
    for start, end in sorted(spans):
        total += max((end - max(start, until)).total_seconds(), 0.0)
        until = max(until, end)
    return total
