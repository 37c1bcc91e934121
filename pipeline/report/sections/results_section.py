"""The results: one row per checkpoint, and folded below it every cell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.report.blocks import Column, Folded, Paragraph, Section, table
from pipeline.report.figures.labels import measured, rank_word
from pipeline.results.combination_result import CellResult, CombinationResult, Score
from pipeline.results.comparison import cell_recovery, compared_part, unbeaten
from pipeline.results.table_rows import EvaluationRow
from pipeline.results.tables import evaluation_rows
from pipeline.wording import (
    NOTHING,
    formatted,
    init_name,
    percent,
    percent_with_interval,
    percent_with_spread,
    rank_value,
    size,
)

CHOICE = (
    "Trials are compared by their highest validation {metric} of all epochs. The best complete trial of a cell is its "
    "winner; the test part is read once per winner, after the search. The checkpoint of a rank is the winner with the "
    "highest validation {metric}."
)
SIZE = (
    "A size is the bytes of all tensors of the exported file without its header: compressed weights with their "
    'indices, scales and biases, adapters as they are stored, all uncompressed layers, and buffers. "Times smaller" '
    'is the original size divided by this size; "layers smaller" counts only the compressed layers with their '
    "adapters. Multiply-accumulates (MACs) are those of one image in all linear and convolutional layers, with the "
    "adapter not merged."
)


@dataclass(frozen=True)
class _Model:
    """A row of the first table: an original model, a compressed-only model, or a checkpoint."""

    study: str
    name: str
    rank: str
    init: str
    val: str
    test: str
    seeds: str
    recovered: str
    bytes: int | None
    ratio: float | None
    unbeaten: bool = False
    """Whether it is a checkpoint that no other model of its study beats in both size and accuracy."""


def results_section(results: Sequence[CombinationResult]) -> Section:
    """The checkpoints with the original and compressed-only models, then all cells and their values."""
    metric, heading = measured(results), rank_word(results)
    models = list(_models(results))
    cells = [(result, row) for result in results for row in evaluation_rows([result])]
    return Section(
        "results",
        "Results",
        [
            table(
                f"The checkpoint of every {heading}. {metric.capitalize()} and recovery are in percent. "
                f"Shaded rows (◆) are checkpoints that no other model of the study beats in both size and {metric}. "
                f"{OVER_SEEDS}",
                {
                    "model": Column("text", lambda model: f"◆ {model.name}" if model.unbeaten else model.name),
                    heading: Column("number", lambda model: model.rank),
                    "init": Column("text", lambda model: model.init),
                    f"validation {metric}": Column("number", lambda model: model.val),
                    f"test {metric} (95 %)": Column("number", lambda model: model.test),
                    "test over seeds": Column("number", lambda model: model.seeds),
                    "recovered": Column("number", lambda model: model.recovered),
                    "size": Column("number", lambda model: size(model.bytes)),
                    "times smaller": Column("number", lambda model: formatted(model.ratio, ".2f")),
                },
                models,
                best=lambda model: model.unbeaten,
                cards=True,
            ),
            Folded(
                f"All {len(cells)} cells",
                [
                    table(
                        f"The winner of each cell; empty if no trial is complete yet. {_PERCENT}",
                        _cells(heading),
                        cells,
                    )
                ],
            ),
            Folded("The winners' values", [table("What the winners were trained with", _values(heading), cells)]),
            Folded(
                "How checkpoints are chosen and sizes are counted",
                [Paragraph(CHOICE.format(metric=metric)), Paragraph(SIZE)],
            ),
        ],
    )


OVER_SEEDS = "Winners with several seeds are compared by the mean over their seeds."
_PERCENT = f"Validation, test and recovery are in percent. {OVER_SEEDS}"


def _models(results: Sequence[CombinationResult]) -> Iterator[_Model]:
    """Per study the original model, then per combination the compressed-only model and the checkpoint of each rank."""
    several = len({result.of for result in results}) > 1
    for study in dict.fromkeys(result.of for result in results):
        members = [result for result in results if result.of == study]
        part = compared_part(members)
        front = [cell for _, cell in unbeaten(members, part)]
        first = next((one for one in members if one.baseline.keys() >= {"val", "test"}), members[0])
        yield _reference(f"{study}, original" if several else "original", first.baseline, first, "dense_bytes")
        for result in members:
            name = f"{result.label}, compressed only"
            yield _reference(name, result.compressed, result, "compressed_bytes")
            for cell, row in zip(result.cells, evaluation_rows([result]), strict=True):
                if row["checkpoint"]:
                    yield _checkpoint(result, cell, row, part, any(cell is other for other in front))


def _reference(name: str, scores: Mapping[str, Score], result: CombinationResult, bytes_key: str) -> _Model:
    facts, test = result.facts, scores.get("test")
    return _Model(
        study=result.of,
        name=name,
        rank="",
        init="",
        val=percent(scores["val"].accuracy) if "val" in scores else "",
        test=percent_with_interval(test.accuracy, *test.interval) if test else "",
        seeds="",
        recovered="",
        bytes=facts.get(bytes_key),
        ratio=facts["dense_bytes"] / facts[bytes_key] if bytes_key in facts else None,
    )


def _checkpoint(
    result: CombinationResult, cell: CellResult, row: EvaluationRow, part: str, is_unbeaten: bool
) -> _Model:
    return _Model(
        study=result.of,
        name=result.label,
        rank=rank_value(row["rank"], result.budget_unit),
        init=init_name(row["init"], NOTHING),
        val=percent(row["recovered_val"]),
        test=percent_with_interval(row["recovered_test"], row["test_low"], row["test_high"]),
        seeds=_over_seeds(row),
        recovered=percent(cell_recovery(result, cell, part), 1),
        bytes=row["bytes"],
        ratio=row["ratio"],
        unbeaten=is_unbeaten,
    )


def _over_seeds(row: EvaluationRow) -> str:
    return percent_with_spread(row["test_mean"], row["test_std"], row["seeds"], row["failed_seeds"])


_Cell = tuple[CombinationResult, EvaluationRow]


def _who(heading: str) -> dict[str, Column[_Cell]]:
    return {
        "combination": Column("text", lambda cell: cell[0].label),
        heading: Column("number", lambda cell: rank_value(cell[1]["rank"], cell[0].budget_unit)),
        "init": Column("text", lambda cell: init_name(cell[1]["init"], NOTHING)),
    }


def _cells(heading: str) -> dict[str, Column[_Cell]]:
    return {
        **_who(heading),
        "checkpoint": Column("text", lambda cell: "yes" if cell[1]["checkpoint"] else ""),
        "validation": Column("number", lambda cell: percent(cell[1]["recovered_val"])),
        "test (95 %)": Column(
            "number",
            lambda cell: percent_with_interval(cell[1]["recovered_test"], cell[1]["test_low"], cell[1]["test_high"]),
        ),
        "over seeds": Column("number", lambda cell: _over_seeds(cell[1])),
        "recovered": Column("number", lambda cell: percent(cell[1]["recovery"], 1)),
        "size": Column("number", lambda cell: size(cell[1]["bytes"])),
        "times smaller": Column("number", lambda cell: formatted(cell[1]["ratio"], ".2f")),
        "layers smaller": Column("number", lambda cell: formatted(cell[1]["layer_ratio"], ".2f")),
        "fewer MACs": Column("number", lambda cell: formatted(cell[1]["macs_ratio"], ".2f")),
        "trained parameters": Column("number", lambda cell: formatted(cell[1]["trainable"], ",")),
    }


def _values(heading: str) -> dict[str, Column[_Cell]]:
    return {
        **_who(heading),
        "alpha": Column("number", lambda cell: formatted(cell[1]["alpha"], ".3g")),
        "optimizer": Column("text", lambda cell: cell[1]["optimizer"] or ""),
        "learning rate": Column("number", lambda cell: formatted(cell[1]["lr"], ".2g")),
        "batch": Column("number", lambda cell: formatted(cell[1]["batch_size"], "d")),
        "others": Column("text", lambda cell: cell[1]["extra"]),
        "best epoch": Column("number", lambda cell: formatted(cell[1]["best_epoch"], "d")),
        "trial": Column("number", lambda cell: formatted(cell[1]["trial"], "d")),
    }
