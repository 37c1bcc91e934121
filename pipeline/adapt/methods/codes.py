"""Trained codes: the compressed weights themselves are trained, through the rounding of their compression.

Legend: ``T`` lanes, ``L [out, in]`` the latent weight of a layer, ``Q(L)`` the dense form of its codes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.adapt.batch_norm import STATISTICS, BatchNormLayer, running_statistics
from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.contract import Start
from pipeline.adapt.lanes import LaneLayer, SeparateLayer, map_lanes, with_parameters
from pipeline.compress.contract import CompressedModel
from pipeline.compress.latents import is_fixed
from pipeline.compress.layers import weight_matrix
from pipeline.compress.packing import join_parts, select_part
from pipeline.compress.shared_tensors import sharing_layers
from pipeline.compress.weight import CompressedWeight
from pipeline.config.registry import ADAPTERS
from pipeline.errors import SpecError

WEIGHT, HOLD = "weight", "hold"
"""Prefixes of the names of a layer's tensors: those of ``CompressedWeight.to_trainable``, and what counts flips."""
INTERVAL = 10
"""Steps after which codes are compared with those of the last comparison."""
FLIPS = 2
"""Flips after which a code is frozen."""
ROUNDS, FIRST, GROWTH = 30, 1e-3, 1.3
"""Rounds of mode ``lc`` in a training, the weight of its penalty in the first, and its growth from round to round."""

LOW_RANK = ADAPTERS.narrowed("low-rank adapter", lambda adapter: adapter.model_construct().low_rank)
"""Adapters that are low-rank by default, which ``codes`` is not."""


class CodesLayer(SeparateLayer):
    """A layer that computes with ``Q(L)``, and with what an adapter on top of it adds."""

    def __init__(self, base: nn.Module, weight: CompressedWeight, codes: "Codes", added: Collection[str]) -> None:
        super().__init__(base)
        self._weight, self._adapter, self._added = weight, codes.adapter, added
        self._relaxed = codes.mode == "lc"
        self._shape = base.get_parameter("weight").shape

    def lane_forward(self, parameters: Mapping[str, Tensor], alpha: Tensor, x: Tensor) -> Tensor:
        tensors = select_part(parameters, WEIGHT)
        # Without gradients a lane is judged, and as it will be exported.
        relaxed = self._relaxed and torch.is_grad_enabled()
        matrix = self._weight.unrounded(tensors) if relaxed else self._weight.project(tensors)
        if self._adapter is not None and self._added:
            matrix = self._adapter.merged(matrix, {name: parameters[name] for name in self._added}, alpha)
        own: dict[str, Tensor | None] = {"weight": matrix if matrix.shape == self._shape else matrix.view(self._shape)}
        if "bias" in parameters:
            own["bias"] = parameters["bias"]
        y: Tensor = with_parameters(self._base, own)(x)
        return y


@ADAPTERS.register("codes")
class Codes(Adapter):
    """Trains the codes of the compressed weights, with scales, biases and norms, at no cost in bytes.

    Latent weights ``L`` are rounded in the forward pass by the compression's own rounding, and get the gradient of
    ``Q(L)`` (straight-through, Courbariaux et al., 2015, arXiv:1511.00363). Scales of grids are trained as in LSQ
    (Esser et al., 2020, arXiv:1902.08153). Only the codes are exported, in the form and size of the compressed weight.
    """

    adapter: Annotated[Adapter, LOW_RANK] | None = None
    """A low-rank adapter that is trained on top, such as ``"lora"``; its bytes are added."""
    mode: Literal["ste", "lc"] = "ste"
    """Whether the forward pass rounds latent weights, with straight-through gradients; or does not, and a penalty draws
    them to their codes: learning and compression in turn (Idelbayev and Carreira-Perpinan, 2017, arXiv:1707.01209)."""
    choices: Literal["moving", "fixed"] = "moving"
    """Whether a sparse weight keeps the largest latent weights, chosen anew every 10 steps, or stays with the first."""
    norms: bool = True
    """Also train the norms after the first compressed layer, at no cost in bytes."""
    statistics: Literal["trained", "kept"] = "trained"
    """Whether batch norms that are trained normalise by the batch, and their statistics follow, or keep those."""
    hold: float = Field(0.75, gt=0, le=1)
    """Share of the training after which a code that flips twice is frozen (Nagel et al., 2022, arXiv:2203.11086)."""

    @model_validator(mode="after")
    def _trains_scales_once(self) -> "Codes":
        if getattr(self.adapter, "scales", False):
            raise ValueError("adapter.scales = true, but the scales are trained with the codes already; leave it out")
        return self

    @property
    def low_rank(self) -> bool:
        return self.adapter is not None

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        self._refuse_shared(compressed)
        parameters = self._norms(compressed) if self.norms else {}
        for name, weight in compressed.weights.items():
            dense = weight_matrix(compressed.reference.get_submodule(name)).cpu()
            latent = starts[name].coded(dense, relaxed=self.mode == "lc") if name in starts else dense
            try:
                tensors = weight.to_trainable(latent)
            except NotImplementedError as error:
                raise SpecError(
                    f"adapter 'codes' cannot train layer '{name}': {error}; choose another adapter"
                ) from None
            flips = dict[str, Tensor]()
            for kind, (codes, _) in (weight.latent_codes(tensors) if self.hold < 1 else {}).items():
                flips |= {f"{kind}_code": codes, f"{kind}_flips": torch.zeros_like(codes, dtype=torch.uint8)}
            own = {f"{name}.{kind}": tensor for kind, tensor in join_parts({WEIGHT: tensors, HOLD: flips}).items()}
            bias = compressed.model.get_submodule(name)._parameters.get("bias")
            parameters |= own if bias is None else {**own, f"{name}.bias": bias.detach().cpu()}
        if self.adapter is not None:
            parameters |= self.adapter.begin(compressed, starts, draw)
        return parameters

    def _refuse_shared(self, compressed: CompressedModel) -> None:
        owners: dict[int, str] = {}
        for name, weight in compressed.weights.items():
            owner = owners.setdefault(id(weight), name)
            if owner != name:
                raise SpecError(
                    f"adapter 'codes' trains the codes of each layer, but layers '{owner}' and '{name}' share one "
                    f"weight; leave them out of the targets, or choose adapter 'lora'"
                )

    def _norms(self, compressed: CompressedModel) -> dict[str, Tensor]:
        """The vectors of norms, of those that the model registers after the first compressed layer."""
        found, behind = dict[str, Tensor](), False
        for name, module in compressed.model.named_modules():
            behind = behind or name in compressed.weights
            vectors = {key: tensor for key, tensor in module._parameters.items() if tensor is not None}
            if behind and not any(True for _ in module.children()) and all(t.ndim == 1 for t in vectors.values()):
                if self.statistics == "trained":
                    vectors |= running_statistics(module)
                found |= {f"{name}.{key}": tensor.detach().cpu() for key, tensor in vectors.items()}
        return found

    def is_frozen(self, name: str) -> bool:
        kind = name.rpartition(".")[2]
        if kind.startswith((f"{HOLD}_", f"{WEIGHT}_")):
            return kind.startswith(f"{HOLD}_") or is_fixed(kind)
        return kind in STATISTICS or (self.adapter is not None and self.adapter.is_frozen(name))

    def equal_tensors(self, weights: Mapping[str, CompressedWeight]) -> Sequence[Sequence[str]]:
        """The copies of what layers share."""
        return [[f"{name}.{WEIGHT}_{kind}" for name in layers] for kind, layers in sharing_layers(weights)]

    def layer(self, base: nn.Module, trains: Collection[str], weight: CompressedWeight | None = None) -> LaneLayer:
        if weight is None or not any(name.startswith(f"{WEIGHT}_") for name in trains):
            return BatchNormLayer(base) if STATISTICS[0] in trains else super().layer(base, trains, weight)
        added = [name for name in trains if name != "bias" and not name.startswith((f"{WEIGHT}_", f"{HOLD}_"))]
        return CodesLayer(base, weight, self, added)

    def penalty(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor], share: float
    ) -> Tensor | None:
        """In mode ``lc``, ``mu / 2 sum ||L - Q(L)||^2`` with ``mu = FIRST GROWTH^(ROUNDS share)``.

        Its gradient draws latent weights to their codes, and fits scales, levels and centroids to the latent weights.
        """
        if self.mode == "ste":
            return None
        round_number = int(ROUNDS * share)
        distances = []
        for name, tensors in _by_layer(weights, parameters).items():
            own = select_part(tensors, WEIGHT)
            middles = map_lanes(weights[name].middles, own)
            distances += [(own[kind] - middle).square().flatten(1).sum(1) for kind, middle in middles.items()]
        return FIRST * GROWTH**round_number / 2 * torch.stack(distances).sum(0) if distances else None

    def after_step(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor], step: int, steps: int
    ) -> None:
        """Set what layers share, of which each trains a copy, to the mean of the copies, after every step.

        Every ``INTERVAL`` steps, bring up to date what follows from the latent weights, and freeze codes that flip.
        From ``hold`` of the training on codes are compared with those of the last time. One that has changed ``FLIPS``
        times is frozen: its latent weight is put back into the middle of its code. It moves little from one time to the
        next, as the learning rate is low at the end, and so does not leave the cell of its code.
        """
        if self.adapter is not None:
            self.adapter.after_step(weights, parameters, step, steps)
        for names in self.equal_tensors(weights):
            _make_equal([parameters[name] for name in names])
        if step % INTERVAL:
            return
        for name, tensors in _by_layer(weights, parameters).items():
            own = select_part(tensors, WEIGHT)
            for kind, tensor in map_lanes(weights[name].refreshed, own).items():
                if self.choices == "moving" or not kind.endswith("kept"):
                    own[kind].copy_(tensor)
            if self.hold < 1 and step >= self.hold * steps:
                first = step < self.hold * steps + INTERVAL  # the first comparison only notes the codes
                for kind, (codes, middle) in map_lanes(weights[name].latent_codes, own).items():
                    last, flips = tensors[f"{HOLD}_{kind}_code"], tensors[f"{HOLD}_{kind}_flips"]
                    if not first:
                        flips += (codes != last) & (flips < FLIPS)
                        own[kind].copy_(torch.where(flips < FLIPS, own[kind], middle))
                    last.copy_(codes)

    def loaded_layer(self, base: nn.Module, parameters: Mapping[str, Tensor], alpha: float) -> nn.Module:
        return base if self.adapter is None else self.adapter.loaded_layer(base, parameters, alpha)

    def merged(self, weight: Tensor, parameters: Mapping[str, Tensor], alpha: float | Tensor) -> Tensor:
        return weight if self.adapter is None else self.adapter.merged(weight, parameters, alpha)

    def to_tensors(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(parameters) if self.adapter is None else self.adapter.to_tensors(parameters)

    def from_tensors(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        return dict(tensors) if self.adapter is None else self.adapter.from_tensors(tensors, like)

    def absorb(
        self, weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, CompressedWeight], Mapping[str, Tensor]]:
        by_layer = _by_layer(weights, parameters)
        left = {
            key: tensor
            for key, tensor in parameters.items()
            if not key.rpartition(".")[2].startswith((f"{WEIGHT}_", f"{HOLD}_"))
        }
        trained = {
            name: weight.with_trained(select_part(by_layer[name], WEIGHT)) if name in by_layer else weight
            for name, weight in weights.items()
        }
        return (trained, left) if self.adapter is None else self.adapter.absorb(trained, left)

    def macs(self, shape: tuple[int, int], rank: int) -> int:
        return 0 if self.adapter is None else self.adapter.macs(shape, rank)


def _make_equal(copies: Sequence[Tensor]) -> None:
    """Set all copies to their mean, in place; those that are equal keep every bit."""
    first = copies[0].clone()
    mean = first + sum(copy - first for copy in copies) / len(copies)
    for copy in copies:
        copy.copy_(mean)


def _by_layer(
    weights: Mapping[str, CompressedWeight], parameters: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each compressed layer whose codes are trained, by name within the layer."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in parameters.items():
        layer, _, kind = key.rpartition(".")
        if layer in weights:
            layers.setdefault(layer, {})[kind] = tensor
    return {name: tensors for name, tensors in layers.items() if select_part(tensors, WEIGHT)}
