"""PiSSA (Meng et al., 2024, arXiv:2404.02948): the weight's largest directions are trained, the rest is compressed."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.adapt.factors import best_product
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("pissa")
class Pissa(Init):
    """``s B A = [W]_r`` with ``sqrt(S)`` on both sides, ``Q = compress(W - s B A)``."""

    moves_base: ClassVar[bool] = True

    def start(
        self,
        weight: Tensor,
        compressed: CompressedWeight,
        rank: int,
        stats: Sequence[LayerStats],
        generator: torch.Generator,
        compress: Compress,
    ) -> Start:
        A, B = best_product(weight, rank, otherwise=weight)
        base = compress((weight.double() - B @ A).to(weight.dtype))
        return Start(A.to(weight.dtype), B.to(weight.dtype), residual=True, base=base)
