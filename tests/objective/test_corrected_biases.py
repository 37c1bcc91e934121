import pytest
import torch
from torch import nn

from pipeline.cell import Cell
from pipeline.compress.methods.int1 import Int1
from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.objective.combination import Combination
from pipeline.space import Values
from pipeline.task.contract import Task


@pytest.mark.parametrize("init", ["svd", "qera", "loftq", "pissa", "paper"])
def test_a_corrected_bias_takes_the_mean_of_what_the_weight_and_the_start_of_the_adapter_lose(init):
    torch.manual_seed(0)
    x, y = torch.randn(60, 10) + 1, torch.arange(60) % 3
    task = Task(nn.Sequential(nn.Linear(10, 3)), (x, y), (x, y), (x, y))
    spec = CombinationSpec.model_validate(
        {"name": "n", "targets": ["*"], "compression": {"method": "int1", "bias": "corrected"}, "adapter": "lora"}
    )
    search = SearchSpec.model_validate(
        {
            "ranks": [1],
            "inits": [init],
            "trials": 8,
            "epochs": 1,
            "batch_size": [20],
            "optimizer": ["adam"],
            "lr": {"low": 1e-3, "high": 1e-2, "log": True},
            "alpha": {"low": 1.0, "high": 2.0},
        }
    )
    combination = Combination(task, spec, search)
    cell = Cell(1, init)
    assert isinstance(combination.compression, Int1)
    base, start = combination.with_moved_base(cell), combination.starts(Values(1, init), 0)["0"]
    assert combination.has_own_base(cell)
    low_rank = start.B @ start.A if start.residual else torch.zeros(3, 10)
    adapted = base.weights["0"].dense() + low_rank
    outputs = x @ adapted.T + base.model.get_submodule("0").bias
    torch.testing.assert_close(outputs.mean(0), task.model(x).mean(0), rtol=1e-4, atol=1e-4)
