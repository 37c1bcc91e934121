"""The other start at zero (Hayou, Ghosh and Yu, 2024, arXiv:2406.08447): ``B`` random, ``A = 0``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.adapt.factors import kaiming
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("zero")
class Zero(Init):
    """``A = 0``, ``B ~ U(-1/sqrt(r), 1/sqrt(r))``: the first output is the compressed model's, as with ``paper``."""

    def start(
        self,
        weight: Tensor,
        compressed: CompressedWeight,
        rank: int,
        stats: Sequence[LayerStats],
        generator: torch.Generator,
        compress: Compress,
    ) -> Start:
        out, inner = weight.shape
        return Start(torch.zeros(rank, inner, dtype=weight.dtype), kaiming((out, rank), weight.dtype, generator))
