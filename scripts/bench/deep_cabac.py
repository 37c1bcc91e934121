"""DeepCABAC, the adaptive arithmetic coder of the NNC standard (ISO/IEC 15938-17), as the package nncodec has it.

Its package asks for numpy 1, and its coder works with numpy 2: ``pip install --no-deps nncodec``.
"""

from typing import Any

import numpy as np

from pipeline.compress.symbol_model import Array

UNARY = 11
"""Decisions that tell a magnitude before its exponential Golomb code begins; the package's default."""


def _options() -> tuple[Any, ...]:
    """Those of a plain tensor: profile 0, no parent tensor, no skipped rows, no history, no codebook."""
    from nncodec.extensions.deepCABAC import HdspMode

    return HdspMode.AlwaysOff, np.zeros(2, np.int8), 0, 0


def coded(symbols: Array, width: int) -> bytes:
    """Code symbols below ``2 ** width``; those of several bits are centred, as zeros take fewest decisions."""
    from nncodec.extensions.deepCABAC import Encoder

    centred = np.atleast_2d(symbols.astype(np.int32) - _centre(width))
    encoder = Encoder()
    encoder.initCtxModels(UNARY, 1)  # with rates of adaptation that the coder chooses by trying
    encoder.encodeLayer(centred, 0, 0, 0, 0, 0, np.zeros(len(centred), np.int32), *_options())
    return bytes(encoder.finish())


def decoded(data: bytes, shape: tuple[int, ...], width: int) -> Array:
    """The symbols that ``coded`` gave ``data`` for."""
    from nncodec.extensions.deepCABAC import Decoder

    centred = np.atleast_2d(np.zeros(shape, np.int32))
    decoder = Decoder()
    decoder.setStream(np.frombuffer(data, np.uint8))
    decoder.initCtxModels(UNARY)
    decoder.decodeLayer(centred, 0, 0, 0, 0, *_options())
    decoder.finish()
    return (centred + _centre(width)).astype(np.uint8).reshape(shape)


def _centre(width: int) -> int:
    return 1 << width - 1 if width > 1 else 0
