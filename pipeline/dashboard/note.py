"""The notes that optuna-dashboard shows beside a study, in Markdown."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.results.combination_result import CellResult, CombinationResult, Score, latest_run
from pipeline.results.comparison import cell_recovery, compared_part, winner_accuracy
from pipeline.wording import NOTHING, cell_name, counted, init_name, listed, percent, size

LINE = "*What you write below this line is kept.*"
PARTS = {"train": "training", "val": "validation", "test": "test"}
SPACE = "\u2003"
"""Separates the columns of tables, which the dashboard shows without any space between them."""
LONGEST = 100
"""The most characters of a method's options or of a reason."""


def renewed(before: str, text: str) -> str:
    """A note with a new text above ``LINE``. What a user wrote below stays; a note without ``LINE`` is a user's."""
    _, found, theirs = before.partition(LINE)
    below = theirs if found else before and f"\n\n{before}"
    return f"{text}\n\n---\n{LINE}{below}"


def combination_note(result: CombinationResult) -> str:
    """Methods, results and progress of a combination."""
    pinned, task = result.facts["pinned"], result.facts.get("task", {})
    method = pinned.get("combination", {})
    inits = listed(dict.fromkeys(_plain(init_name(cell.cell.init, NOTHING)) for cell in result.cells))
    layers = counted(result.facts["targets"], "layer") if "targets" in result.facts else "layers"
    what = f"**{_plain(result.name)}** of study **{_plain(result.of)}**"
    methods = [
        f"- Task: {_task(task)}",
        f"- Compression: {_method(method.get('compression'))} of {layers} ({_targets(method.get('targets'))})",
        f"- Adapter: {_method(method.get('adapter'))}; inits: {inits}",
    ]
    return "\n\n".join([what, "\n".join(methods), _table([result]), *_progress([result]), *_commands([result])])


def study_note(results: Sequence[CombinationResult]) -> str:
    """Results and progress of a whole study: the note of its summary study."""
    task = results[0].facts.get("task", {})
    what = (
        f"**{_plain(results[0].of)}**: the best trial of each cell (rank and init) of "
        f"{counted(len(results), 'combination')}, {results[0].metric} against bytes"
    )
    how = (
        "All trials of a combination are in its own study. Former best trials appear here as pruned; "
        "`superseded_by` is the number of the better trial."
    )
    return "\n\n".join([what, f"Task: {_task(task)}", how, _table(results), *_progress(results), *_commands(results)])


def _table(results: Sequence[CombinationResult]) -> str:
    """The original model, then per combination the compressed-only model and the best trial of each rank."""
    several = len(results) > 1
    part = compared_part(results)
    first, metric = results[0], results[0].metric
    recovered = f"recovered on {PARTS[part]} (%)"
    names = [f"validation {metric} (%)", f"test {metric} (%)", "size", "times smaller", recovered, "trial"]
    head = ["", *(f"{SPACE}{name}" for name in names)]
    rows = [_row("original", _scored(first.baseline), first.facts["dense_bytes"], 1.0)]
    for result in results:
        prefix = f"{_plain(result.name)}: " if several else ""
        dense, small = result.facts["dense_bytes"], result.facts["compressed_bytes"]
        rows.append(_row(f"{prefix}compressed only", _scored(result.compressed), small, dense / small))
        for cell in sorted(result.best_of_ranks().values(), key=lambda cell: cell.cell.rank):
            rows.append(_cell_row(prefix, result, cell, part))
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell_row(prefix: str, result: CombinationResult, cell: CellResult, part: str) -> list[str]:
    if cell.best is None:
        raise ValueError(f"{cell.cell} has no complete trial")
    facts = cell.best.user_attrs
    scores = percent(cell.best.value), percent(winner_accuracy(cell, "test"))
    recovered = percent(cell_recovery(result, cell, part), 1)
    return _row(
        f"{prefix}{_cell(result, cell)}", scores, facts["bytes"], facts["ratio"], recovered, str(cell.best.number)
    )


def _cell(result: CombinationResult, cell: CellResult) -> str:
    rank, init = cell.cell.rank, cell.cell.init
    return _plain(cell_name(rank, init, result.budget_unit)) if rank else "best"


def _row(
    name: str, scores: tuple[str, str], taken: int, ratio: float, recovered: str = "", trial: str = ""
) -> list[str]:
    return [name, *(f"{SPACE}{cell}" for cell in (*scores, size(taken), f"{ratio:.2f}", recovered, trial))]


def _scored(scores: Mapping[str, Score]) -> tuple[str, str]:
    val, test = (percent(scores[part].accuracy) if part in scores else "" for part in ("val", "test"))
    return val, test


def _progress(results: Sequence[CombinationResult]) -> list[str]:
    """How far the searches are, and what failed."""
    cells = [cell for result in results for cell in result.cells]
    seen = {
        state: sum(cell.tally.states[state] for cell in cells) for state in ("complete", "pruned", "fail", "running")
    }
    done, budget = seen["complete"] + seen["pruned"], sum(cell.budget for cell in cells)
    said = [f"{done} of {counted(budget, 'trial')}: {seen['complete']} complete, {seen['pruned']} pruned"]
    said += [f"{seen[state]} {name}" for state, name in (("fail", "failed"), ("running", "running")) if seen[state]]
    lines = [f"Progress: {', '.join(said)}."]
    reasons = sum((cell.tally.reasons for cell in cells), Counter[str]())
    if often := reasons.most_common(3):
        lines.append("Why trials failed, most often:")
        lines.append("\n".join(f"- {counted(count, 'time')}: {_plain(_short(reason))}" for reason, count in often))
    if interrupted := sum(sum(cell.tally.interrupted.values()) for cell in cells):
        lines.append(f"Interrupted, to be tried again: {counted(interrupted, 'trial')}.")
    short = [cell for cell in cells if cell.exhausted]
    if short:
        lines.append(f"{counted(len(short), 'cell')} ended short of the budget, because as many trials failed.")
    return lines


def _commands(results: Sequence[CombinationResult]) -> list[str]:
    """The command of the latest run, and the next commands."""
    run, study = latest_run(results), results[0].of
    made = [f"Latest run, begun {run['began'][:16].replace('T', ' ')} UTC:", _block(run["command"])] if run else []
    report, export = _code(f"restora report {study}"), _code(f"restora export {study}")
    return [*made, f"Next: {report} writes a page with all results, {export} the checkpoint of each rank."]


def _task(task: Mapping[str, Any]) -> str:
    model, data, parts = (task.get(key, {}) for key in ("model", "data", "parts"))
    names = [model[key] for key in ("source", "name", "widths") if key in model]
    named = " ".join("-".join(map(str, name)) if isinstance(name, list | tuple) else str(name) for name in names)
    images = ", ".join(f"{parts[part]:,} {name}" for part, name in PARTS.items() if part in parts)
    where = f" on {_plain(str(data['source']))}" if "source" in data else ""
    return f"{_plain(named) or 'a model of your own'}{where}{f' ({images} images)' if images else ''}"


def _method(table: Any) -> str:
    """``int1 (scale row)``."""
    if not isinstance(table, Mapping):
        return "none"
    chosen = {key: value for key, value in table.items() if key != "method" and value not in (None, False)}
    options = _plain(_short(", ".join(f"{key} {value}" for key, value in chosen.items())))
    return _plain(str(table["method"])) + (f" ({options})" if options else "")


def _targets(patterns: Any) -> str:
    names: Iterable[Any] = patterns if isinstance(patterns, list | tuple | dict) else [patterns or "all"]
    return _plain(_short(", ".join(map(str, names))))


def _short(text: str) -> str:
    return textwrap.shorten(text, LONGEST, placeholder=" ...")


def _plain(text: str) -> str:
    """A text with everything escaped that Markdown or HTML would read as markup."""
    return re.sub(r"([!-'*+.:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{' ' if '`' in text else ''}{text}{' ' if '`' in text else ''}{fence}"


def _block(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
