"""EVA (Paischer et al., 2024, arXiv:2410.07170): the adapter starts on the directions in which the inputs vary most."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.config.registry import INITS


@INITS.register("eva")
class Eva(Init):
    """``A`` = the top right singular vectors of the layer's inputs, ``B = 0``: the first output is the compressed one.

    They are the eigenvectors of ``E[x x^T]``. The groups of a grouped convolution share ``A``, so the mean of their
    moments is used. Unlike the paper's method, no rank is moved from one layer to another.
    """

    nested: ClassVar[bool] = True
    needs_statistics: ClassVar[bool] = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        _, vectors = layer.shared_stats.eigen
        return layer.start(vectors.T.flip(0)[:rank], torch.zeros(len(layer.weight), rank), residual=False)
