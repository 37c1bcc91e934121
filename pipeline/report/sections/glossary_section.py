"""The glossary of the page."""

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
        "baseline": "The original, uncompressed model, measured on the same images as all others.",
        **({"accuracy": ACCURACY} if "accuracy" in metrics else {}),
        **({"agreement": AGREEMENT} if "agreement" in metrics else {}),
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
