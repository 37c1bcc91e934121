"""The best low-rank form of what compression lost (Eckart and Young, 1936), as LQ-LoRA and others start from."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.adapt.factors import best_product
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("svd")
class ResidualSvd(Init):
    """``s B A = [W - Q]_r``: the first output is as near the dense model's as rank r comes on the weights."""

    nested: ClassVar[bool] = True

    def start(
        self,
        weight: Tensor,
        compressed: CompressedWeight,
        rank: int,
        stats: Sequence[LayerStats],
        generator: torch.Generator,
        compress: Compress,
    ) -> Start:
        residual = weight.double() - compressed.dense().double()
        A, B = best_product(residual, rank, otherwise=weight)
        return Start(A.to(weight.dtype), B.to(weight.dtype), residual=True)
