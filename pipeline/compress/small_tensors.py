"""Small tensors of a model in 16 bits: scales and levels of packed weights, biases, norms and their statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.compress.contract import CompressedModel, Compression, LayerStats
from pipeline.compress.layers import copy_sharing_tensors, group_count, matrix_shape, replace_weight
from pipeline.compress.weight import CompressedWeight
from pipeline.config.combination_spec import StorageSpec

GRIDS = frozenset({"scale", "zero", "level", "centroid", "values"})
"""Last words of the names of tensors that are few beside the codes of their weight, whatever their shape."""
HALF = torch.finfo(torch.float16)


def is_small(name: str, tensor: Tensor, lanes: int = 0) -> bool:
    """Whether a tensor of a file, or one that is trained, is a small one; its first ``lanes`` axes do not count.

    Small are real tensors of a packed weight or an adapter named after ``GRIDS``, and all other vectors: biases, norms,
    running statistics. Vectors of a packed weight, ``fc1.weight.<kind>``, are not, as kept values may be one.
    """
    owner, _, kind = name.rpartition(".")
    word = kind.rpartition("_")[2]
    is_vector = tensor.ndim - lanes <= 1 and owner.rpartition(".")[2] != "weight" and word != "latent"
    return tensor.is_floating_point() and (is_vector or word in GRIDS)


def in_16_bits(tensor: Tensor) -> Tensor:
    """The values of a tensor as float16, or as bfloat16 if its largest magnitude is no normal number of float16.

    Smaller values may keep fewer digits, but their error is small beside the largest.
    """
    largest = tensor.detach().abs().amax() if tensor.numel() else tensor.new_zeros(())
    # The lower bound is that of the rounded value, so that values in 16 bits always keep their type.
    fits = float(largest) == 0 or (float(largest.bfloat16()) >= HALF.tiny and float(largest) <= HALF.max)
    return tensor.half() if fits else tensor.bfloat16()


def as_stored(tensors: Mapping[str, Tensor], storage: StorageSpec) -> dict[str, Tensor]:
    """Tensors by name as a file of this storage holds them."""
    if storage.small == "float32":
        return dict(tensors)
    return {name: in_16_bits(tensor) if is_small(name, tensor) else tensor for name, tensor in tensors.items()}


def stored_bytes(name: str, tensor: Tensor, storage: StorageSpec) -> int:
    """Bytes of a tensor in a file of this storage."""
    halved = storage.small == "float16" and is_small(name, tensor)
    return 2 * tensor.numel() if halved else tensor.nbytes


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file, with the small ones in float32 again."""
    return {name: tensor.float() if is_small(name, tensor) else tensor for name, tensor in tensors.items()}


def round_small(tensors: Mapping[str, Tensor], storage: StorageSpec, lanes: int = 0) -> dict[str, Tensor]:
    """Tensors by name with the small ones rounded to what ``as_stored`` keeps of them, in their own types.

    With an axis of ``lanes``, each lane is rounded by itself.
    """

    def round_one(name: str, tensor: Tensor) -> Tensor:
        if not is_small(name, tensor, lanes):
            return tensor
        parts = [in_16_bits(part).to(tensor.dtype) for part in (tensor if lanes else [tensor])]
        return torch.stack(parts) if lanes else parts[0]

    if storage.small == "float32":
        return dict(tensors)
    return {name: round_one(name, tensor) for name, tensor in tensors.items()}


def rounded_weight(
    weight: CompressedWeight, layer: nn.Module, compression: Compression, storage: StorageSpec
) -> CompressedWeight:
    """The compressed weight of a ``layer`` as it is read back from a file of this storage."""
    packed = {f"weight.{kind}": tensor for kind, tensor in weight.to_tensors().items()}
    stored = round_small(packed, storage)
    if all(stored[name] is tensor for name, tensor in packed.items()):
        return weight
    kinds = {name.removeprefix("weight."): tensor for name, tensor in stored.items()}
    return compression.load_weight(kinds, matrix_shape(layer), group_count(layer))


def compress_as_stored(
    compression: Compression, storage: StorageSpec, layer: nn.Module, stats: Sequence[LayerStats], matrix: Tensor
) -> CompressedWeight:
    """Compress another ``matrix [out, in]`` for a layer, and round it to what a file of this storage holds."""
    return rounded_weight(compression.compress_layer(layer, matrix, stats), layer, compression, storage)


def rounded_model(compressed: CompressedModel, compression: Compression, storage: StorageSpec) -> CompressedModel:
    """A compressed model as it is read back from a file of this storage; the given one is not changed."""
    if storage.small == "float32":
        return compressed
    model = copy_sharing_tensors(compressed.model, lambda name, tensor: round_small({name: tensor}, storage)[name])
    weights, done = dict[str, CompressedWeight](), dict[int, CompressedWeight]()
    for name, weight in compressed.weights.items():
        layer = model.get_submodule(name)
        if id(weight) not in done:
            done[id(weight)] = rounded_weight(weight, layer, compression.of_layer(name), storage)
        weights[name] = done[id(weight)]
        if weights[name] is not weight:
            replace_weight(model, name, weights[name].dense().to(layer.get_parameter("weight")))
    return replace(compressed, model=model, weights=weights)
