"""How likely each symbol of a tensor of small integers is, in a few bytes: tables of frequencies for entropy coding.

Symbols that form a matrix may have several tables: rows and columns are sorted into classes by how many bits they take,
and each pair of classes is a *context* with a table of its own. The positions of sparse weights, of which many lie in
few columns, take 5 to 35 % less than with one table. Of few different symbols, several of a context are coded at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.compress.packing import pack

PRECISION = 15
"""Frequencies of a table sum to ``2 ** PRECISION``."""
STEPS_PER_OCTAVE, LEVEL_BITS = 4, 6
"""A table holds 6 bits per symbol: 0 if it is absent, otherwise ``1 - 4 log2`` of its share."""
FINEST = 3
"""``log2`` of the most classes of columns, and of rows."""
JOINT = 32
"""The most entries of a table of several symbols; in larger ones the rarest, at least 1 of ``M``, take too much."""
DIVIDED = 512
"""The fewest symbols for which classes of rows and columns may save more bytes than they take."""

Array = NDArray[Any]
WEIGHTS = np.rint(2.0 ** (30 - (np.arange(1 << LEVEL_BITS) - 1) / STEPS_PER_OCTAVE)).astype(np.int64)
WEIGHTS[0] = 0
Coder = Callable[[Array, int], bytes]
"""From symbols below ``2 ** width`` and ``width`` to bytes."""


@dataclass(frozen=True)
class Contexts:
    """Which table each place of a matrix has: that of the classes of its row and its column."""

    rows: Array  # class of each row, uint8 [rows]
    columns: Array  # uint8 [columns]
    logs: tuple[int, int] = (0, 0)  # log2 of the numbers of classes of rows and of columns

    @property
    def count(self) -> int:
        return 1 << sum(self.logs)

    @cached_property
    def numbers(self) -> Array:
        """The context of each place, uint8 ``[rows * columns]``."""
        return ((self.rows[:, None] << self.logs[1]) + self.columns[None]).ravel()

    @cached_property
    def sizes(self) -> Array:
        """The number of places of each context."""
        rows, columns = (np.bincount(part, minlength=1 << log) for part, log in self._parts)
        return np.outer(rows, columns).ravel()

    @property
    def _parts(self) -> list[tuple[Array, int]]:
        return list(zip((self.rows, self.columns), self.logs, strict=True))

    @cached_property
    def order(self) -> Array | slice:
        """The places, those of one context after those of another."""
        if self.count == 1:
            return slice(None)
        order: Array = self.numbers.argsort(kind="stable")
        return order

    def merged(self, rows: int, columns: int) -> "Contexts":
        """The contexts with fewer classes, ``2 ** rows`` and ``2 ** columns``, each of neighbouring ones."""
        return Contexts(self.rows >> self.logs[0] - rows, self.columns >> self.logs[1] - columns, (rows, columns))

    def head(self, code: "Coder") -> bytes:
        """The classes, coded."""
        return b"".join(code(part, log) for part, log in self._parts if log)


@dataclass(frozen=True)
class Model:
    """How likely each symbol is, at each place."""

    contexts: Contexts
    low: int  # the lowest symbol
    levels: Array  # uint8 [contexts, symbols from the lowest to the highest]
    head: bytes = b""  # as the decoder reads it
    bits: float = 0.0  # that the symbols take

    @property
    def bytes(self) -> float:
        return len(self.head) + self.bits / 8

    @property
    def symbols(self) -> int:
        return int(self.levels.shape[1])

    @property
    def at_once(self) -> int:
        """How many symbols are coded as one."""
        g = 1
        while 1 < self.symbols ** (g + 1) <= JOINT:
            g += 1
        return g

    @cached_property
    def tables(self) -> Array:
        """The frequencies of each symbol, int64 ``[contexts, symbols]``, which sum to ``2 ** PRECISION``."""
        weights = WEIGHTS[self.levels]
        return _scaled((weights << PRECISION) // np.maximum(weights.sum(1, keepdims=True), 1), weights > 0)

    @cached_property
    def joint_tables(self) -> Array:
        """The frequencies of ``at_once`` symbols as one, ``[contexts, symbols ** at_once]``."""
        joint, present = self.tables << PRECISION, self.tables > 0  # 15 bits more, so that rare ones do not vanish
        for _ in range(self.at_once - 1):
            joint = (joint[:, :, None] * self.tables[:, None] >> PRECISION).reshape(len(joint), -1)
            present = (present[:, :, None] & (self.tables > 0)[:, None]).reshape(len(present), -1)
        return _scaled(joint >> PRECISION, present)

    @cached_property
    def groups(self) -> Array:
        """How many groups of ``at_once`` symbols each context has; the last one is filled up."""
        groups: Array = np.ceil(self.contexts.sizes / self.at_once).astype(np.int64)
        return groups

    @property
    def places(self) -> Array | slice:
        """Where the symbols, in the order of their contexts, are in the groups."""
        if self.contexts.count == 1:
            return slice(int(self.contexts.sizes[0]))
        sizes, padded = self.contexts.sizes, self.groups * self.at_once
        shifts = (padded.cumsum() - padded) - (sizes.cumsum() - sizes)
        places: Array = np.arange(sizes.sum()) + np.repeat(shifts, sizes)
        return places

    def grouped(self, symbols: Array) -> Array:
        """The keys in ``joint_tables`` of ``symbols [n]``, one for each group: ``context * entries + entry``."""
        filled = np.repeat(self.tables.argmax(1).astype(np.uint8), self.groups * self.at_once)
        filled[self.places] = symbols[self.contexts.order] - self.low
        entries = np.zeros(len(filled) // self.at_once, np.uint16)
        for part in filled.reshape(-1, self.at_once).T:
            entries = entries * np.uint16(self.symbols) + part
        keys: Array = entries + np.repeat(np.arange(len(self.tables)) * self.joint_tables.shape[1], self.groups)
        return keys

    def separated(self, entries: Array) -> Array:
        """The symbols ``[n]`` of the entries of all groups."""
        powers = self.symbols ** np.arange(self.at_once - 1, -1, -1)
        parts = [entries // np.uint8(power) % np.uint16(self.symbols) for power in powers]
        symbols = np.empty(int(self.contexts.sizes.sum()), np.uint8)
        symbols[self.contexts.order] = np.stack(parts, 1).ravel()[self.places] + self.low
        return symbols


def _scaled(frequencies: Array, present: Array) -> Array:
    """Frequencies ``[contexts, entries]`` of which those present are at least 1; the largest makes up the sum."""
    frequencies = np.where(present, np.maximum(frequencies, 1), 0)
    frequencies[np.arange(len(frequencies)), frequencies.argmax(1)] += (1 << PRECISION) - frequencies.sum(1)
    return frequencies


def best_model(symbols: Array, width: int, code: Coder) -> Model:
    """The model with the fewest bytes of ``symbols``, ``[n]`` or ``[rows, columns]``; ``code`` codes its classes."""
    matrix = symbols.reshape(1, -1) if symbols.ndim == 1 else symbols
    counts = np.bincount(matrix.ravel(), minlength=1 << width)
    low, high = np.flatnonzero(counts)[[0, -1]]
    none = Contexts(np.zeros(len(matrix), np.uint8), np.zeros(matrix.shape[1], np.uint8))
    best = _model(counts[None, low : high + 1], none, low, code)
    if len(matrix) == 1 or low == high or matrix.size < DIVIDED:
        return best
    cost = -np.log2(np.maximum(counts, 1) / matrix.size).astype(np.float32)[matrix]
    finest = Contexts(_classes(cost.mean(1)), _classes(cost.mean(0)), (FINEST, FINEST))
    keys = finest.numbers.astype(np.int64) * int(high - low + 1) + (matrix.ravel() - low)
    by_context = np.bincount(keys, minlength=finest.count * (high - low + 1))
    for rows, columns in product(range(FINEST + 1), repeat=2):
        if rows or columns:
            split = by_context.reshape(1 << rows, 1 << FINEST - rows, 1 << columns, 1 << FINEST - columns, -1)
            merged = split.sum((1, 3)).reshape(1 << rows + columns, -1)
            best = min(best, _model(merged, finest.merged(rows, columns), low, code), key=lambda one: one.bytes)
    return best


def _classes(costs: Array) -> Array:
    """Sort rows or columns into ``2 ** FINEST`` classes of about equal size, uint8; equal ones share a class."""
    bounds = np.quantile(costs, np.arange(1, 1 << FINEST) / (1 << FINEST))
    return np.digitize(costs, bounds, right=True).astype(np.uint8)


def _model(counts: Array, contexts: Contexts, low: int, code: Coder) -> Model:
    """The model of symbols that occur ``counts [contexts, symbols]`` times."""
    octaves = np.log2(np.maximum(counts.sum(1, keepdims=True), 1) / np.maximum(counts, 1))
    levels = np.minimum(1 + np.rint(STEPS_PER_OCTAVE * octaves), (1 << LEVEL_BITS) - 1)
    levels = np.where(counts > 0, levels, 0).astype(np.uint8)
    logs = contexts.logs[0] << 4 | contexts.logs[1]
    head = bytes([logs, low, low + counts.shape[1] - 1]) + contexts.head(code) + packed(levels, LEVEL_BITS)
    tables = Model(contexts, low, levels).tables
    bits = -(counts * np.log2(np.maximum(tables, 1) / (1 << PRECISION))).sum()
    return Model(contexts, low, levels, head, float(bits))


def packed(symbols: Array, width: int) -> bytes:
    """The bytes of ``pack``."""
    return pack(torch.from_numpy(np.array(symbols)), width).numpy().tobytes()
