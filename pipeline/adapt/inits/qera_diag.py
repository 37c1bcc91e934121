"""QERA's approximate form (Zhang et al., 2024, arXiv:2410.06040): as if the layer's inputs were uncorrelated."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.adapt.factors import best_product, of_all_groups
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("qera_diag")
class QeraDiagonal(Init):
    """``s B A = [(W - Q) D]_r D^-1`` with ``D = diag(sqrt(E x_i^2))``, damped where an input is always zero.

    The groups of a grouped convolution share ``A`` and the mean of their ``E x_i^2``, as in ``qera``.
    """

    nested: ClassVar[bool] = True

    @property
    def needs_statistics(self) -> bool:
        return True

    def start(
        self,
        weight: Tensor,
        compressed: CompressedWeight,
        rank: int,
        stats: Sequence[LayerStats],
        generator: torch.Generator,
        compress: Compress,
    ) -> Start:
        D = of_all_groups(stats).damped().diagonal().double().sqrt()
        residual = weight.double() - compressed.dense().double()
        A, B = best_product(residual * D, rank, otherwise=weight.double() * D)
        return Start((A / D).to(weight.dtype), B.to(weight.dtype), residual=True)
