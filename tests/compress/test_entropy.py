"""Entropy coding of symbols."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.entropy import coded, decoded


def ideal_bytes(symbols: np.ndarray) -> float:
    """The entropy of all symbols, with one table."""
    shares = np.bincount(symbols.ravel()) / max(1, symbols.size)
    return -sum(float(share) * math.log2(share) for share in shares if share) * symbols.size / 8


def table_bytes(symbols: np.ndarray) -> float:
    return 6 * (int(symbols.max()) - int(symbols.min()) + 1) / 8 if symbols.size else 0


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Symbols of any width, with any shares that differ between rows and columns as much as they like."""
    width = draw(st.integers(1, 8))
    shape = tuple(draw(st.lists(st.integers(0, 70), min_size=1, max_size=2)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rarity = draw(st.sampled_from([0.0, 0.3, 1.0, 5.0, 40.0]))
    symbols = (2**width * generator.random(shape) ** (1 + rarity)).astype(np.uint8)
    if len(shape) == 2 and draw(st.booleans()):
        symbols[:, generator.random(shape[1]) < 0.7] = draw(st.integers(0, 2**width - 1))
    return symbols, width


@given(matrices())
@settings(max_examples=60, deadline=None)
def test_any_symbols_come_back_and_take_no_more_than_packed_ones(case: tuple[np.ndarray, int]) -> None:
    symbols, width = case
    data = coded(symbols, width)
    back = decoded(data, symbols.shape, width)
    assert back.dtype == np.uint8
    assert np.array_equal(back, symbols)
    assert len(data) <= (1 + -(-symbols.size * width // 8) if symbols.size else 0)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_come_back(data: bytes) -> None:
    symbols = np.frombuffer(data, np.uint8)
    assert decoded(coded(symbols), symbols.shape).tobytes() == data


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_constant_tensor_takes_nine_bytes_at_most(count: int) -> None:
    data = coded(np.full(count, 3, np.uint8), 4)
    assert len(data) <= 9
    assert (decoded(data, (count,), 4) == 3).all()


@given(st.sampled_from([1000, 30_000]), st.integers(1, 8), st.floats(0.3, 60), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_size_is_within_two_percent_of_the_ideal_entropy(count: int, width: int, spread: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=count) * spread
    symbols = np.clip(np.round(noise) + 2 ** (width - 1), 0, 2**width - 1).astype(np.uint8)
    raw = 1 + -(-count * width // 8)
    assert len(coded(symbols, width)) <= min(raw, 1.02 * ideal_bytes(symbols) + 16 + table_bytes(symbols))


@pytest.mark.parametrize("keep", [0.02, 0.05, 0.1, 0.3])
def test_a_mask_takes_its_ideal_entropy_and_less_if_its_positions_crowd_in_some_columns(keep: float) -> None:
    generator = np.random.default_rng(0)
    even = (generator.random((128, 400)) < keep).astype(np.uint8)
    crowded = (generator.random((128, 400)) < 2 * keep * (np.arange(400) % 2)).astype(np.uint8)
    assert len(coded(even, 1)) <= 1.02 * ideal_bytes(even) + 16
    assert len(coded(crowded, 1)) <= 0.95 * ideal_bytes(crowded)
    assert np.array_equal(decoded(coded(crowded, 1), crowded.shape, 1), crowded)


def test_every_cut_and_almost_every_changed_bit_of_a_stream_is_refused() -> None:
    generator = np.random.default_rng(0)
    symbols = (generator.random((12, 60)) < 0.6 * (np.arange(60) < 20)).astype(np.uint8)
    data = coded(symbols, 1)
    unseen = 0
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"bytes"):
            decoded(data[:at], symbols.shape, 1)
        changed = bytearray(data)
        changed[at] ^= 1 << int(generator.integers(8))
        try:
            unseen += not np.array_equal(decoded(bytes(changed), symbols.shape, 1), symbols)
        except ValueError:
            continue
    assert unseen <= 0.02 * len(data)
    with pytest.raises(ValueError, match="1 bytes follow"):
        decoded(data + b"\0", symbols.shape, 1)


@given(st.binary(min_size=1, max_size=80), st.integers(1, 8), st.sampled_from([(50,), (5, 9)]))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_or_decoded_to_symbols_of_the_width(
    data: bytes, width: int, shape: tuple[int, ...]
) -> None:
    try:
        symbols = decoded(data, shape, width)
    except ValueError:
        return
    assert symbols.shape == shape
    assert int(symbols.max()) < 2**width
