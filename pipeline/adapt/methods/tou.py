"""TOU: trains the second factor of each layer ``first [out, k] second [k, in]``, and all outside these layers."""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import LaneLayer, SeparateLayer
from pipeline.adapt.lora_layers import convolve
from pipeline.adapt.methods.full import model_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.compress.factorisation import FactorWeight
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import CompressedWeight, DenseWeight
from pipeline.config.fields import Range
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError
from pipeline.seeds import derive


class TouLayer(SeparateLayer):
    """``y = first (second x) + b``; for a convolution the first factor is a convolution of 1 x 1."""

    def lane_forward(self, parameters: Mapping[str, Tensor], alpha: Tensor, x: Tensor) -> Tensor:
        first, second = parameters["first"], parameters["second"]
        bias = parameters.get("bias", self._base._parameters["bias"])
        if not isinstance(self._base, nn.Conv2d):
            return F.linear(F.linear(x, second), first, bias)
        kernel = second.reshape(len(second), *self._base.weight.shape[1:])
        return F.conv2d(convolve(self._base, x, kernel, 1), first[:, :, None, None], bias)


@ADAPTERS.register("tou")
class Tou(Adapter):
    """Trains second factors, norms, biases, embeddings and head: after a compression into two factors.

    Noise ``N(0, sigma^2)`` is first added to both factors, except to a first factor that is quantised. The first factor
    stays frozen. After training both are stored as the layer's weight, whose dense form gives the same outputs.
    """

    ffn: Literal["trained", "frozen"] = "trained"
    """``frozen`` leaves the factors and biases of the feed-forward layers (target group ``mlp``) as they are."""
    sigma: Range | None = None
    """Standard deviation of the noise, a number or a range to search; without it there is no noise."""

    @property
    def space(self) -> Mapping[str, Range]:
        return {} if self.sigma is None else {"sigma": self.sigma}

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        factorised = {name: weight for name, weight in compressed.weights.items() if isinstance(weight, FactorWeight)}
        if not factorised:
            raise SpecError(
                "adapter 'tou' trains the second factor of each layer, but no layer is stored as two factors; choose "
                "compression 'tou' or 'svd'"
            )
        frozen = find_targets(compressed.model, ["mlp"]) if self.ffn == "frozen" else []
        excluded = {f"{name}.weight" for name in (*factorised, *frozen)} | {f"{name}.bias" for name in frozen}
        parameters = {key: tensor for key, tensor in model_parameters(compressed.model).items() if key not in excluded}
        sigma = draw.extra.get("sigma", 0.0)
        for index, (name, weight) in enumerate(factorised.items()):
            if name in frozen:
                continue
            generator = torch.Generator().manual_seed(derive(draw.seed, "noise", index))
            first, second = factors = weight.factors
            noise = [sigma * torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in factors]
            parameters[f"{name}.first"] = first + noise[0] if isinstance(weight.first, DenseWeight) else first
            parameters[f"{name}.second"] = second + noise[1]
        return parameters

    def is_frozen(self, name: str) -> bool:
        return name.endswith(".first")

    def layer(self, base: nn.Module, trains: Collection[str], weight: CompressedWeight | None = None) -> LaneLayer:
        return TouLayer(base) if "second" in trains else super().layer(base, trains, weight)

    def absorb(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, CompressedWeight], Mapping[str, Tensor]]:
        weights, left = super().absorb(weights, parameters)
        trained = {}
        for name, weight in weights.items():
            if isinstance(weight, FactorWeight) and f"{name}.second" in left:
                first = left[f"{name}.first"] if isinstance(weight.first, DenseWeight) else None
                trained[name] = weight.with_factors(first, left[f"{name}.second"])
        absorbed = {f"{name}.{factor}" for name in trained for factor in ("first", "second")}
        return {**weights, **trained}, {key: tensor for key, tensor in left.items() if key not in absorbed}
