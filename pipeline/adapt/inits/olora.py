"""OLoRA (Büyükakyüz, 2024, arXiv:2406.01775): orthonormal directions of the layer's outputs are trained."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.config.registry import INITS


@INITS.register("olora")
class Olora(Init):
    """Trains the first directions of ``W = U R`` (QR), ``s B A = U_r R_r``, compresses the rest: for another task."""

    moves_base = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        U, R = torch.linalg.qr(layer.weight.double())
        A, B = R[:rank], U[:, :rank]
        return layer.start(A, B, base=layer.compress_rest(A, B))
