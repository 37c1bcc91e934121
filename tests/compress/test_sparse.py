import math

import pytest
import torch
from moments import output_error, random_stats
from pydantic import ValidationError

from pipeline.compress.methods.sparse import Sparse
from pipeline.compress.sparsity import Blocks, choices

TILES = ["4x4", "1x16", "3x3", "5x5"]
RUNS = ["2:4", "1:4", "4:8"]


def tiles(matrix: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
    """The blocks of a matrix as flat vectors, those at an edge as short as they are."""
    return [
        matrix[i : i + height, j : j + width].flatten()
        for i in range(0, len(matrix), height)
        for j in range(0, matrix.shape[1], width)
    ]


@pytest.mark.parametrize("block", TILES)
@pytest.mark.parametrize("shape", [(20, 30), (10, 16), (1, 37), (7, 1)])
def test_each_tile_keeps_its_largest_magnitude_alone(block, shape):
    weight = torch.randn(shape)
    dense = Sparse(block=block).compress(weight, None).dense()
    height, width = map(int, block.split("x"))
    for before, after in zip(tiles(weight, height, width), tiles(dense, height, width), strict=True):
        assert after.nonzero().flatten().tolist() == [int(before.abs().argmax())]
        assert after.abs().max() == before.abs().max()


def test_an_edge_block_that_does_not_fill_is_a_block_of_what_is_there():
    small = Sparse(block="4x4").compress(torch.randn(10, 6), None)
    assert [int(tile.count_nonzero()) for tile in tiles(small.dense(), 4, 4)] == [1] * 6
    assert small.bits.payload == 6 * 32
    assert small.bits.index == 24
    assert Sparse(block="2:4").compress(torch.randn(3, 5), None).macs == 3 * (2 + 1)


def test_score_max_keeps_the_largest_with_its_sign():
    weight = torch.randn(8, 8)
    dense = Sparse(score="max").compress(weight, None).dense()
    for before, after in zip(tiles(weight, 4, 4), tiles(dense, 4, 4), strict=True):
        assert after.sum() == before.max()
    below_zero = -torch.rand(4, 6) - 0.1
    kept = Sparse(score="max").compress(below_zero, None).dense()
    assert [float(tile.sum()) for tile in tiles(kept, 4, 4)] == [float(tile.max()) for tile in tiles(below_zero, 4, 4)]


def test_score_activation_weighs_each_input_by_its_root_mean_square():
    weight, stats = torch.randn(12, 20), random_stats(20)
    size = weight.abs() * stats.second_moment.diagonal().sqrt()
    dense = Sparse(score="activation").compress(weight, stats).dense()
    chosen = [int(tile.abs().argmax()) for tile in tiles(dense, 4, 4)]
    assert chosen == [int(tile.argmax()) for tile in tiles(size, 4, 4)]
    assert chosen != [int(tile.abs().argmax()) for tile in tiles(weight, 4, 4)]


@pytest.mark.parametrize("block", RUNS)
def test_n_of_m_keeps_the_n_largest_of_each_run(block):
    n, m = map(int, block.split(":"))
    weight = torch.randn(5, 3 * m)
    dense = Sparse(block=block).compress(weight, None).dense()
    for before, after in zip(tiles(weight, 1, m), tiles(dense, 1, m), strict=True):
        assert set(after.nonzero().flatten().tolist()) == set(before.abs().topk(n).indices.tolist())


@pytest.mark.parametrize(
    ("block", "width"), [("4x4", 4), ("1x16", 4), ("3x3", 4), ("5x5", 5), ("2:4", 3), ("1:4", 2), ("4:8", 7)]
)
def test_an_index_takes_as_few_bits_as_can_tell_the_choices_apart(block, width):
    blocks = Blocks.parse(block)
    assert blocks.code_width == width == math.ceil(math.log2(math.comb(blocks.size, blocks.keep)))
    assert len(choices(blocks)) == math.comb(blocks.size, blocks.keep)
    count = 6 * 5
    shape = (6 * blocks.height, 5 * blocks.width)
    assert Sparse(block=block).compress(torch.randn(shape), None).bits.index == 8 * math.ceil(count * width / 8)


@pytest.mark.parametrize("block", ["4x4", "1x16", "2:4"])
@pytest.mark.parametrize("dead", [0, 5], ids=["", "dead inputs"])
def test_refitted_rows_satisfy_the_normal_equations_and_err_no_more_than_before(block, dead):
    weight, stats = torch.randn(9, 32, dtype=torch.float64), random_stats(32, dead=dead)
    plain = Sparse(block=block).compress(weight, None)
    small = Sparse(block=block, refit=True).compress(weight, stats)
    assert torch.equal(small.kept, plain.kept)
    assert small.dense().isfinite().all()
    C = stats.damped()
    for w, fitted, mask in zip(weight, small.dense(), small.kept, strict=True):
        S = mask.nonzero().flatten()
        torch.testing.assert_close(C[S][:, S] @ fitted[S], C[S] @ w, rtol=1e-7, atol=1e-7)
    for moment in (C, stats.second_moment):
        before, after = (output_error(weight, q.dense(), moment) for q in (plain, small))
        assert bool((after <= before * (1 + 1e-5)).all())
        assert after.sum() < 0.9 * before.sum()


def test_a_row_that_keeps_nothing_is_refitted_to_nothing():
    weight = torch.ones(4, 4)
    weight[2, 1] = 5
    dense = Sparse(refit=True).compress(weight, random_stats(4)).dense()
    assert dense.nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("method", [Sparse(), Sparse(score="activation", refit=True), Sparse(block="2:4")], ids=str)
def test_fault_14_a_zero_weight_and_dead_inputs_are_handled(method):
    zero = torch.zeros(10, 12)
    for stats in (random_stats(12), random_stats(12, dead=12)):
        assert torch.equal(method.compress(zero, stats).dense(), zero)
        assert method.compress(torch.randn(10, 12), stats).dense().isfinite().all()


@pytest.mark.parametrize("block", ["1x1", "4:4", "5:4", "0:4", "8x8", "31:62", "4", "x4", ""])
def test_a_block_that_keeps_all_or_nothing_or_is_none_is_refused(block):
    with pytest.raises(ValidationError, match=r"give a tile|a block has 2 to 62 weights"):
        Sparse(block=block)
