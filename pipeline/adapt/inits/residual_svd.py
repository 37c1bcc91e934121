"""The best low-rank form of what compression lost (Eckart and Young, 1936), as LQ-LoRA and others start from."""

from typing import ClassVar

import torch

from pipeline.adapt.contract import AdaptedLayer, Init, Start
from pipeline.adapt.decompositions import best_product
from pipeline.config.registry import INITS


@INITS.register("svd")
class ResidualSvd(Init):
    """``s B A = [W - Q]_r``: the first output is as near the dense model's as rank r comes on the weights."""

    nested: ClassVar[bool] = True

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        A, B = best_product(layer.residual, rank, otherwise=layer.weight)
        return Start(A.to(layer.weight.dtype), B.to(layer.weight.dtype), residual=True)
