"""Parts of a benchmark: each measures something, and gives figures and rows of a table."""

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.sizes import Sizes


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Measure in a new process, whose memory and threads nothing else uses."""
    print(f"  {measure.__name__}{arguments} ...", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def listed(values: dict[str, float], form: str = ",.0f") -> str:
    """Values by key in one line."""
    return ", ".join(f"{key}: {value:{form}}" for key, value in values.items())


@dataclass(frozen=True)
class Setup:
    """What is measured, and how.

    Args:
        sizes: How much is trained.
        data: The folder that holds ``MNIST/raw``.
        measure: Calls a measuring function with its arguments.
    """

    sizes: Sizes
    data: Path
    measure: Callable[..., Any] = alone


@dataclass(frozen=True)
class Measured:
    """The result of one part.

    Args:
        figures: The figures, by key.
        counted: What exactly some figures count, by key.
        rows: Rows of the printed table: what was measured, and its value.
    """

    figures: dict[str, Any]
    counted: dict[str, str]
    rows: list[tuple[str, str]]


Part = Callable[[Setup], Measured]


def run_parts(setup: Setup, parts: Sequence[Part], file: Path | None, quick: bool) -> list[str]:
    """Measure the parts in turn, and print the table of those that are done even if the script is stopped.

    Args:
        setup: What is measured, and how.
        parts: The parts.
        file: Where all figures so far are written after each part; None writes no file.
        quick: Whether the sizes are those of ``--quick``; written beside the figures.

    Returns:
        The names of the parts that failed; their tracebacks are printed.
    """
    found: dict[str, Any] = {"quick": quick, "cores": os.cpu_count(), "counted": {}}
    rows, failed = [("what", "measured"), ("---", "---")], []
    try:
        for part in parts:
            try:
                measured = part(setup)
            except Exception:
                traceback.print_exc()
                failed.append(part.__name__)
                continue
            found |= measured.figures
            found["counted"] |= measured.counted
            rows += measured.rows
            if file:
                file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    finally:
        print("\n".join(f"| {what} | {value} |" for what, value in rows))
    return failed
