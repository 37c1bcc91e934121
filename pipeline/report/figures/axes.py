"""Axes that show what differs."""

import math
from collections.abc import Iterable
from typing import Any

STEPS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""Where ticks of a logarithmic axis may stand within a decade, from sparse to dense."""


def log_axis(values: Iterable[float], *, reverse: bool = False) -> dict[str, Any]:
    """Range and ticks of a logarithmic axis around positive ``values``; at least four ticks, however near they are."""
    values = list(values)
    low, high = min(values) / 1.12, max(values) * 1.12
    ends = [math.log10(low), math.log10(high)]
    return {"type": "log", "range": ends[::-1] if reverse else ends, "tickvals": log_ticks(low, high)}


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis from ``low`` to ``high``, at least four; evenly spaced where the two are near."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for step in STEPS:
        ticks = [float(f"{m * 10.0**d:.9g}") for d in decades for m in step if low <= m * 10.0**d <= high]
        if len(ticks) >= 4:
            return ticks
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Round ticks from ``low`` to ``high``: four to ten."""
    rough = (high - low) / 4
    exponent = math.floor(math.log10(rough))
    step = max(each * 10.0**exponent for each in (0.5, 1, 2, 5) if each * 10.0**exponent <= rough)
    return [round(n * step, 1 - exponent) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def whole_steps(last: int) -> dict[str, int]:
    """Ticks of an axis that counts up to ``last``: round whole numbers, seven at most."""
    decade = 10 ** math.floor(math.log10(max(1, last / 6)))
    return {"tick0": 0, "dtick": next(step * decade for step in (1, 2, 5, 10) if step * decade * 6 >= last)}
