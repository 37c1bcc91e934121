"""QERA's approximate form (Zhang et al., 2024, arXiv:2410.06040): as if the layer's inputs were uncorrelated."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import best_product, of_all_groups
from pipeline.config.registry import INITS


@INITS.register("qera_diag")
class QeraDiagonal(Init):
    """``s B A = [(W - Q) D]_r D^-1`` with ``D = diag(sqrt(E x_i^2))``, damped where an input is always zero.

    The groups of a grouped convolution share ``A`` and the mean of their ``E x_i^2``, as in ``qera``.
    """

    nested: ClassVar[bool] = True

    @property
    def needs_statistics(self) -> bool:
        return True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        D = of_all_groups(layer.stats).damped().diagonal().double().sqrt()
        A, B = best_product(layer.residual * D, rank, otherwise=layer.weight.double() * D)
        return Start((A / D).to(layer.weight.dtype), B.to(layer.weight.dtype), residual=True)
