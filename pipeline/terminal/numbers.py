"""Numbers as people read them."""


def size_text(count: float) -> str:
    """Bytes for people: ``46.8 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def duration_text(seconds: float) -> str:
    """Seconds for people: ``8 s``, ``2 min 05 s``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = round(seconds)
    for large, small, unit, part in ((86_400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large} {unit} {whole % large // small:02} {part}"
    return f"{whole} s"


def count_text(number: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number:,} {noun}" + "s" * (number != 1)
