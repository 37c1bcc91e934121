"""Entropy coding of small integers: interleaved rANS (Duda, 2013, arXiv:1311.2540) with static tables, in numpy.

A symbol of frequency ``f`` of ``M = 2^15`` takes ``log2(M / f)`` bits. ``lanes`` coders with states ``x`` in
``[2^16, 2^32)`` take every ``lanes``-th symbol each and share one stream of 16-bit words, so that numpy codes ``lanes``
symbols at once. All states begin at ``2^16``; a decoder that does not arrive there knows that its bytes are damaged.
"""

import numpy as np
import torch

from pipeline.compress.packing import unpack
from pipeline.compress.symbol_model import (
    FINEST,
    LEVEL_BITS,
    PRECISION,
    Array,
    Contexts,
    Model,
    best_model,
    packed,
)

LOWEST = 1 << 16
"""The least state, and the first of every lane."""
LANE_BYTES, MOST_LANES = 384, 15
"""Coded bytes for each lane, whose state costs about 3; and ``log2`` of the most lanes."""
RAW, CODED = 0, 16
"""Kinds of streams, in the first byte; below it is ``log2 lanes``."""


def coded(symbols: Array, width: int = 8) -> bytes:
    """Code uint8 symbols below ``2 ** width``, ``[n]`` or ``[rows, columns]``, in the fewest bytes found.

    Without symbols there are no bytes. Where coding saves nothing, the symbols are packed with ``width`` bits each.
    """
    if not symbols.size:
        return b""
    model, raw_bytes = best_model(symbols, width, coded), 1 + -(-symbols.size * width // 8)
    stream = _encoded(symbols.ravel(), model) if model.bytes < raw_bytes else b""
    return stream if 0 < len(stream) < raw_bytes else bytes([RAW]) + packed(symbols, width)


def decoded(data: bytes, shape: tuple[int, ...], width: int = 8) -> Array:
    """The symbols that ``coded`` gave ``data`` for, uint8 of ``shape``.

    Raises:
        ValueError: The bytes are damaged, or of other symbols.
    """
    reader = _Reader(data)
    symbols = reader.symbols(shape, width) if np.prod(shape) else np.empty(shape, np.uint8)
    reader.refuse_more()
    return symbols


def _encoded(symbols: Array, model: Model) -> bytes:
    """The stream of ``symbols [n]``: kind, head, states ``uint32 [lanes]``, words ``uint16``."""
    log_lanes = max(0, min(MOST_LANES, int(np.log2(max(1.0, model.bits / 8 / LANE_BYTES)))))
    lanes, keys = 1 << log_lanes, model.grouped(symbols)
    frequencies = model.joint_tables.astype(np.uint64)
    starts = (frequencies.cumsum(1, dtype=np.uint64) - frequencies).ravel()
    rest, frequencies = np.uint64(1 << PRECISION) - frequencies.ravel(), frequencies.ravel()
    state, words = np.full(lanes, LOWEST, np.uint64), list[Array]()
    room, word = np.uint64(32 - PRECISION), np.uint64(16)
    for first in range((len(keys) - 1) // lanes * lanes, -1, -lanes):
        key = keys[first : first + lanes]
        x, f = state[: len(key)], frequencies[key]
        full = np.flatnonzero(x >= f << room)
        words.append(x[full].astype("<u2"))  # the lower half
        x[full] >>= word
        x += x // f * rest[key] + starts[key]
    stream = np.concatenate(words[::-1])
    return bytes([CODED | log_lanes]) + model.head + state.astype("<u4").tobytes() + stream.tobytes()


class _Reader:
    """Reads streams from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError(f"the coded bytes end {count - len(part)} bytes too early")
        self._at += count
        return part

    def refuse_more(self) -> None:
        if self._at < len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow the coded ones")

    def _unpacked(self, count: int, width: int) -> Array:
        packed = torch.frombuffer(bytearray(self._take(-(-count * width // 8))), dtype=torch.uint8)
        return unpack(packed, count, width, torch.uint8).numpy()

    def symbols(self, shape: tuple[int, ...], width: int) -> Array:
        """The symbols of the next stream, uint8 of ``shape``."""
        count, kind = int(np.prod(shape)), self._take(1)[0]
        if kind == RAW:
            return self._unpacked(count, width).reshape(shape)
        logs, low, high = self._take(3)
        rows, columns = logs >> 4, logs & 15
        if not CODED <= kind <= CODED + MOST_LANES or max(rows, columns) > FINEST * (len(shape) == 2):
            raise ValueError(f"the coded bytes begin with {kind}, {logs}, which is no kind of stream")
        if low > high or high >> width:
            raise ValueError(f"the coded bytes hold symbols {low} to {high}, outside those of {width} bits")
        lengths = shape if len(shape) == 2 else (1, count)
        classes = [
            self.symbols((length,), log) if log else np.zeros(length, np.uint8)
            for length, log in zip(lengths, (rows, columns), strict=True)
        ]
        contexts = Contexts(classes[0], classes[1], (rows, columns))
        levels = self._unpacked(contexts.count * (high - low + 1), LEVEL_BITS).reshape(contexts.count, -1)
        model = Model(contexts, low, levels)
        return model.separated(self._decoded(model, 1 << kind - CODED)).reshape(shape)

    def _decoded(self, model: Model, lanes: int) -> Array:
        """The entries of all groups of a model, uint8."""
        tables = model.joint_tables
        contexts, alphabet = tables.shape
        # Of each context, the entry at each of the 2^15 places of its table.
        entry_at = np.repeat(np.tile(np.arange(alphabet, dtype=np.uint8), contexts), tables.ravel())
        starts = (tables.cumsum(1) - tables).astype(np.uint32).ravel()
        frequencies = tables.astype(np.uint32).ravel()
        context_of = np.repeat(np.arange(contexts, dtype=np.uint32), model.groups) if contexts > 1 else None
        state = np.frombuffer(self._take(4 * lanes), "<u4").astype(np.uint32)
        if (state < LOWEST).any():
            raise ValueError("the coded bytes hold no states of a coder")
        words = np.frombuffer(self._data[self._at :][: (len(self._data) - self._at) // 2 * 2], "<u2").astype(np.uint32)
        entries, at = np.empty(int(model.groups.sum()), np.uint8), 0
        shift, mask, word = np.uint32(PRECISION), np.uint32((1 << PRECISION) - 1), np.uint32(16)
        for first in range(0, len(entries), lanes):
            out = entries[first : first + lanes]
            x = state[: len(out)]
            slot = x & mask
            if context_of is None:
                key = out[:] = entry_at[slot]
            else:
                context = context_of[first : first + lanes]
                out[:] = entry_at[(context << shift) + slot]
                key = context * np.uint32(alphabet) + out
            x >>= shift
            x *= frequencies[key]
            x += slot - starts[key]
            empty = np.flatnonzero(x < LOWEST)
            if at + len(empty) > len(words):
                raise ValueError("the coded bytes end too early")
            x[empty] = x[empty] << word | words[at : at + len(empty)]
            at += len(empty)
        if (state != LOWEST).any():
            raise ValueError("the coded bytes are damaged: the coder does not return to where it began")
        self._at += 2 * at
        return entries
