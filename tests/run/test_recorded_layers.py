"""What training made of the layers of winners, stored once for each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_studies import BatchNormNet, kept_of, make_objective, make_spec, make_task, search

from pipeline.compress.layers import weight_matrix
from pipeline.compress.methods.intn import IntN
from pipeline.compress.weight import share_moved
from pipeline.results.reading import find_winners, read_results
from pipeline.results.trained_layers import stored_layers, trained_layers
from pipeline.run.recorded_layers import record_layers
from pipeline.run.winners import recover
from pipeline.space import Values

CODES = {"name": "codes", "compression": {"method": "intN", "bits": 2}, "adapter": "codes"}
FEW = {"ranks": [1], "inits": ["svd"], "trials": 2, "sampler": "random"}


def recorded(database, task=None, **changes):
    """The objective, the stored study, and the layers of its first winner."""
    spec = make_spec(**{**FEW, **changes})
    objective = make_objective(spec, task)
    study, kept = search(database, spec, objective=objective), kept_of(spec)
    record_layers(objective, study, kept)
    (result,) = read_results(database, "tiny")
    (trial,) = find_winners(study).values()
    values, parameters = Values.of(trial.params), recover(objective, kept, trial).parameters
    return objective, (values, parameters), trained_layers(result, result.cells[0])


def test_trained_codes_have_bits_errors_and_the_share_that_moved(storage):
    objective, (_, parameters), layers = recorded(storage, combination=CODES)
    weights = objective.combination.compressed.weights
    trained, _ = objective.combination.adapter.absorb(weights, parameters)
    assert [layer.name for layer in layers] == ["fc1", "fc2"]
    for layer in layers:
        W = weight_matrix(objective.combination.model.get_submodule(layer.name))
        of = {"before": weights[layer.name], "after": trained[layer.name]}
        for when, weight in of.items():
            error = float((W - weight.dense()).square().sum() / W.square().sum())
            assert getattr(layer, when) == pytest.approx(error, rel=1e-3)
        moved = (of["before"].code != of["after"].code).double().mean()
        assert layer.moved == pytest.approx(float(moved), rel=1e-3)
        assert layer.weights == W.numel()
        assert layer.bits == weights[layer.name].bits.total()
        assert layer.adapter_bits == 0
    assert any(layer.moved for layer in layers)


def test_a_low_rank_adapter_moves_no_codes_and_its_product_counts_in_the_error_after(storage):
    objective, (values, parameters), layers = recorded(storage)
    adapter = objective.combination.adapter
    for layer in layers:
        W, Q = (
            weight_matrix(model.get_submodule(layer.name))
            for model in (objective.combination.model, objective.combination.compressed.model)
        )
        A, B = parameters[f"{layer.name}.lora_A"], parameters[f"{layer.name}.lora_B"]
        error = float((W - Q - adapter.s(values.alpha, values.rank) * B @ A).square().sum() / W.square().sum())
        assert layer.after == pytest.approx(error, rel=1e-3)
        assert layer.moved is None
        assert layer.adapter_bits == 32 * values.rank * (W.shape[0] + W.shape[1])


def test_bits_of_an_entropy_coded_file_are_those_of_the_trial(storage):
    both = {**CODES, "adapter": {"method": "codes", "adapter": "lora"}}
    _, _, layers = recorded(storage, combination=both, storage={"coding": "rans", "small": "float16"})
    (result,) = read_results(storage, "tiny")
    biases = 2 * (12 + 4)
    trial = result.cells[0].winner
    assert sum(layer.bits + layer.adapter_bits for layer in layers) / 8 == trial.user_attrs["layer_bytes"] - biases
    assert all(layer.after != layer.before and layer.moved is not None for layer in layers)


@pytest.mark.parametrize("compression", [{"method": "sparse", "keep": 0.25}, "codebook", {"method": "svd", "rank": 2}])
def test_grouped_convolutions_are_measured_too_and_dense_factors_have_no_codes(storage, compression):
    table = {"name": "codes", "compression": compression, "adapter": "codes"}
    _, _, layers = recorded(storage, make_task(BatchNormNet), combination=table, trials=1)
    assert [layer.weights for layer in layers] == [72, 288, 32]
    assert all(layer.after is not None and layer.before is not None for layer in layers)
    assert (layers[1].moved is None) == ("rank" in compression)


def test_layers_of_fewer_channels_have_sizes_and_no_error(storage):
    table = {"compression": {"method": "prune_magnitude", "keep": 0.5}, "adapter": "full"}
    _, _, layers = recorded(storage, combination=table, trials=1)
    assert layers
    assert all(layer.before is None or layer.bits == 32 * layer.weights for layer in layers)
    assert any(layer.before is None for layer in layers)


def test_the_layers_of_a_winner_are_stored_once_and_those_of_a_former_winner_do_not_count(storage, monkeypatch):
    spec = make_spec(combination=CODES, **{**FEW, "trials": 1})
    objective = make_objective(spec)
    study, kept = search(storage, spec, objective=objective), kept_of(spec)
    record_layers(objective, study, kept)
    stored = study.user_attrs
    monkeypatch.setattr("pipeline.run.recorded_layers.measure_layers", None)
    record_layers(objective, study, kept)
    assert study.user_attrs == stored
    (result,) = read_results(storage, "tiny")
    cell = result.cells[0].cell
    assert stored_layers(stored, cell, result.cells[0].winner.number) == trained_layers(result, result.cells[0])
    assert stored_layers(stored, cell, 7) is None


@given(seed=st.integers(0, 99), changed=st.integers(0, 30), bits=st.sampled_from([2, 3, 4, 8]))
def test_the_share_that_moved_counts_codes(seed, changed, bits):
    weight = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    before = IntN(bits=bits).compress(weight, None)
    code = before.code.flatten().clone()
    code[:changed] ^= 1
    after = type(before)(code.view(5, 6), 2 * before.scale, before.zero, before.width, before.group)
    assert share_moved(before, after) == changed / 30
