"""Trained codes of a codebook that layers share: its copies stay equal, and move as one tensor would."""

import pytest
import torch
from tiny_studies import BatchNormNet, make_objective, make_spec, make_task
from torch import Tensor

from pipeline.adapt.contract import Draw
from pipeline.adapt.methods.codes import Codes
from pipeline.objective.combination import Combination
from pipeline.objective.objective import Objective
from pipeline.objective.outline import Outline
from pipeline.space import Values

SHARED = {"method": "codebook", "size": 4, "vector": 3, "shared": True}
TARGETS = ["*", {"match": "head", "compression": "int1"}]
WAYS = {"codes": ("codes", "none"), "with LoRA on top": ({"method": "codes", "adapter": "lora"}, "svd")}


def objective_of(adapter: object = "codes", **storage: str) -> Objective:
    methods = {"compression": SHARED, "adapter": adapter, "targets": TARGETS}
    spec = make_spec(combination=methods, inits=["svd"], ranks=[1], epochs=4, storage=storage)
    return make_objective(spec, make_task(BatchNormNet))


def copies(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for name, tensor in tensors.items() if name.endswith("weight_centroid")]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(("adapter", "init"), WAYS.values(), ids=WAYS)
def test_training_moves_the_centroids_and_keeps_the_copies_equal(adapter, init, optimizer):
    objective = objective_of(adapter)
    lane = objective.lane(Values(int(init != "none"), init, optimizer=optimizer, lr=1e-2, batch_size=16))
    begun = {name: tensor.clone() for name, tensor in lane.parameters.items()}
    assert len(list(objective.epochs(lane))) == 4
    one, other = copies(lane.parameters)
    assert torch.equal(one, other)
    assert not torch.equal(one, copies(begun)[0])
    assert not torch.equal(lane.parameters["conv2.weight_scale"], begun["conv2.weight_scale"])
    assert lane.curve[-1].train_loss < lane.curve[0].train_loss


def test_lanes_together_have_the_bits_of_each_lane_alone_after_a_step():
    compressed, codes = objective_of().combination.compressed, Codes()
    lanes = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        begun = codes.begin(compressed, {}, Draw())
        lanes.append(
            {
                name: tensor if codes.is_frozen(name) else tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in begun.items()
            }
        )
    together = {name: torch.stack([lane[name] for lane in lanes]) for name in lanes[0]}
    codes.after_step(compressed.weights, together, 10, 100)
    for index, lane in enumerate(lanes):
        alone = {name: tensor[None].clone() for name, tensor in lane.items()}
        codes.after_step(compressed.weights, alone, 10, 100)
        assert all(torch.equal(tensor[0], together[name][index]) for name, tensor in alone.items())


def test_after_every_step_the_copies_are_their_mean_and_equal_ones_keep_every_bit():
    compressed, codes = objective_of().combination.compressed, Codes()
    tensors = {name: tensor[None].clone() for name, tensor in codes.begin(compressed, {}, Draw()).items()}
    before = copies(tensors)[0].clone()
    codes.after_step(compressed.weights, tensors, 1, 100)
    assert all(torch.equal(copy, before) for copy in copies(tensors))
    moves = [torch.randn(before.shape) for _ in copies(tensors)]
    for copy, move in zip(copies(tensors), moves, strict=True):
        copy += move
    codes.after_step(compressed.weights, tensors, 2, 100)
    one, other = copies(tensors)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, before + sum(moves) / 2)


@pytest.mark.parametrize("adapter", ["codes", {"method": "codes", "adapter": "lora"}])
def test_what_layers_share_counts_once_among_the_trained_parameters(adapter):
    objective = objective_of(adapter)
    combination = objective.combination
    rank = int(combination.adapter.low_rank)
    lane = objective.lane(Values(rank, "svd" if rank else "none", lr=1e-2, batch_size=16))
    trained = sum(tensor.numel() for name, tensor in lane.parameters.items() if name not in lane.frozen)
    one, other = copies(lane.parameters)
    assert combination.facts(rank).trainable == trained - other.numel()
    assert (
        Outline(combination.task, combination.spec, combination.search).facts(rank).trainable == trained - one.numel()
    )


@pytest.mark.parametrize("storage", [{}, {"small": "float16", "coding": "rans"}], ids=["plain", "16 bits, coded"])
def test_a_trial_takes_the_bytes_that_its_plan_said_or_less(storage):
    objective = objective_of(**storage)
    values = Values(0, "none", lr=1e-2, batch_size=16)
    lane = objective.lane(values)
    list(objective.epochs(lane))
    combination = objective.combination
    plan = Outline(combination.task, combination.spec, combination.search).facts(0).size
    assert plan == combination.facts(0).size
    taken = objective.size(values, lane.best_parameters).bytes
    assert taken <= plan.bytes
    assert storage or taken == plan.bytes


def test_inits_that_move_the_base_leave_all_layers_the_same_centroids():
    methods = {"compression": SHARED, "adapter": "lora", "targets": TARGETS}
    spec = make_spec(combination=methods, inits=["loftq"], ranks=[1], storage={"small": "float16"})
    combination = Combination(make_task(BatchNormNet), spec.combination[0], spec.search)
    base = combination.compressed.weights
    moved = combination.with_moved_base(Values(1, "loftq").cell).weights
    assert not torch.equal(moved["conv2"].code, base["conv2"].code)
    for name in ("conv1", "conv2"):
        assert torch.equal(moved[name].centroid, base["conv1"].centroid)
    assert combination.facts(1).size.bytes == combination.facts(Values(1, "loftq").cell).size.bytes
