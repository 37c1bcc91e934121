"""DoRA: weight-decomposed low-rank adaptation (Liu et al., 2024, arXiv:2402.09353)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.adapt.contract import Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lora_layers import row_norms
from pipeline.adapt.methods.lora import Lora
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import weight_matrix
from pipeline.config.registry import ADAPTERS


@ADAPTERS.register("dora")
class Dora(Lora):
    """Trains norm ``m`` and direction of each row apart, ``W = m (Q + s B A) / ||Q + s B A||``: a rival of ``lora``.

    ``m [out]`` starts as the norm of each row, so that the adapted weight starts as in LoRA. As published, no gradient
    passes through the norm.
    """

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        parameters = super().begin(compressed, starts, draw)
        for name, start in starts.items():
            own = {key.removeprefix(f"{name}."): tensor for key, tensor in parameters.items()}
            A, B = self.factors_of(own)
            W = weight_matrix(compressed.model.get_submodule(name)).cpu().to(A)
            s = torch.tensor([self.s(draw.alpha, len(start.A))], dtype=A.dtype)
            parameters[f"{name}.magnitude"] = row_norms(W, A[None], B[None], s)[0]
        return parameters

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return super().macs(shape, rank) + shape[0]
