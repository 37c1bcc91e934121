"""Bytes and multiply-accumulates of a layer and of a model, exact before training starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import layer_names, matrix_shape
from pipeline.compress.weight import BitCount


@dataclass(frozen=True)
class LayerSize:
    """Bits of one compressed layer.

    Args:
        dense: Bits of the dense weight, 32 each.
        bias: Bits of the dense bias.
        base: What the file holds for weight and bias.
        adapter: What it holds for the adapter.
    """

    dense: int
    bias: int
    base: BitCount
    adapter: int = 0

    def bits(self, *, index: bool = True, scale: bool = True, bias: bool = True) -> int:
        """``base + adapter``; the three switches leave out what published formulas do not count."""
        return self.base.total(index=index, scale=scale, bias=bias) + self.adapter

    @property
    def is_dense(self) -> bool:
        """Whether the weight takes as much as it did."""
        return self.base.payload >= self.dense

    def ratio(self, *, index: bool = True, scale: bool = True, bias: bool = True) -> float:
        """How many times smaller than dense. All switches off: ``32 m n / (base + 32 r (m + n))``, as published."""
        return (self.dense + self.bias * bias) / self.bits(index=index, scale=scale, bias=bias)


@dataclass(frozen=True)
class ModelSize:
    """Bits of a whole model.

    Args:
        layers: The compressed layers.
        untouched: Bits of all other parameters.
        buffers: Bits of the buffers (batch-norm statistics); published figures leave them out.
        dense: Bits of all parameters of the uncompressed model.
        dense_buffers: Bits of its buffers.
    """

    layers: Mapping[str, LayerSize]
    untouched: int
    buffers: int
    dense: int
    dense_buffers: int

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the exported file, its header apart."""
        return (sum(layer.bits() for layer in self.layers.values()) + self.untouched + self.buffers) // 8

    @property
    def dense_bytes(self) -> int:
        """Bytes of the uncompressed model."""
        return (self.dense + self.dense_buffers) // 8

    @property
    def layer_bytes(self) -> int:
        return sum(layer.bits() for layer in self.layers.values()) // 8

    @property
    def layer_ratio(self) -> float:
        return sum(layer.dense + layer.bias for layer in self.layers.values()) / (8 * self.layer_bytes)

    @property
    def ratio(self) -> float:
        return self.dense_bytes / self.bytes

    def published_ratio(self) -> float:
        """Without index bits, scales and buffers, as published; biases stand on both sides."""
        small = sum(layer.bits(index=False, scale=False) for layer in self.layers.values())
        return self.dense / (small + self.untouched)


def model_size(original: nn.Module, compressed: CompressedModel, adapter_bits: Mapping[str, int]) -> ModelSize:
    """The size of a compressed model with its adapter.

    Args:
        original: The uncompressed model.
        compressed: The same, compressed.
        adapter_bits: Bits of the adapter by layer name.
    """
    layers = {}
    for name, weight in compressed.weights.items():
        before, after = original.get_submodule(name), compressed.model.get_submodule(name)
        dense = matrix_shape(before)
        layers[name] = LayerSize(
            dense=32 * dense[0] * dense[1],
            bias=_bias_bits(before),
            base=weight.bits + BitCount(payload=0, bias=_bias_bits(after)),
            adapter=adapter_bits.get(name, 0),
        )
    inside = {f"{name}.{kind}" for name in layers for kind in ("weight", "bias")}
    parameters = sum(tensor.numel() for key, tensor in compressed.model.named_parameters() if key not in inside)
    beside = sum(bits for name, bits in adapter_bits.items() if name not in layers)
    return ModelSize(
        layers,
        untouched=32 * parameters + beside,
        buffers=8 * sum(tensor_bytes(buffers=compressed.model)),
        dense=32 * sum(tensor.numel() for tensor in original.parameters()),
        dense_buffers=8 * sum(tensor_bytes(buffers=original)),
    )


def tensor_bytes(buffers: nn.Module) -> list[int]:
    """Bytes of each buffer that a model's ``state_dict`` holds."""
    parameters = {key for key, _ in buffers.named_parameters()}
    return [t.numel() * t.element_size() for key, t in buffers.state_dict().items() if key not in parameters]


def _bias_bits(layer: nn.Module) -> int:
    bias = getattr(layer, "bias", None)
    return 0 if bias is None else 32 * bias.numel()


def model_macs(
    original: nn.Module, compressed: CompressedModel, positions: Mapping[str, int], adapter_macs: Mapping[str, int]
) -> tuple[int, int]:
    """Multiply-accumulates of one image in all Linear and Conv2d layers: ``(compressed with adapter, dense)``.

    Args:
        original: The uncompressed model.
        compressed: The same, compressed.
        positions: How often each layer's matrix meets a vector (``output_positions``).
        adapter_macs: Those of the adapter for one vector, by layer name.
    """
    small = dense = 0
    for name in layer_names(original):
        before, after = (math.prod(matrix_shape(each.get_submodule(name))) for each in (original, compressed.model))
        weight = compressed.weights.get(name)
        small += positions[name] * ((weight.macs if weight else after) + adapter_macs.get(name, 0))
        dense += positions[name] * before
    return small, dense
