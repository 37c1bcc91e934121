"""How numbers and names are written for people: sizes, durations, percentages, ranks, inits and cells.

Every other module takes its words from here, so that the page, the terminal, the log and the notes agree.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.cell import UNRANKED

SIZES = ("B", "kB", "MB", "GB", "TB")
DURATIONS = (("d", "h", 24, 3600), ("h", "min", 60, 60), ("min", "s", 60, 1))
"""A unit, the next smaller unit, how many of these it has, and the seconds of the smaller one."""
NO_BREAK = "\N{NO-BREAK SPACE}"
NOTHING = "-"
"""Stands for a rank or an init in tables where an adapter has none."""


def unbroken(text: str) -> str:
    """The text with spaces at which no line breaks."""
    return text.replace(" ", NO_BREAK)


def printable(name: object) -> str:
    r"""A name with an escape for each character that cannot be printed, such as bytes that are no UTF-8.

    >>> print(printable("caf\udce9\n"))
    caf\xe9\n
    """
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in str(name))


def _escape(letter: str) -> str:
    byte = ord(letter) - 0xDC00  # how Python holds a byte of a file name that is no UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()


def listed(names: Iterable[str]) -> str:
    """Names as a phrase; at least one.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def as_written(options: Mapping[str, Any]) -> str:
    """Options as a study file has them.

    >>> as_written({"metric": "weight", "clip": True})
    'metric = "weight", clip = true'
    """
    return ", ".join(f"{option} = {json.dumps(value)}" for option, value in options.items())


def few(names: Sequence[str], most: int = 5) -> str:
    """Names as a phrase, of which those beyond ``most`` are only counted; at least one.

    >>> few(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    return listed(names if len(names) <= most else [*names[:most], f"{len(names) - most} more"])


def quoted(names: Iterable[str], most: int = 10) -> str:
    """Names in quotes as a phrase, at least one; those after ``most`` are counted.

    >>> quoted("abcd", most=2)
    "'a', 'b' and 2 more"
    """
    every = list(names)
    more = [f"{len(every) - most:,} more"] if len(every) > most else []
    return listed([*(f"'{printable(name)}'" for name in every[:most]), *more])


def of_combinations(names: Iterable[str]) -> str:
    """The combinations of these names, at least one.

    >>> of_combinations(["a"]), of_combinations(["a", "b"])
    ("combination 'a'", "combinations 'a' and 'b'")
    """
    every = list(names)
    return f"combination{'s' * (len(every) > 1)} {quoted(every)}"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "trial"), counted(2000, "trial")
    ('1 trial', '2,000 trials')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def readable_bytes(count: float, digits: int = 3) -> str:
    """A size in decimal units, rounded to ``digits`` significant digits.

    >>> readable_bytes(1050000)
    '1.05 MB'
    """
    power = 0
    while power < len(SIZES) - 1 and float(f"{count / 1000**power:.{digits}g}") >= 1000:
        power += 1
    number = count / 1000**power
    return f"{number:.{digits}g} {SIZES[power]}" if number < 1000 else f"{number:,.0f} {SIZES[power]}"


def size(count: int | None) -> str:
    """A size in bytes in which no line breaks; empty for None."""
    return "" if count is None else unbroken(readable_bytes(count))


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> [duration(seconds) for seconds in (5.2, 56, 200, 7500, 273600)]
    ['5.2 s', '56 s', '3 min 20 s', '2 h 5 min', '3 d 4 h']
    """
    if seconds < 59.5:
        return f"{round(seconds, 1):.2g} s"
    for unit, small, parts, least in DURATIONS:
        whole, rest = divmod(round(seconds / least), parts)
        if whole:
            return f"{whole} {unit}" + (f" {rest} {small}" if rest else "")
    raise ValueError(f"a duration is a number of seconds, not {seconds}")


def formatted(value: float | None, form: str) -> str:
    """A number in a format of Python's ``format``; empty for None."""
    return "" if value is None else format(value, form)


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1 in percent, without the sign; empty for None.

    >>> percent(0.954)
    '95.40'
    """
    return "" if share is None else f"{100 * share:.{digits}f}"


def percent_with_interval(share: float | None, low: float | None, high: float | None) -> str:
    """A share of 1 and its interval in percent; empty for None.

    >>> percent_with_interval(0.954, 0.9392, 0.9653)
    '95.40 (93.92 to 96.53)'
    """
    return "" if share is None else f"{percent(share)} ({percent(low)} to {percent(high)})"


def seed_count(trained: int, failed: int) -> str:
    """How many seeds a mean is over.

    >>> seed_count(3, 0), seed_count(2, 1)
    ('3 seeds', '2 of 3 seeds')
    """
    return f"{trained} of {trained + failed} seeds" if failed else counted(trained, "seed")


def percent_with_spread(mean: float | None, deviation: float | None, seeds: int, failed: int) -> str:
    """Mean and standard deviation over seeds in percent; empty for a single seed.

    >>> percent_with_spread(0.9531, 0.0012, 2, 1)
    '95.31 ± 0.12 (2 of 3 seeds)'
    """
    count = seed_count(seeds, failed)
    if mean is None or deviation is None:
        return count if failed else ""
    return f"{percent(mean)} ± {percent(deviation)} ({count})"


def rank_value(rank: int, unit: str | None = None, *, short: bool = False) -> str:
    """A rank, or the budget that stands for it. ``short`` leaves out the unit ``parameters``.

    >>> rank_value(8), rank_value(20_000, "bytes"), rank_value(5000, "parameters"), rank_value(0)
    ('8', '20 kB', '5,000 parameters', '-')
    """
    if rank == 0:
        return NOTHING
    if unit == "bytes":
        return readable_bytes(rank, digits=6)
    if unit is None:
        return str(rank)
    return f"{rank:,}" if short else f"{rank:,} {unit}"


def rank_name(rank: int, unit: str | None = None) -> str:
    """A rank with its noun; ``unit`` is what a budget counts that an allocation spreads over the layers.

    >>> rank_name(8), rank_name(20_000, "bytes"), rank_name(0)
    ('rank 8', 'budget 20 kB', 'no ranks')
    """
    return f"{'budget' if unit else 'rank'} {rank_value(rank, unit)}" if rank else "no ranks"


def init_name(init: str, absent: str = "no init") -> str:
    """The name of an init; ``absent`` for an adapter that has none."""
    return absent if init == UNRANKED else init


def cell_name(rank: int, init: str, unit: str | None = None) -> str:
    """A cell of a combination.

    >>> cell_name(8, "svd"), cell_name(0, "none")
    ('rank 8, svd', 'no ranks')
    """
    return f"{rank_name(rank, unit)}, {init_name(init)}" if rank else rank_name(rank)
