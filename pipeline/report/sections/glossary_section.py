"""The words of the page."""

from collections.abc import Sequence

from pipeline.report.blocks import Definitions, Section
from pipeline.results.combination_result import CombinationResult

ACCURACY = "The share of images for which the model's answer is right."
AGREEMENT = (
    "The share of images on which a model gives the same answer as the original one. It stands where accuracy would "
    "stand with labels."
)


def glossary_section(results: Sequence[CombinationResult]) -> Section:
    metrics = {result.metric for result in results}
    budgets = any(result.budget_unit for result in results)
    meanings = {
        "baseline": "The original model, not compressed, measured on the same images as all others.",
        **({"accuracy": ACCURACY} if "accuracy" in metrics else {}),
        **({"agreement": AGREEMENT} if "agreement" in metrics else {}),
        "compression": "A method that stores the weights of layers in fewer bytes, at a loss.",
        "adapter": "What is trained after compression to win the loss back: for the most part two thin matrices beside "
        "each layer. It is stored with the model, and counted in its size.",
        "rank": "How thin those matrices are: at rank r they hold r (m + n) numbers beside the m n weights of a layer.",
        **({"budget": "What all adapters of a model may take together, spread over the layers."} if budgets else {}),
        "init": "The method that sets an adapter's values before training.",
        "combination": "One compression with one adapter.",
        "cell": "One rank with one init of a combination. Every cell has the same number of trials, its budget, to "
        "find values of its own for alpha (the adapter's scale), optimizer, learning rate and batch size.",
        "trial": "One training with one set of values; pruned where its first epochs promised too little.",
        "validation, test": "Two parts of the data that nothing is trained on. Validation images choose the epoch, the "
        "values and the checkpoint; test images are read once, for the winner of each cell, after the search.",
        "checkpoint": "The best trial of a rank, over its inits, by validation. Test images choose nothing.",
        "won back": "The recovery ratio: (recovered - compressed) / (original - compressed); over seeds, "
        "that of their mean. 100 % is all that compression lost; empty where it lost no more than chance may: where "
        "the compressed model lies within the original's own 95 % interval.",
        "95 %": "The Wilson interval: where the value may lie, judged by the number of images alone.",
    }
    return Section("words", "How to read it", [Definitions(meanings)])
