"""The results: one row per checkpoint, and folded below it every cell."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Column, Folded, Paragraph, Section, table
from pipeline.report.figures.labels import cell_columns, measured, rank_word
from pipeline.results.combination_result import CombinationResult
from pipeline.results.comparison import ComparedModel, compared_models
from pipeline.results.tables import EvaluationRow, evaluation_rows
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
OVER_SEEDS = "Winners with several seeds are compared by the mean over their seeds."

_Cell = tuple[CombinationResult, EvaluationRow]


def results_section(results: Sequence[CombinationResult]) -> Section:
    """The checkpoints with the original and compressed-only models, then all cells and their values."""
    metric, heading = measured(results), rank_word(results)
    cells = [(result, row) for result in results for row in evaluation_rows([result])]
    winners = (
        "The winner of each cell; empty if no trial is complete yet. Validation, test and recovery are in percent. "
        f"{OVER_SEEDS}"
    )
    return Section(
        "results",
        "Results",
        [
            _models(results, metric, heading),
            Folded(f"All {len(cells)} cells", [table(winners, _cells(heading), cells)]),
            Folded("The winners' values", [table("What the winners were trained with", _values(heading), cells)]),
            Folded(
                "How checkpoints are chosen and sizes are counted",
                [Paragraph(CHOICE.format(metric=metric)), Paragraph(SIZE)],
            ),
        ],
    )


def _models(results: Sequence[CombinationResult], metric: str, heading: str) -> Block:
    several = len({result.of for result in results}) > 1
    return table(
        f"The checkpoint of every {heading}. {metric.capitalize()} and recovery are in percent. "
        f"Shaded rows (◆) are checkpoints that no other model of the study beats in both size and {metric}. "
        f"{OVER_SEEDS}",
        {
            "model": Column(lambda model: _name(model, several=several), "text"),
            heading: Column(
                lambda model: rank_value(model.cell.cell.rank, model.result.budget_unit) if model.cell else ""
            ),
            "init": Column(lambda model: init_name(model.cell.cell.init, NOTHING) if model.cell else "", "text"),
            f"validation {metric}": Column(lambda model: percent(model.val)),
            f"test {metric} (95 %)": Column(_test),
            "test over seeds": Column(_over_seeds),
            "recovered": Column(lambda model: percent(model.recovery, 1)),
            "size": Column(lambda model: size(model.bytes)),
            "times smaller": Column(lambda model: formatted(model.ratio, ".2f")),
        },
        compared_models(results),
        best=lambda model: model.unbeaten,
        cards=True,
    )


def _name(model: ComparedModel, *, several: bool) -> str:
    if model.kind == "original":
        return f"{model.result.of}, original" if several else "original"
    if model.cell is None:
        return f"{model.result.label}, compressed only"
    return f"◆ {model.result.label}" if model.unbeaten else model.result.label


def _rank(model: ComparedModel) -> str:
    return rank_value(model.cell.cell.rank, model.result.budget_unit) if model.cell else ""


def _test(model: ComparedModel) -> str:
    return percent_with_interval(model.test.accuracy, *model.test.interval) if model.test else ""


def _over_seeds(model: ComparedModel) -> str:
    if model.cell is None:
        return ""
    mean, deviation = model.cell.test_spread() or (None, None)
    return percent_with_spread(mean, deviation, len(model.cell.tested), len(model.cell.failed_seeds))


def _spread(row: EvaluationRow) -> str:
    return percent_with_spread(row["test_mean"], row["test_std"], row["seeds"], row["failed_seeds"])


def _cells(heading: str) -> dict[str, Column[_Cell]]:
    return {
        **cell_columns(heading, lambda cell: (cell[0], cell[1]["rank"], cell[1]["init"])),
        "checkpoint": Column(lambda cell: "yes" if cell[1]["checkpoint"] else "", "text"),
        "validation": Column(lambda cell: percent(cell[1]["recovered_val"])),
        "test (95 %)": Column(
            lambda cell: percent_with_interval(cell[1]["recovered_test"], cell[1]["test_low"], cell[1]["test_high"]),
        ),
        "over seeds": Column(lambda cell: _spread(cell[1])),
        "recovered": Column(lambda cell: percent(cell[1]["recovery"], 1)),
        "size": Column(lambda cell: size(cell[1]["bytes"])),
        "times smaller": Column(lambda cell: formatted(cell[1]["ratio"], ".2f")),
        "layers smaller": Column(lambda cell: formatted(cell[1]["layer_ratio"], ".2f")),
        "fewer MACs": Column(lambda cell: formatted(cell[1]["macs_ratio"], ".2f")),
        "trained parameters": Column(lambda cell: formatted(cell[1]["trainable"], ",")),
    }


def _values(heading: str) -> dict[str, Column[_Cell]]:
    return {
        **cell_columns(heading, lambda cell: (cell[0], cell[1]["rank"], cell[1]["init"])),
        "alpha": Column(lambda cell: formatted(cell[1]["alpha"], ".3g")),
        "optimizer": Column(lambda cell: cell[1]["optimizer"] or "", "text"),
        "learning rate": Column(lambda cell: formatted(cell[1]["lr"], ".2g")),
        "batch": Column(lambda cell: formatted(cell[1]["batch_size"], "d")),
        "others": Column(lambda cell: cell[1]["extra"], "text"),
        "best epoch": Column(lambda cell: formatted(cell[1]["best_epoch"], "d")),
        "trial": Column(lambda cell: formatted(cell[1]["trial"], "d")),
    }
