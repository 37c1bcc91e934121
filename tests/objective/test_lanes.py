import optuna
import pytest
import torch
from tiny_studies import Mlp, blobs, make_objective, make_spec
from torch import nn

from pipeline.cell import Cell
from pipeline.errors import SpecError
from pipeline.objective.objective import Objective
from pipeline.store.kept_adapters import Kept
from pipeline.task.contract import Task


class SequenceFirst(nn.Module):
    """Turns its batch to the second axis, as recurrent networks and some attention do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.reshape(len(x), -1, 4).transpose(0, 1)
        return self.fc2(self.fc1(steps).relu()).mean(0)


class ReadsAWeight(Mlp):
    """Computes with the weight of a layer that it never calls, as some attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ self.read.weight


def own_task(module: nn.Module) -> Task:
    x, y = blobs(64, 0)
    return Task(module, (x, y), (x, y), (x, y))


def test_lanes_of_a_model_with_the_batch_first_agree():
    program = make_objective().bases.common.program
    assert program.stacks
    assert program.cut is not None


def test_a_model_whose_batch_is_not_first_is_found_out():
    spec = make_spec()
    program = Objective(own_task(SequenceFirst()), spec.combination[0], spec.search).bases.common.program
    assert not program.stacks
    assert program.why


def test_a_target_that_the_model_never_calls_is_refused_by_name():
    spec = make_spec(combination={"targets": ["*", "read"]})
    with pytest.raises(SpecError, match=r"'read', which the model never calls"):
        Objective(own_task(ReadsAWeight()), spec.combination[0], spec.search)


def test_a_pattern_with_a_wildcard_leaves_out_layers_that_the_model_never_calls():
    spec = make_spec(combination={"targets": ["*"]})
    assert "read" not in Objective(own_task(ReadsAWeight()), spec.combination[0], spec.search).targets


def test_a_study_that_minimises_is_refused_by_the_objective():
    with pytest.raises(SpecError, match="maximize"):
        optuna.create_study().optimize(make_objective(), n_trials=1)


def test_an_adapter_kept_for_another_database_is_not_taken_for_this_ones():
    cell, parameters = Cell(2, "svd"), {"fc1.lora_A": torch.ones(2, 4)}
    Kept("tiny", "only", "one database").save(cell, 7, parameters)
    assert Kept("tiny", "only", "one database").load(cell, 7) is not None
    assert Kept("tiny", "only", "another").load(cell, 7) is None
    assert Kept("tiny", "only", "one database").load(cell, 8) is None
