"""What is said on a terminal, off one, and in the log file: talk goes to stderr, data to stdout."""

import functools
import os
import re
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer

from pipeline.environment import require_matching_torchvision
from pipeline.errors import RestoraError
from pipeline.train.guard import StopTraining

if TYPE_CHECKING:
    from pipeline.search.study import Progress

P = ParamSpec("P")
R = TypeVar("R")

PLAIN_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal to rewrite one."""


def carried_out(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn what a verb raises into a line on stderr and an exit code; a traceback only with --debug."""

    @functools.wraps(verb)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except (typer.Exit, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # whoever read stdout has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None  # type: ignore[return-value]
        except Exception as error:
            if os.environ.get("RESTORA_DEBUG"):
                traceback.print_exc()
            code, said = _outcome(error)
        print(said, file=sys.stderr)
        raise typer.Exit(code)

    return guarded


def _outcome(error: Exception) -> tuple[int, str]:
    """The exit code that an error ends in, and what is said of it."""
    if isinstance(error, RestoraError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, StopTraining):
        return error.exit_code, f"stopped: {error}; give the same command again"
    if isinstance(error, RuntimeError | ImportError) and "torchvision" in str(error):
        try:
            require_matching_torchvision()
        except RestoraError as mismatch:
            return _outcome(mismatch)
    if isinstance(error, OSError):
        return 4, f"error: {error}; mend it and give the same command again"
    return 1, f"error: {type(error).__name__}: {error}; this is a bug, restora --debug shows where"


class Console:
    """Says lines, and where a search stands; keeps both in a log file where one is given.

    Args:
        log: The file that lines are appended to.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._log = log
        self._started = time.monotonic()
        self._shown = float("-inf")
        self._status: Any = None

    def say(self, line: str) -> None:
        """One line that stays."""
        self._note(line)
        if self._status is not None:
            self._status.stop()
            self._status = None
        print(line, file=sys.stderr, flush=True)

    def show(self, name: str, progress: "Progress") -> None:
        """Where a combination stands: one line rewritten on a terminal, else a line every few seconds."""
        share = progress.done / progress.budget
        elapsed = time.monotonic() - self._started
        best = "none complete yet" if progress.best is None else f"best validation accuracy {progress.best:.4f}"
        line = (
            f"{name}: {progress.done}/{progress.budget} trials ({share:.0%}), {progress.running} running, epoch "
            f"{progress.epoch}, {best}, {elapsed:.0f} s"
        )
        over = time.monotonic() - self._shown > PLAIN_EVERY or progress.done == progress.budget
        if over:
            self._note(line)
        if sys.stderr.isatty():
            self._rewrite(line)
        elif over:
            print(line, file=sys.stderr, flush=True)
        if over:
            self._shown = time.monotonic()

    def _note(self, line: str) -> None:
        """Append to the log file, which is not held open: lines are few."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def _rewrite(self, line: str) -> None:
        from rich.console import Console as Terminal

        if self._status is None:
            self._status = Terminal(stderr=True).status(line)
            self._status.start()
        self._status.update(line)


def command_given() -> str:
    """The command that was given, without a password that a URL in it may hold."""
    words = [re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", word) for word in sys.argv[1:]]
    return shlex.join(["restora", *words])


def listing() -> dict[str, list[dict[str, str]]]:
    """Everything that a study file can name, and the study files in ``studies/``."""
    import tomllib

    from pipeline.registry import ADAPTERS, COMPRESSIONS, DATASETS, INITS, LOSSES, MODELS

    nouns = {
        "models": MODELS, "datasets": DATASETS, "compressions": COMPRESSIONS, "adapters": ADAPTERS, "inits": INITS,
        "losses": LOSSES,
    }  # fmt: skip
    table = {
        noun: [{"name": method.name, "summary": method.summary()} for method in registry]
        for noun, registry in nouns.items()
    }
    table["studies"] = []
    for path in sorted(Path("studies").glob("*.toml")):
        first = path.read_text().partition("\n")[0].removeprefix("#").strip()
        try:
            name = str(tomllib.loads(path.read_text()).get("name", path.stem))
        except tomllib.TOMLDecodeError as error:
            name, first = path.stem, f"not valid TOML: {error}"
        table["studies"].append({"name": name, "summary": first})
    return table


def size_text(count: float) -> str:
    """Bytes for people: ``46.8 kB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def plan_lines(table: dict[str, Any]) -> list[str]:
    """A plan in words."""
    parts = ", ".join(f"{name} {count}" for name, count in table["parts"].items())
    lines = [
        f"study {table['study']}: {table['trials']} trials; images: {parts}",
        f"baseline: {'ready' if table['trained_baseline'] else 'will be trained first'}, "
        f"{size_text(table['dense_bytes'])}",
        f"time: about {table['seconds'] / 60:.1f} min; memory: {size_text(table['memory_bytes'])}; "
        f"disk: {size_text(table['disk_bytes'])}",
    ]
    for combination in table["combinations"]:
        rank = "budget" if combination["allocation"] else "  rank"
        lines += [
            "",
            f"{combination['combination']}: {_count(combination['cells'], 'cell')}, "
            f"{_count(combination['trials'], 'trial')}, {_count(len(combination['layers']), 'layer')}, "
            f"about {combination['seconds'] / 60:.1f} min",
            f"  {combination['cache']['said']}" + _cache_text(combination["cache"]),
            "  trials in one pass: "
            + ", ".join(f"{lanes} of batch {batch}" for batch, lanes in combination["lanes"].items()),
            *_sizes_lines(combination, ready=table["trained_baseline"]),
            *_dense_lines(combination["ranks"][0]["dense"]),
            *_allocation_lines(combination["allocation"], ready=table["trained_baseline"]),
            f"  {rank}    trained       bytes   smaller   layers    macs",
        ]
        for plan in combination["ranks"]:
            lines.append(
                f"  {plan['rank'] or '-':>6} {plan['trainable']:>10} {plan['bytes']:>11}   {plan['ratio']:>6.2f}x "
                f"{plan['layer_ratio']:>7.2f}x {plan['macs_ratio']:>6.2f}x"
            )
            for name, rank in plan["clipped"].items():
                lines.append(f"       {name} takes rank {rank}")
            for name in plan["larger"]:
                lines.append(f"       {name}: the adapter is larger than the dense weight")
            if plan["spread"]:
                lines += _spread_lines(plan["spread"])
        if combination["scores"]:
            lines += _score_lines(combination["scores"])
    return lines


def _sizes_lines(combination: dict[str, Any], *, ready: bool) -> list[str]:
    text = "  sizes follow from the weights' values: those of the trained baseline will be others"
    return [text] if combination["sized_by_values"] and not ready else []


def _dense_lines(names: list[str]) -> list[str]:
    """The layers that do not become smaller."""
    text = f"stay dense, for they would not shrink, or are trained whole: {', '.join(names)}"
    return _wrapped(text, indent=2) if names else []


def _wrapped(text: str, indent: int) -> list[str]:
    own, further = " " * indent, " " * (indent + 2)
    return textwrap.wrap(text, 110, initial_indent=own, subsequent_indent=further, break_on_hyphens=False)


def _allocation_lines(allocation: dict[str, Any] | None, *, ready: bool) -> list[str]:
    if allocation is None:
        return []
    weights = "; compression loses nothing, so by the weights' own spectra" if allocation["spectra"] == "weight" else ""
    untrained = "" if ready else "; of the untrained model: ranks will differ once the baseline is trained"
    by = allocation["by"].replace("_", " ")
    return [f"  budgets are {allocation['unit']} of the whole adapter, spread over layers by {by}{weights}{untrained}"]


def _spread_lines(ranks: dict[str, int]) -> list[str]:
    """The rank of each layer, and which get no adapter."""
    taken = ", ".join(f"{name} {rank}" for name, rank in ranks.items() if rank)
    none = ", ".join(name for name, rank in ranks.items() if not rank)
    text = f"ranks: {taken}" + (f"; no adapter: {none}" if none else "")
    return _wrapped(text, indent=9)


def _score_lines(scores: dict[str, Any]) -> list[str]:
    """The cells as they start, the best first."""
    if not scores["cells"]:
        return ["  no cells to score: the adapter has neither rank nor init"]
    named = {f"rank {cell['rank']} {cell['init']}": cell for cell in scores["cells"]}
    wide = max(map(len, named))
    return [
        f"  before any training, every range at its middle ({scores['seconds']:.1f} s): accuracy on {scores['images']} "
        f"validation images,",
        f"  relative error of the layers' outputs on {scores['error_images']} training images",
        f"  {'cell':<{wide}}  accuracy  output error",
        *(f"  {name:<{wide}}  {cell['accuracy']:>8.4f}  {cell['output_error']:>12.4f}" for name, cell in named.items()),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _cache_text(cache: dict[str, Any]) -> str:
    if not cache["bytes"]:
        return ""
    if not cache["missing_bytes"]:
        return f"; {size_text(cache['bytes'])}, there already"
    missing, minutes = size_text(cache["missing_bytes"]), cache["seconds"] / 60
    return f"; {size_text(cache['bytes'])}, {missing} to build in {minutes:.1f} min"


def status_lines(table: list[dict[str, Any]]) -> list[str]:
    """A status in words."""
    lines = []
    for combination in table:
        wide = max(16, *(len(_cell_text(cell)) for cell in combination["cells"]))
        lines += [
            combination["combination"],
            f"  {'cell':<{wide}}  complete pruned failed running  budget  best (trial)",
        ]
        for cell in combination["cells"]:
            best = "-" if cell["best"] is None else f"{cell['best']:.4f} ({cell['trial']})"
            states = cell["states"]
            lines.append(
                f"  {_cell_text(cell):<{wide}}  {states['complete']:>8} {states['pruned']:>6} "
                f"{states['fail']:>6} {states['running']:>7} {cell['budget']:>7}  {best}"
                + ("  exhausted" if cell["exhausted"] else "")
            )
    return lines


def _cell_text(cell: dict[str, Any]) -> str:
    return f"rank {cell['rank']:<4} {cell['init']}"
