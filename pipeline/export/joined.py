"""All tensors of a file as one entry: their names and shapes share one header, and coded ones are as long as they are.

The entry ``coded`` holds bytes: the CRC-32 of a header, the header in zlib's raw form, and the bytes of each tensor in
the order of the header, which is JSON, ``[[name, type, shape, bytes, width, columns], ...]``. The last two are those of
the tensor's ``Packing``; plain tensors have neither, nor ``bytes``, which follow from the shape.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.compress.coded_tensors import CodedTensor, decoded_tensor
from pipeline.compress.packing import Packing
from pipeline.errors import IntegrityError

ENTRY = "coded"
CHECK = 4
"""Bytes of the checksum of the header, with which the entry begins."""
WORDS = (
    b'.running_mean"running_var"num_batches_tracked","int64",[]low_index"high_index"centroid"level"zero"'
    b'["fc1.lora_A","float32",[fc3.weight.mask_index"uint8",[1.bias","float16",[.weight.scale","float16",['
    b'.weight.sign","uint8",[],["fc2.weight.code","uint8",['
)
"""What headers hold often, so that zlib needs fewer bytes for them; a file can be read with these words alone."""


def join(coded: Mapping[str, CodedTensor]) -> dict[str, Tensor]:
    """The one entry of a file of these tensors."""
    described = [_described(name, tensor) for name, tensor in coded.items()]
    table = json.dumps(described, separators=(",", ":")).encode()
    compressor = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    header = zlib.crc32(table).to_bytes(CHECK, "little") + compressor.compress(table) + compressor.flush()
    data = header + b"".join(tensor.data for tensor in coded.values())
    return {ENTRY: torch.frombuffer(bytearray(data), dtype=torch.uint8)}


def _described(name: str, tensor: CodedTensor) -> list[Any]:
    own = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
    return own if tensor.packing is None else [*own, len(tensor.data), *tensor.packing]


def separate(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file; one that was not joined holds them as its entries.

    Raises:
        IntegrityError: The header is damaged, or a tensor, which it names.
    """
    if entries.keys() != {ENTRY}:
        return dict(entries)
    tensors, (table, data) = {}, _parts(entries)
    try:
        for name, coded in _cut(table, data):
            try:
                tensors[name] = decoded_tensor(coded)
            except ValueError as error:
                raise IntegrityError(f"the coded tensor '{name}' is damaged: {error}; export it again") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise IntegrityError(f"the header of the coded tensors is damaged: {error}; export it again") from None
    return tensors


def header_bytes(entries: Mapping[str, Tensor]) -> int:
    """Bytes of the header within the entry of joined tensors; 0 for others."""
    return len(entries[ENTRY]) - len(_parts(entries)[1]) if entries.keys() == {ENTRY} else 0


def _parts(entries: Mapping[str, Tensor]) -> tuple[bytes, bytes]:
    """The header of joined tensors, and the bytes behind it."""
    decompressor = zlib.decompressobj(wbits=-15, zdict=WORDS)
    try:
        data = entries[ENTRY].numpy().tobytes()
        table = decompressor.decompress(data[CHECK:])
        if zlib.crc32(table).to_bytes(CHECK, "little") != data[:CHECK]:
            raise ValueError("it has another checksum")
    except (zlib.error, TypeError, ValueError) as error:
        raise IntegrityError(f"the header of the coded tensors is damaged: {error}; export it again") from None
    return table, decompressor.unused_data


def _cut(table: bytes, data: bytes) -> Iterator[tuple[str, CodedTensor]]:
    """Each tensor with its name; a ``ValueError`` if header and bytes do not fit."""
    start = 0
    for name, dtype, shape, *coding in json.loads(table):
        kind = getattr(torch, dtype)
        if not isinstance(kind, torch.dtype) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"'{name}' has type {dtype} and shape {shape}")
        length, *packing = coding or [math.prod(shape) * kind.itemsize]
        part = data[start : start + length]
        if len(part) != length:
            raise ValueError(f"the bytes end within '{name}'")
        yield name, CodedTensor(kind, tuple(shape), part, Packing(*packing) if packing else None)
        start += length
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes follow the last tensor")
