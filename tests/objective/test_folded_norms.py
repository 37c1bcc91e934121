"""Combinations whose batch norms are part of the layers before them."""

import torch
from tiny_studies import BatchNormNet, make_spec, make_task

from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline
from pipeline.run.objectives import make_combinations


def combination(kind=Combination, **options):
    spec = make_spec(combination={"compression": {"method": "intN", "bits": 8}, **options})
    return kind(make_task(BatchNormNet), spec.combination[0], spec.search)


def test_folding_takes_the_bytes_of_the_norms_and_compares_with_the_model_that_has_them():
    kept, folded = combination().compressed_size, combination(batch_norm="folded").compressed_size
    # Two norms of 8 channels hold 4 vectors and a counter of 8 bytes each; one of the two layers had no bias.
    assert kept.bytes - folded.bytes == 2 * (4 * 8 * 4 + 8) - 8 * 4
    assert kept.dense_bytes == folded.dense_bytes
    assert folded.buffers == 0


def test_a_folded_model_computes_what_the_model_does():
    one, images = combination(batch_norm="folded"), make_task(BatchNormNet).train
    x = next(iter(images.batches(8, torch.arange(8))))[0]
    torch.testing.assert_close(one.model(x), one.task.model(x), rtol=1e-4, atol=1e-4)
    assert combination(Outline, batch_norm="folded").facts(1).size == one.facts(1).size


def test_combinations_that_fold_share_their_statistics_with_those_that_do_alone():
    options = [{"batch_norm": "folded"}, {}, {"batch_norm": "folded"}, {"batch_norm": "reestimated"}]
    tables = [{"name": f"c{i}", "compression": "int1", "adapter": "lora", **more} for i, more in enumerate(options)]
    spec = make_spec()
    many = spec.model_copy(
        update={"combination": tuple(type(spec.combination[0]).model_validate(table) for table in tables)}
    )
    made = list(make_combinations(Combination, many, make_task(BatchNormNet), "cpu").values())
    assert made[0].statistics is made[2].statistics
    assert made[1].statistics is made[3].statistics
    assert made[0].statistics is not made[1].statistics
