"""QERA's approximate form (Zhang et al., 2024, arXiv:2410.06040), which treats the layer's inputs as uncorrelated."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.factorisation import best_product
from pipeline.config.registry import INITS


@INITS.register("qera_diag")
class QeraDiagonal(Init):
    """As ``qera`` for uncorrelated inputs, ``s B A = [(W - Q) D]_r D^-1``, without decomposing a moment.

    ``D = diag(sqrt(E x_i^2))``, damped where an input is always zero. The groups of a grouped convolution share ``A``,
    so the mean of their ``E x_i^2`` is used, as in ``qera``.
    """

    nested = True
    needs_statistics = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        stats = layer.shared_stats
        D = (stats.diagonal + stats.ridge).double().sqrt()
        A, B = best_product(layer.residual * D, rank, fallback=layer.weight.double() * D)
        return layer.start(A / D, B)
