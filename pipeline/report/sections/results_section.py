"""The results, one row per checkpoint and folded below it every cell, and the words that they use."""

from collections.abc import Sequence

from pipeline.report.blocks import Block, Column, Definitions, Folded, Paragraph, Section, table
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
ACCURACY = "The share of images for which the model's answer is right."
AGREEMENT = (
    "The share of images on which a model gives the same answer as the original one. It stands where accuracy would "
    "stand with labels."
)

LARGEST = (
    "A model that answers the class with the most images, whatever the image. Classes are so uneven here that an "
    "accuracy says little without its share."
)

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
            heading: Column(_rank),
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
    if model.of_study:
        kind = "always the largest class" if model.kind == "largest class" else model.kind
        return f"{model.result.of}, {kind}" if several else kind
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


def _cells(heading: str) -> dict[str, Column[_Cell]]:
    return {
        **cell_columns(heading, lambda cell: (cell[0], cell[1]["rank"], cell[1]["init"])),
        "checkpoint": Column(lambda cell: "yes" if cell[1]["checkpoint"] else "", "text"),
        "validation": Column(lambda cell: percent(cell[1]["recovered_val"])),
        "test (95 %)": Column(
            lambda cell: percent_with_interval(cell[1]["recovered_test"], cell[1]["test_low"], cell[1]["test_high"]),
        ),
        "over seeds": Column(
            lambda cell: percent_with_spread(
                cell[1]["test_mean"], cell[1]["test_std"], cell[1]["seeds"], cell[1]["failed_seeds"]
            )
        ),
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


def glossary_section(results: Sequence[CombinationResult]) -> Section:
    metrics = {result.metric for result in results}
    budgets = any(result.budget_unit for result in results)
    meanings = {
        "baseline": "The original, uncompressed model, measured on the same images as all others.",
        **({"accuracy": ACCURACY} if "accuracy" in metrics else {}),
        **({"agreement": AGREEMENT} if "agreement" in metrics else {}),
        **({"always the largest class": LARGEST} if any(result.is_uneven for result in results) else {}),
        "compression": "A method that stores the weights of layers in fewer bytes, with some loss of quality.",
        "adapter": "What is trained after compression to restore the lost quality: usually two thin matrices beside "
        "each layer. It is stored with the model and counted in its size.",
        "rank": "The width of these matrices: at rank r they add r (m + n) parameters to the m n weights of a layer.",
        **({"budget": "The size of all adapters of a model together, spread over the layers."} if budgets else {}),
        "init": "The method that sets the parameters of an adapter before training.",
        "combination": "One compression with one adapter.",
        "cell": "One rank with one init of a combination. Every cell has the same budget of trials to find its values "
        "of alpha (the adapter's scale), optimizer, learning rate and batch size.",
        "trial": "One training with one set of values; it is pruned if its first epochs are worse than others'.",
        "validation, test": "Two parts of the data on which nothing is trained. Validation images choose the epoch, "
        "the values and the checkpoint; test images are read once, for the winner of each cell, after the search.",
        "checkpoint": "The best trial of a rank, over its inits, by validation. Test images choose nothing.",
        "recovered": "(recovered - compressed) / (original - compressed), with the mean over seeds. 100 % is all that "
        "compression lost. It is empty if the loss may be chance, because the compressed model lies within the 95 % "
        "interval of the original.",
        "95 %": "The Wilson interval: the range in which the true value probably lies, given the number of images.",
    }
    return Section("words", "How to read it", [Definitions(meanings)])
