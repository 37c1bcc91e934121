"""The start of the LoRA paper (Hu et al., 2021, arXiv:2106.09685): at first the adapter changes nothing."""

from typing import Literal

import torch
from pydantic import Field

from pipeline.adapt.inits.contract import AdaptedLayer, Init, Start, kaiming_uniform
from pipeline.config.registry import INITS


@INITS.register("paper")
class Paper(Init):
    """``A`` random, ``B = 0``, so the adapter changes nothing at first: for uncompressed layers."""

    distribution: Literal["kaiming", "normal"] = "kaiming"
    """``A ~ U(-1/sqrt(in), 1/sqrt(in))`` (Kaiming-uniform with ``a = sqrt(5)``), or ``A ~ N(0, sigma^2)``."""
    sigma: float = Field(0.02, gt=0)
    """Standard deviation of the normal distribution."""

    def start(self, layer: AdaptedLayer, rank: int, generator: torch.Generator) -> Start:
        out, inner = layer.weight.shape
        if self.distribution == "normal":
            A = torch.empty(rank, inner, dtype=layer.weight.dtype).normal_(0, self.sigma, generator=generator)
        else:
            A = kaiming_uniform((rank, inner), layer.weight.dtype, generator)
        return layer.start(A, torch.zeros(out, rank), residual=False)
