"""OLoRA (Büyükakyüz, 2024, arXiv:2406.01775): orthonormal directions of the weight's outputs are trained."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.adapt.contract import Compress, Init, Start
from pipeline.compress.contract import LayerStats
from pipeline.compress.weight import CompressedWeight
from pipeline.registry import INITS


@INITS.register("olora")
class Olora(Init):
    """``s B A = U_r R_r``, the first columns and rows of ``W = U R`` (QR), ``Q = compress(W - s B A)``."""

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
        U, R = torch.linalg.qr(weight.double())
        A, B = R[:rank], U[:, :rank]
        base = compress((weight.double() - B @ A).to(weight.dtype))
        return Start(A.to(weight.dtype), B.to(weight.dtype), residual=True, base=base)
