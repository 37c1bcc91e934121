"""Sizes, durations and counts as people read them."""

SIZES = ("B", "kB", "MB", "GB", "TB")
DURATIONS = (("d", "h", 24, 3600), ("h", "min", 60, 60), ("min", "s", 60, 1))
"""A unit, the smaller one that it has so many of, and the seconds of that."""


def readable_bytes(count: float, digits: int = 3) -> str:
    """``1050000`` -> ``1.05 MB``; decimal units."""
    power = 0
    while power < len(SIZES) - 1 and float(f"{count / 1000**power:.{digits}g}") >= 1000:
        power += 1
    number = count / 1000**power
    return f"{number:.{digits}g} {SIZES[power]}" if number < 1000 else f"{number:,.0f} {SIZES[power]}"


def duration(seconds: float) -> str:
    """``5.2 s``, ``56 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 59.5:
        return f"{round(seconds, 1):.2g} s"
    for unit, small, parts, least in DURATIONS:
        whole, rest = divmod(round(seconds / least), parts)
        if whole:
            return f"{whole} {unit}" + (f" {rest} {small}" if rest else "")
    raise ValueError(f"a duration is a number of seconds, not {seconds}")


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
