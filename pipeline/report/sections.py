"""What the page says in words and tables, a function a section: each gives pieces of HTML."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.report.figures.words import readable_bytes
from pipeline.report.markup import heading, paragraph, table
from pipeline.report.rows import EvaluationRow
from pipeline.report.tables import evaluation_rows, interval
from pipeline.search.results import CombinationResult, Score

SIZE = (
    "Bytes are those of all tensors of the exported file, its header apart: compressed weights with their indices, "
    "scales and biases, adapters as they are stored, everything that was left as it is, and buffers. Ratios are the "
    "original's bytes divided by these; the layers' ratio counts the compressed layers with their adapters alone. "
    "Multiply-accumulates are those of one image in all linear and convolutional layers, the adapter not merged."
)
CHOICE = (
    "Trials are compared by validation accuracy, each at the epoch where it was highest. The best complete trial of a "
    "cell (a rank and an init) is its winner; the test part is read once for each winner, after the search. The "
    "checkpoint of a rank is the winner with the highest validation accuracy; test accuracy chooses nothing."
)


def task_section(results: Sequence[CombinationResult]) -> list[str]:
    """Model, data, split, their hashes, and the combinations."""
    facts = results[0].facts
    rows = [[name, _words(value)] for name, value in {**facts.get("task", {}), **_hashes(facts)}.items()]
    combinations = [
        [
            result.name,
            *(_words(result.facts["pinned"]["combination"][key]) for key in _PARTS),
            _rounded(result.facts.get("targets"), "d"),
        ]
        for result in results
    ]
    return [
        heading("The task"),
        table({"": "text", "what it is": "long"}, rows),
        heading("The combinations"),
        table({"combination": "text", **dict.fromkeys(_PARTS, "long"), "layers": "number"}, combinations),
    ]


_PARTS = ("compression", "adapter", "targets")


def _hashes(facts: Mapping[str, Any]) -> dict[str, str]:
    return {f"sha256 of {name}": value for name, value in facts.get("hashes", {}).items()}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def reference_section(results: Sequence[CombinationResult]) -> list[str]:
    """The original model, and each that is only compressed."""
    first = next((one for one in results if one.baseline.keys() >= {"val", "test"}), results[0])
    rows = [["original", *_reference(first, first.baseline, "dense_bytes")]]
    rows += [[f"only compressed, {one.name}", *_reference(one, one.compressed, "compressed_bytes")] for one in results]
    return [
        heading("Before any training"),
        table({"model": "text", "bytes": "number", "smaller": "number", **_SCORES}, rows),
    ]


_SCORES = {"validation": "number", "test (95 %)": "number"}


def _reference(result: CombinationResult, scores: Mapping[str, Score], size: str) -> list[str]:
    facts = result.facts
    return [
        readable_bytes(facts[size]) if size in facts else "",
        f"{facts['dense_bytes'] / facts[size]:.2f}" if size in facts else "",
        _percent(scores["val"].accuracy) if "val" in scores else "",
        _with_interval(scores["test"].accuracy, *interval(scores["test"])) if "test" in scores else "",
    ]


def evaluation_section(results: Sequence[CombinationResult]) -> list[str]:
    """Every cell's winner."""
    rows = evaluation_rows(results)
    cells = [[show(row) for _, show in _EVALUATION.values()] for row in rows]
    return [
        heading("Recovered"),
        paragraph(
            "The winner of each cell; the shaded row is its rank's checkpoint. Accuracies are in percent. A cell "
            "whose row is empty has no complete trial yet."
        ),
        table({name: kind for name, (kind, _) in _EVALUATION.items()}, cells, [row["checkpoint"] for row in rows]),
        paragraph(CHOICE),
        paragraph(SIZE),
    ]


_EVALUATION: dict[str, tuple[str, Callable[[EvaluationRow], str]]] = {
    "combination": ("text", lambda row: row["combination"]),
    "rank": ("number", lambda row: str(row["rank"])),
    "init": ("text", lambda row: row["init"]),
    "validation": ("number", lambda row: _percent(row["recovered_val"])),
    "test (95 %)": ("number", lambda row: _with_interval(row["recovered_test"], row["test_low"], row["test_high"])),
    "over seeds": ("number", lambda row: _over_seeds(row)),
    "bytes": ("number", lambda row: "" if row["bytes"] is None else readable_bytes(row["bytes"])),
    "smaller": ("number", lambda row: _rounded(row["ratio"], ".2f")),
    "layers smaller": ("number", lambda row: _rounded(row["layer_ratio"], ".2f")),
    "fewer MACs": ("number", lambda row: _rounded(row["macs_ratio"], ".2f")),
    "trained": ("number", lambda row: _rounded(row["trainable"], ",")),
    "alpha": ("number", lambda row: _rounded(row["alpha"], ".3g")),
    "optimizer": ("text", lambda row: row["optimizer"] or ""),
    "lr": ("number", lambda row: _rounded(row["lr"], ".2g")),
    "batch": ("number", lambda row: _rounded(row["batch_size"], "d")),
    "extra": ("text", lambda row: row["extra"]),
    "epoch": ("number", lambda row: _rounded(row["best_epoch"], "d")),
    "trial": ("number", lambda row: _rounded(row["trial"], "d")),
}


def _over_seeds(row: EvaluationRow) -> str:
    mean, std = row["test_mean"], row["test_std"]
    return "" if mean is None or std is None else f"{_percent(mean)} ± {_percent(std)} ({row['seeds']})"


def state_section(results: Sequence[CombinationResult]) -> list[str]:
    """Trials by state, and why some failed."""
    cells = [(result.name, cell) for result in results for cell in result.cells]
    states = [
        [
            name,
            str(cell.cell.rank),
            cell.cell.init,
            *(str(cell.states[state]) for state in _STATES),
            str(cell.budget),
            "exhausted: as many trials failed as its budget has" if cell.exhausted else "",
        ]
        for name, cell in cells
    ]
    reasons = [
        [name, str(cell.cell), str(count), reason] for name, cell in cells for reason, count in cell.reasons.items()
    ]
    columns = {"combination": "text", "rank": "number", "init": "text", **dict.fromkeys(_STATES, "number")}
    failed = table({"combination": "text", "cell": "text", "trials": "number", "reason": "long"}, reasons)
    return [
        heading("The trials"),
        table({**columns, "budget": "number", "": "text"}, states),
        heading("Failed and interrupted trials"),
        failed if reasons else paragraph("None."),
    ]


_STATES = ("complete", "pruned", "fail", "running")


def version_section(results: Sequence[CombinationResult]) -> list[str]:
    """The versions that trials were trained with, all of them where they differ."""
    seen: dict[str, dict[str, None]] = {}
    for result in results:
        for trial in result.study.get_trials(deepcopy=False):
            for package, version in trial.user_attrs.get("versions", {}).items():
                seen.setdefault(package, {})[version] = None
    said = table(
        {"": "text", "version": "long"}, [[package, ", ".join(versions)] for package, versions in seen.items()]
    )
    return [heading("Versions"), said if seen else paragraph("No trial has ended yet.")]


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f}"


def _with_interval(accuracy: float | None, low: float | None, high: float | None) -> str:
    return "" if accuracy is None else f"{_percent(accuracy)} ({_percent(low)} to {_percent(high)})"


def _rounded(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
