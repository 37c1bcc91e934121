"""The notes that optuna-dashboard shows beside a study, in Markdown."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.results.combination_result import CombinationResult, latest_run
from pipeline.results.comparison import ComparedModel, compared_models, compared_part, winner_accuracy
from pipeline.results.progress import total
from pipeline.wording import NOTHING, as_written, cell_name, counted, formatted, init_name, listed, percent, size

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
        *([f"- Chosen by measuring: {_plain(as_written(auto))}"] if (auto := result.facts.get("auto")) else []),
        *(f"- Note: {_plain(note)}" for note in result.facts.get("notes", ())),
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
    metric, recovered = results[0].metric, f"recovered on {PARTS[compared_part(results)]} (%)"
    names = [f"validation {metric} (%)", f"test {metric} (%)", "size", "times smaller", recovered, "trial"]
    rows = [["", *names]]
    for model in compared_models(results):
        reference = model.test.accuracy if model.test else None
        test = winner_accuracy(model.cell, "test") if model.cell else reference
        texts = [percent(model.val), percent(test), size(model.bytes), formatted(model.ratio, ".2f")]
        trial = str(model.cell.winner.number) if model.cell else ""
        rows.append([_model_name(model, several=len(results) > 1), *texts, percent(model.recovery, 1), trial])
    head, *lines = [f"| {f' | {SPACE}'.join(row)} |" for row in rows]
    return "\n".join([head, f"| :-- |{' --: |' * len(names)}", *lines])


def _model_name(model: ComparedModel, *, several: bool) -> str:
    name = model.kind
    if model.cell:
        unit, cell = model.result.budget_unit, model.cell.cell
        name = _plain(cell_name(cell.rank, cell.init, unit)) if cell.rank else "best"
    return f"{_plain(model.result.name)}: {name}" if several and not model.of_study else name


def _progress(results: Sequence[CombinationResult]) -> list[str]:
    """How far the searches are, and what failed."""
    cells = [cell for result in results for cell in result.cells]
    tally = total(cell.tally for cell in cells)
    states, budget = tally.states, counted(sum(cell.budget for cell in cells), "trial")
    said = [f"{tally.done} of {budget}: {states['complete']} complete, {states['pruned']} pruned"]
    said += [f"{states[state]} {name}" for state, name in (("fail", "failed"), ("running", "running")) if states[state]]
    lines = [f"Progress: {', '.join(said)}."]
    if often := tally.reasons.most_common(3):
        lines.append("Why trials failed, most often:")
        lines.append("\n".join(f"- {counted(count, 'time')}: {_plain(_short(reason))}" for reason, count in often))
    if interrupted := tally.interrupted.total():
        lines.append(f"Interrupted, to be tried again: {counted(interrupted, 'trial')}.")
    if exhausted := sum(cell.exhausted for cell in cells):
        lines.append(f"{counted(exhausted, 'cell')} ended short of the budget, because as many trials failed.")
    return lines


def _commands(results: Sequence[CombinationResult]) -> list[str]:
    """The command of the latest run, and the next commands."""
    study, made = results[0].of, []
    if run := latest_run(results):
        made = [f"Latest run, begun {run['began'][:16].replace('T', ' ')} UTC:", _code(run["command"], block=True)]
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


def _code(text: str, *, block: bool = False) -> str:
    """Code in a line or as a block, between more backticks than it has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3 if block else 1, 1 + longest)
    space = "\n" if block else " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"
