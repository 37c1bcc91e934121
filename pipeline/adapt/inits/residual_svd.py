"""The best low-rank approximation of what compression lost (Eckart and Young, 1936), as in LQ-LoRA and others."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.compress.truncation import best_product
from pipeline.config.registry import INITS


@INITS.register("svd")
class ResidualSvd(Init):
    """``s B A = [W - Q]_r``: the adapted weight starts as near to ``W`` as rank r allows."""

    nested: ClassVar[bool] = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        return layer.start(*best_product(layer.residual, rank, fallback=layer.weight))
