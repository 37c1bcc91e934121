"""OLoRA (Büyükakyüz, 2024, arXiv:2406.01775): orthonormal directions of the layer's outputs are trained."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.config.registry import INITS


@INITS.register("olora")
class Olora(Init):
    """``s B A = U_r R_r``, the first columns and rows of ``W = U R`` (QR), ``Q = compress(W - s B A)``."""

    moves_base: ClassVar[bool] = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        U, R = torch.linalg.qr(layer.weight.double())
        A, B = R[:rank], U[:, :rank]
        return layer.start(A, B, base=layer.compress_rest(A, B))
