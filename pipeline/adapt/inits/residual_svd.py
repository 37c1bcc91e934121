"""The best low-rank approximation of what compression lost (Eckart and Young, 1936), as in LQ-LoRA and others."""

import torch

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start
from pipeline.compress.factorisation import best_product
from pipeline.config.registry import INITS


@INITS.register("svd")
class ResidualSvd(Init):
    """Starts as near to ``W`` as rank r allows, ``s B A = [W - Q]_r``: for compressed layers, without data."""

    nested = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        return layer.start(*best_product(layer.residual, rank, fallback=layer.weight))
