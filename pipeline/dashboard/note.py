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
"""Keeps columns apart: the dashboard gives its tables no room."""
LONGEST = 100
"""Characters of a method's options or of a reason."""


def renewed(before: str, text: str) -> str:
    """A note with a new text above the line, and what someone wrote below it; without a line, all of it is theirs."""
    _, found, theirs = before.partition(LINE)
    below = theirs if found else before and f"\n\n{before}"
    return f"{text}\n\n---\n{LINE}{below}"


def combination_note(result: CombinationResult) -> str:
    """What a combination is and came to so far."""
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
    """What a whole study came to so far: the note of its summary."""
    task = results[0].facts.get("task", {})
    what = (
        f"**{_plain(results[0].of)}**: the best trial of each cell (rank and init) of "
        f"{counted(len(results), 'combination')}, {results[0].metric} against bytes"
    )
    how = (
        "Each combination is a study of its own, with all its trials. A trial that is marked as pruned here was its "
        "cell's best until a better one came; `superseded_by` says which."
    )
    return "\n\n".join([what, f"Task: {_task(task)}", how, _table(results), *_progress(results), *_commands(results)])


def _table(results: Sequence[CombinationResult]) -> str:
    """Original, only compressed, and the best of each rank, of one combination or of several."""
    several = len(results) > 1
    part = compared_part(results)
    first, metric = results[0], results[0].metric
    won = f"won back on {PARTS[part]} (%)"
    names = [f"validation {metric} (%)", f"test {metric} (%)", "size", "times smaller", won, "trial"]
    head = ["", *(f"{SPACE}{name}" for name in names)]
    rows = [_row("original", _scored(first.baseline), first.facts["dense_bytes"], 1.0)]
    for result in results:
        own = f"{_plain(result.name)}: " if several else ""
        dense, small = result.facts["dense_bytes"], result.facts["compressed_bytes"]
        rows.append(_row(f"{own}only compressed", _scored(result.compressed), small, dense / small))
        for cell in sorted(result.best_of_ranks().values(), key=lambda cell: cell.cell.rank):
            rows.append(_cell_row(own, result, cell, part))
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell_row(own: str, result: CombinationResult, cell: CellResult, part: str) -> list[str]:
    if cell.best is None:
        raise ValueError(f"{cell.cell} has no winner to speak of")
    facts = cell.best.user_attrs
    scores = percent(cell.best.value), percent(winner_accuracy(cell, "test"))
    won = percent(cell_recovery(result, cell, part), 1)
    return _row(f"{own}{_cell(result, cell)}", scores, facts["bytes"], facts["ratio"], won, str(cell.best.number))


def _cell(result: CombinationResult, cell: CellResult) -> str:
    rank, init = cell.cell.rank, cell.cell.init
    return _plain(cell_name(rank, init, result.budget_unit)) if rank else "best"


def _row(name: str, scores: tuple[str, str], taken: int, ratio: float, won: str = "", trial: str = "") -> list[str]:
    return [name, *(f"{SPACE}{cell}" for cell in (*scores, size(taken), f"{ratio:.2f}", won, trial))]


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
        lines.append(f"Interrupted with their run, to be tried again: {counted(interrupted, 'trial')}.")
    short = [cell for cell in cells if cell.exhausted]
    if short:
        lines.append(f"{counted(len(short), 'cell')} ended short of the budget, for as many trials failed.")
    return lines


def _commands(results: Sequence[CombinationResult]) -> list[str]:
    """What made it, and what to do next."""
    run, study = latest_run(results), results[0].of
    made = [f"Made by, last begun {run['began'][:16].replace('T', ' ')} UTC:", _block(run["command"])] if run else []
    report, export = _code(f"restora report {study}"), _code(f"restora export {study}")
    return [*made, f"Next: {report} writes one page of it all, {export} the checkpoint of each rank."]


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
    """A text that is nothing but text in Markdown and in HTML."""
    return re.sub(r"([!-'*+.:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{' ' if '`' in text else ''}{text}{' ' if '`' in text else ''}{fence}"


def _block(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
