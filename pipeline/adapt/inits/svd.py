"""The best low-rank form of what compression lost (Eckart and Young, 1936), as LQ-LoRA and others start from."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.compress.contract import CompressedWeight, LayerStats
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
        U, S, Vh = torch.linalg.svd(residual, full_matrices=False)
        root = S[:rank].sqrt()
        # Where nothing was lost B is zero; A may not be too, or neither would ever have a gradient. Nor may it be the
        # identity, which is all that a zero matrix gives: the first inputs may be dead, and W knows those that are not.
        if not S.any():
            Vh = torch.linalg.svd(weight.double(), full_matrices=False).Vh
        A = torch.where(root > 0, root, 1)[:, None] * Vh[:rank]
        return Start(A.to(weight.dtype), (U[:, :rank] * root).to(weight.dtype), residual=True)
