"""EVA (Paischer et al., 2024, arXiv:2410.07170): the adapter starts on the directions in which the inputs vary most."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.config.registry import INITS


@INITS.register("eva")
class Eva(Init):
    """Starts on the directions in which the inputs vary most, with ``B = 0``: for uncompressed layers, with data.

    The rows of ``A`` are eigenvectors of ``E[x x^T]``, so the first output is the compressed model's. The groups of a
    grouped convolution share ``A``, so the mean of their moments is used. Unlike the paper's method, no rank is moved
    from one layer to another.
    """

    nested = True
    needs_statistics = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        return layer.start(layer.shared_stats.directions(rank), torch.zeros(len(layer.weight), rank), residual=False)
