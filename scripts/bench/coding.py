"""Rates and sizes of entropy coding, beside zlib and, where it is installed, the coder of the NNC standard."""

import importlib.util
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import deep_cabac
from bench.parts import Measured, Setup
from pipeline.compress import entropy
from pipeline.compress.symbol_model import Array, packed

SEED = 0
Coder = tuple[Callable[[Array, int], bytes], Callable[[bytes, tuple[int, ...], int], object]]
"""From symbols below ``2 ** width`` and the width to bytes; and from bytes, shape and width back."""
CODERS: dict[str, Coder] = {
    "rans": (entropy.coded, entropy.decoded),
    "zlib": (lambda symbols, width: zlib.compress(packed(symbols, width)), lambda data, *_: zlib.decompress(data)),
    **({"nncodec": (deep_cabac.coded, deep_cabac.decoded)} if importlib.util.find_spec("nncodec") else {}),
}
"""``zlib`` gets packed bytes, with its default level."""


def sources(symbols: int) -> dict[str, tuple[Array, int]]:
    """Square matrices of about so many symbols, and the bits of each if packed: codes and masks as layers have them."""
    side = int(symbols**0.5)
    generator = np.random.default_rng(SEED)
    normal = generator.normal(size=(side, side))
    uneven = generator.random((side, side)) < 0.1 * generator.random(side)
    return {
        "3-bit codes": (np.clip(np.round(normal * 1.2) + 4, 0, 7).astype(np.uint8), 3),
        "8-bit codes": (np.clip(np.round(normal * 30) + 128, 0, 255).astype(np.uint8), 8),
        "mask of 5 %": (uneven.astype(np.uint8), 1),
    }


def coding_rates(symbols: int) -> dict[str, dict[str, Any]]:
    """For each source: its ideal bytes, and of each coder the bytes, and symbols per second to code and to decode."""
    return {name: measured(*source) for name, source in sources(symbols).items()}


def measured(symbols: Array, width: int) -> dict[str, Any]:
    """The entropy of one table for all symbols, in bytes, and what each coder takes."""
    shares = np.bincount(symbols.ravel()) / symbols.size
    shares = shares[shares > 0]
    return {
        "symbols": symbols.size,
        "packed_bytes": len(packed(symbols, width)),
        "ideal_bytes": float(-(shares * np.log2(shares)).sum()) * symbols.size / 8,
        **{name: _timed(coder, symbols, width) for name, coder in CODERS.items()},
    }


def _timed(coder: Coder, symbols: Array, width: int) -> dict[str, float]:
    code, decode = coder
    started = time.perf_counter()
    data = code(symbols, width)
    between = time.perf_counter()
    decode(data, symbols.shape, width)
    ended = time.perf_counter()
    return {
        "bytes": len(data),
        "coded_per_second": symbols.size / (between - started),
        "decoded_per_second": symbols.size / (ended - between),
    }


def coded(setup: Setup) -> Measured:
    """Rates of entropy coding, and its sizes beside the ideal entropy."""
    found = setup.measure(coding_rates, setup.sizes.symbols)
    rows = []
    for name, one in found.items():
        for coder in CODERS:
            share = one[coder]["bytes"] / one["ideal_bytes"]
            rates = [f"{one[coder][key] / 1e6:.1f}" for key in ("coded_per_second", "decoded_per_second")]
            rows.append((f"{name}, {coder}: of the entropy; million symbols/s", f"{share:.3f}; {', '.join(rates)}"))
    counted = (
        "of symbols of one byte each in memory: bytes, and symbols coded and decoded per second on one core; the "
        "entropy is that of one table for all symbols; zlib has its default level, and gets packed codes"
    )
    return Measured({"coding": found}, {"coding": counted}, rows)
