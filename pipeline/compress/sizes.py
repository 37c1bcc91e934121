"""The tensors of an exported model, and from them its size in bits, exact before training; multiply-accumulates."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pipeline.compress.coded_tensors import CodedTensor, coded_tensor
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layers import matrix_shape
from pipeline.compress.shared_tensors import sharing_layers
from pipeline.compress.small_tensors import as_stored, stored_bytes
from pipeline.compress.weight import BitCount, CompressedWeight, count_bits
from pipeline.task.inspection import first_keys, layer_names

P = TypeVar("P")
_UNCHANGED: WeakKeyDictionary[nn.Module, dict[tuple[str, torch.dtype], int]] = WeakKeyDictionary()
"""Coded bytes of the tensors of each compressed model: a second for 12 million numbers, longer than some trials."""


@dataclass(frozen=True)
class StoredModel:
    """What an exported file holds of a model: both the file and its predicted size are made from this.

    A tensor of ``adapter``, packed as in the file, with the name of one of the model's parameters takes its place.
    """

    compressed: CompressedModel
    adapter: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def unpacked(self) -> dict[str, Tensor]:
        """The tensors of the model's ``state_dict`` that are stored as they are."""
        packed = {f"{name}.weight" for name in self.compressed.weights}
        model = self.compressed.model
        state, firsts = model.state_dict(), first_keys(model)
        return {
            key: self.adapter.get(key, state[key])
            for key, first in firsts.items()
            if (first == key or key in self.adapter) and key not in packed
        }

    @cached_property
    def tied(self) -> frozenset[str]:
        """The compressed layers whose weight an earlier layer stores for them, because the model ties the two."""
        owners: dict[int, str] = {}
        return frozenset(
            name for name, weight in self.compressed.weights.items() if owners.setdefault(id(weight), name) != name
        )

    @property
    def adapter_bits(self) -> dict[str, int]:
        """Bits of the tensors that the adapter adds to the file, by the name of the layer."""
        bits: Counter[str] = Counter()
        for key, tensor in self.adapter.items():
            if key not in self.unpacked:
                bits[key.rpartition(".")[0]] += 8 * stored_bytes(key, tensor, self.compressed.storage)
        return dict(bits)

    @property
    def _stored_weights(self) -> dict[str, CompressedWeight]:
        return {name: weight for name, weight in self.compressed.weights.items() if name not in self.tied}

    def _by_key(self, packed: Mapping[str, Mapping[str, P]]) -> dict[str, P]:
        """What is given for each layer and kind, by the key of the packed tensor in the file.

        What layers share stands under the first of them.
        """
        shared = sharing_layers(self._stored_weights)
        repeated = {(name, kind) for kind, names in shared for name in names[1:]}
        return {
            f"{name}.weight.{kind}": part
            for name, parts in packed.items()
            for kind, part in parts.items()
            if (name, kind) not in repeated
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the file before any coding; a packed weight is ``<layer>.weight.<kind>`` for each kind."""
        packed = self._by_key({name: weight.to_tensors() for name, weight in self._stored_weights.items()})
        return as_stored({**packed, **self.unpacked, **self.adapter}, self.compressed.storage)

    @cached_property
    def coded(self) -> dict[str, CodedTensor]:
        """All tensors of the file, coded; packed weights in the form that then takes the fewest bytes."""
        return {**self._codes, **{key: coded_tensor(tensor) for key, tensor in self._numbers.items()}}

    @property
    def _codes(self) -> dict[str, CodedTensor]:
        """The coded tensors of codes and positions."""
        return self._by_key({name: weight.coded_tensors for name, weight in self._stored_weights.items()})

    @property
    def _numbers(self) -> dict[str, Tensor]:
        """All other tensors of the file, before any coding."""
        shapes = self._by_key({name: weight.packed_shapes for name, weight in self._stored_weights.items()})
        replaced = {key for key, tensor in shapes.items() if not tensor.is_floating_point()}
        return {key: tensor for key, tensor in self.tensors().items() if key not in replaced}

    def _coded_sizes(self) -> dict[str, int]:
        """Bytes of each tensor of ``coded``; what the adapter does not change is coded once for all trials."""
        sizes = {key: len(tensor.data) for key, tensor in self._codes.items()}
        known = _UNCHANGED.setdefault(self.compressed.model, {})
        for key, tensor in self._numbers.items():
            if key not in self.unpacked or key in self.adapter:
                sizes[key] = len(coded_tensor(tensor).data)
                continue
            if (key, tensor.dtype) not in known:
                known[key, tensor.dtype] = len(coded_tensor(tensor).data)
            sizes[key] = known[key, tensor.dtype]
        return sizes

    def sizes(self, *, coded: bool = False) -> dict[str, int]:
        """Bytes of each tensor of the file, before any coding or ``coded``."""
        storage = self.compressed.storage
        if coded and storage.coding != "none":
            return self._coded_sizes()
        packed = self._by_key({name: weight.packed_shapes for name, weight in self._stored_weights.items()})
        tensors = {**packed, **self.unpacked, **self.adapter}
        return {key: stored_bytes(key, tensor, storage) for key, tensor in tensors.items()}


@dataclass(frozen=True)
class LayerSize:
    """Bits of one compressed layer."""

    dense: int  # of the uncompressed weight, 32 per value
    bias: int  # of the uncompressed layer's bias
    base: BitCount  # of the packed weight and the bias in the file
    adapter: int = 0  # of the adapter's tensors in the file

    def bits(self, *, index: bool = True, scale: bool = True, bias: bool = True) -> int:
        """``base + adapter``; without the switches the published ``base + 32 r (m + n)`` of an ``m x n`` layer."""
        return self.base.total(index=index, scale=scale, bias=bias) + self.adapter

    @property
    def is_dense(self) -> bool:
        """Whether the stored weight is no smaller than the uncompressed one."""
        return 0 < self.dense <= self.base.payload


@dataclass(frozen=True)
class ModelSize:
    """Bits of a whole model."""

    layers: Mapping[str, LayerSize]  # the compressed layers by name
    untouched: int  # all other parameters in the file
    buffers: int  # buffers in the file (batch-norm statistics), which published figures leave out
    dense: int  # all parameters of the uncompressed model, 32 bits per value
    dense_buffers: int  # buffers of the uncompressed model

    @property
    def bytes(self) -> int:
        """Bytes of all tensors in the exported file, without the file's header."""
        return self.layer_bytes + (self.untouched + self.buffers) // 8

    @property
    def dense_bytes(self) -> int:
        """Bytes of the uncompressed model."""
        return (self.dense + self.dense_buffers) // 8

    @property
    def layer_bytes(self) -> int:
        """Bytes of the compressed layers alone."""
        return sum(layer.bits() for layer in self.layers.values()) // 8

    @property
    def layer_ratio(self) -> float:
        """How many times smaller the compressed layers are together."""
        return sum(layer.dense + layer.bias for layer in self.layers.values()) / (8 * self.layer_bytes)

    @property
    def ratio(self) -> float:
        """How many times smaller the whole model is."""
        return self.dense_bytes / self.bytes

    def published_ratio(self) -> float:
        """``ratio`` without index bits, scales and buffers; biases count in both models."""
        small = sum(layer.bits(index=False, scale=False) for layer in self.layers.values())
        return self.dense / (small + self.untouched)


def model_size(original: nn.Module, stored: StoredModel, *, coded: bool = False) -> ModelSize:
    """The size of what the file of a compressed model holds, beside that of the uncompressed model ``original``.

    Without ``coded`` it is the size before any entropy coding, which follows from shapes and is never less.
    """
    sizes, layers, compressed = stored.sizes(coded=coded), {}, stored.compressed
    own = {key: sizes.pop(key) for key in stored.unpacked}
    adapter = Counter[str]()
    for key in stored.adapter.keys() & sizes.keys():
        adapter[key.rpartition(".")[0]] += 8 * sizes.pop(key)
    for name in compressed.weights:
        layer, prefix = original.get_submodule(name), f"{name}.weight."
        out, inner = matrix_shape(layer)
        packed = {key.removeprefix(prefix): size for key, size in sizes.items() if key.startswith(prefix)}
        layers[name] = LayerSize(
            dense=0 if name in stored.tied else 32 * out * inner,
            bias=0 if layer.bias is None else 32 * out,
            base=replace(count_bits(packed), bias=8 * own.pop(f"{name}.bias", 0)),
            adapter=adapter.pop(name, 0),
        )
    uncompressed = StoredModel(CompressedModel(original, {}, original))
    buffers = _buffer_bits(compressed.model, own)
    return ModelSize(
        layers,
        untouched=8 * sum(own.values()) - buffers + sum(adapter.values()),
        buffers=buffers,
        dense=32 * sum(parameter.numel() for parameter in original.parameters()),
        dense_buffers=_buffer_bits(original, uncompressed.sizes()),
    )


def _buffer_bits(model: nn.Module, sizes: Mapping[str, int]) -> int:
    """Bits of those tensors of a model that are no parameters, from the bytes of each."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return sum(8 * size for name, size in sizes.items() if name not in parameters)


def model_macs(
    original: nn.Module, compressed: CompressedModel, positions: Mapping[str, int], adapter_macs: Mapping[str, int]
) -> tuple[int, int]:
    """Multiply-accumulates of all Linear and Conv2d layers for one image: ``(compressed with adapter, uncompressed)``.

    ``positions`` is how many input vectors each layer multiplies per image (``Inspection.positions``), and
    ``adapter_macs`` what the adapter adds per input vector.
    """
    small = dense = 0
    for name in layer_names(original):
        before, after = (math.prod(matrix_shape(model.get_submodule(name))) for model in (original, compressed.model))
        weight = compressed.weights.get(name)
        small += positions[name] * ((weight.macs if weight else after) + adapter_macs.get(name, 0))
        dense += positions[name] * before
    return small, dense
