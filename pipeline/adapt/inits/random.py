"""Both factors random: a control, against which a start has to show what it is worth."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.adapt.factors import kaiming
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("random")
class Random(Init):
    """A control, published as not working: ``A`` and ``B`` Kaiming-uniform, so that the first output is disturbed."""

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
        A = kaiming((rank, inner), weight.dtype, generator)
        return Start(A, kaiming((out, rank), weight.dtype, generator))
