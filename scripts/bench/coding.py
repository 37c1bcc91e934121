"""Rates and sizes of entropy coding, beside zlib."""

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.parts import Measured, Setup
from pipeline.compress import entropy
from pipeline.compress.symbol_model import Array

SEED = 0


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
    return {name: _measured(*source) for name, source in sources(symbols).items()}


def _measured(symbols: Array, width: int) -> dict[str, Any]:
    shares = np.bincount(symbols.ravel()) / symbols.size
    shares = shares[shares > 0]
    plain = symbols.tobytes()
    return {
        "symbols": symbols.size,
        "ideal_bytes": float(-(shares * np.log2(shares)).sum()) * symbols.size / 8,
        "rans": _timed(
            lambda: entropy.coded(symbols, width), lambda data: entropy.decoded(data, symbols.shape, width), symbols
        ),
        "zlib": _timed(lambda: zlib.compress(plain), zlib.decompress, symbols),
    }


def _timed(code: Callable[[], bytes], decode: Callable[[bytes], object], symbols: Array) -> dict[str, float]:
    started = time.perf_counter()
    data = code()
    between = time.perf_counter()
    decode(data)
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
        for coder in ("rans", "zlib"):
            share = one[coder]["bytes"] / one["ideal_bytes"]
            rates = [f"{one[coder][key] / 1e6:.1f}" for key in ("coded_per_second", "decoded_per_second")]
            rows.append((f"{name}, {coder}: of the entropy; million symbols/s", f"{share:.3f}; {', '.join(rates)}"))
    counted = (
        "of symbols of one byte each in memory: bytes, and symbols coded and decoded per second on one core; the "
        "entropy is that of one table for all symbols, and zlib has its default level"
    )
    return Measured({"coding": found}, {"coding": counted}, rows)
