"""Tensors in fewer bytes: packed codes by how frequent they are, numbers by how frequent their highest bytes are."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.compress.entropy import coded, decoded
from pipeline.compress.packing import Packing, pack, unpack
from pipeline.compress.symbol_model import Array

NUMBERS = 0
"""The width of a packing that stands for numbers, of which only the highest byte is coded: sign and exponent."""


@dataclass(frozen=True)
class CodedTensor:
    """A tensor as bytes; they are coded if a ``packing`` says how."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: bytes
    packing: Packing | None = None


def coded_tensor(tensor: Tensor, packing: Packing | None = None) -> CodedTensor:
    """Code a tensor, whose codes may be packed; where that takes no fewer bytes, it is stored as it is."""
    tensor = tensor.detach().cpu().contiguous()
    plain = CodedTensor(tensor.dtype, tuple(tensor.shape), _bytes_of(tensor).tobytes())
    if not plain.data:
        return plain
    columns = tensor[0].numel() if tensor.ndim > 1 else 0
    data: bytes | None = None
    if tensor.is_floating_point() and tensor.element_size() > 1:
        packing = Packing(NUMBERS, columns)
        data = _coded_numbers(tensor, columns)
    elif tensor.dtype in (torch.uint8, torch.int8) and tensor.ndim:
        packing = packing if packing and packing.width <= 8 else Packing(8, columns)
        codes = _codes_of(_bytes_of(tensor).reshape(plain.shape), packing)
        data = None if codes is None else coded(codes, packing.width)
    if data is None or len(data) >= len(plain.data):
        return plain
    return CodedTensor(plain.dtype, plain.shape, data, packing)


def decoded_tensor(given: CodedTensor) -> Tensor:
    """The tensor that ``coded_tensor`` coded.

    Raises:
        ValueError: The bytes are damaged, or not those of such a tensor.
    """
    count = int(np.prod(given.shape)) * given.dtype.itemsize
    if given.packing is None:
        array = np.frombuffer(given.data, np.uint8)
    elif given.packing.width == NUMBERS:
        array = _decoded_numbers(given)
    else:
        array = _packed_codes(given)
    if array.size != count:
        raise ValueError(f"{array.size} bytes are stored, and its shape and type take {count}")
    if not count:
        return torch.empty(given.shape, dtype=given.dtype)
    return torch.from_numpy(array.reshape(-1).copy()).view(given.dtype).reshape(given.shape)


def _bytes_of(tensor: Tensor) -> Array:
    flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)  # a single value may have any stride
    return flat.view(torch.uint8).numpy()


def _matrix(count: int, columns: int) -> tuple[int, ...]:
    return (count // columns, columns) if columns and count % columns == 0 else (count,)


def _codes_of(packed: Array, packing: Packing) -> Array | None:
    """The codes of ``packed [..., bytes]``, in rows if there are some; ``None`` if not only codes are packed."""
    rows, shape = _layout(packed.shape, packing)
    each = torch.from_numpy(packed.reshape(rows, -1))
    count = each.shape[1] * 8 // packing.width
    codes = torch.stack([unpack(row, count, packing.width, torch.uint8) for row in each])
    used = int(np.prod(shape)) // rows
    repacked = torch.stack([pack(row, packing.width) for row in codes])
    is_padded = not codes[:, used:].any() and torch.equal(repacked, each)
    return codes[:, :used].reshape(shape).numpy() if is_padded else None


def _layout(shape: tuple[int, ...], packing: Packing) -> tuple[int, tuple[int, ...]]:
    """How many tensors are packed one after the other, and the shape of their codes, without those of the padding."""
    rows = int(np.prod(shape[:-1]))
    count = shape[-1] * 8 // packing.width
    used = count - count % packing.columns if packing.columns else count
    return rows, _matrix(rows * used, packing.columns)


def _packed_codes(given: CodedTensor) -> Array:
    packing = given.packing
    if packing is None or not given.shape or not 1 <= packing.width <= 8:
        raise ValueError("its packing is unknown")
    rows, shape = _layout(given.shape, packing)
    codes = torch.from_numpy(decoded(given.data, shape, packing.width).reshape(rows, -1))
    padded = codes.new_zeros(rows, given.shape[-1] * 8 // packing.width)
    padded[:, : codes.shape[1]] = codes
    return torch.stack([pack(row, packing.width) for row in padded]).numpy()


def _coded_numbers(tensor: Tensor, columns: int) -> bytes:
    """The coded highest bytes, with the sign as their lowest bit, and the other bytes as they are."""
    parts = _bytes_of(tensor).reshape(-1, tensor.element_size())
    highest = parts[:, -1]
    turned = (highest << 1) | (highest >> 7)
    return coded(turned.reshape(_matrix(turned.size, columns))) + parts[:, :-1].tobytes()


def _decoded_numbers(given: CodedTensor) -> Array:
    count, others = int(np.prod(given.shape)), given.dtype.itemsize - 1
    start = len(given.data) - count * others
    if start < 0 or others < 1 or given.packing is None:
        raise ValueError("the coded bytes end too early")
    turned = decoded(given.data[:start], _matrix(count, given.packing.columns)).reshape(-1)
    array = np.empty((count, others + 1), np.uint8)
    array[:, -1] = (turned >> 1) | (turned << 7)
    array[:, :-1] = np.frombuffer(given.data[start:], np.uint8).reshape(count, others)
    return array
