import torch
from torch import nn

from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.objective.outline import Outline
from pipeline.run.estimate import plan_statistics, preparation_bytes, statistics_bytes
from pipeline.task.contract import Task


def test_a_plan_says_the_passes_and_images_of_statistics_behind_compressed_layers_and_counts_the_memory():
    x, y = torch.randn(60, 10), torch.arange(60) % 3
    task = Task(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)), (x, y), (x, y), (x, y))
    compression = {"method": "intN", "rounding": "gptq", "prefix": 500}
    spec = CombinationSpec.model_validate({"name": "n", "compression": compression, "adapter": "none"})
    rates = {"lr": {"low": 1e-3, "high": 1e-2, "log": True}, "optimizer": ["adam"], "batch_size": [20]}
    search = {"ranks": [1], "inits": ["paper"], "trials": 8, "epochs": 1, "alpha": {"low": 1.0, "high": 2.0}, **rates}
    outline = Outline(task, spec, SearchSpec.model_validate(search))
    plan = plan_statistics(outline)
    prefix = plan["prefix"]
    assert (prefix["passes"], prefix["images"]) == (2, 60)
    assert prefix["seconds"] >= 0
    held = 60 * 10 * 4  # the images, as no layer comes before the first target
    assert plan["bytes"] == statistics_bytes([outline, outline]) == sum(outline.statistics_bytes.values()) + held
    assert preparation_bytes([outline]) == plan["bytes"] + outline.decomposition_bytes
