"""A plan counts from shapes: exact sizes, and no statistics, decompositions, training or large memory."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command import invoke, write_study
from methods import images, label, mlp, resnet, settled, statistics, variants
from tiny_studies import BatchNormNet, Mlp, make_spec, make_task
from torch import nn

from pipeline.compress.contract import Compression
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.compress.targets import find_targets
from pipeline.config.registry import ALLOCATIONS, COMPRESSIONS, INITS
from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline
from pipeline.run.estimate import plan_study, statistics_bytes
from pipeline.run.objectives import as_objectives
from pipeline.task.contract import Task

EACH = pytest.mark.parametrize("compression", list(variants(COMPRESSIONS)), ids=label)
WORK = (
    "torch.linalg.svd", "torch.linalg.svdvals", "torch.linalg.eigh", "torch.linalg.qr", "torch.linalg.cholesky",
    "pipeline.compress.layer_statistics.gather_statistics", "pipeline.compress.layer_statistics.gather_sensitivity",
    "pipeline.compress.methods.prune_gradient.PruneGradient.pruned", "pipeline.train.cache.cache_build.Build.run",
)  # fmt: skip
"""What a plan leaves to the run."""


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORK:
        monkeypatch.setattr(name, refused(name))


def refused(name: str) -> Callable[..., Any]:
    def refuse(matrix: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(matrix, torch.Tensor) and matrix.is_meta:  # a shape costs nothing
            return DECOMPOSED[name](matrix, *args, **kwargs)
        raise AssertionError(f"a plan called {name}")

    return refuse


DECOMPOSED = {"torch.linalg.svd": torch.linalg.svd, "torch.linalg.qr": torch.linalg.qr}


@EACH
def test_an_outline_has_the_size_shape_and_operations_of_the_compressed_model(compression: Compression):
    if not compression.sized_by_shape:
        pytest.skip("its size follows from the values")
    whole = isinstance(compression, StructuredPruning)
    model, train = settled(resnet if whole else mlp), images(3, 32, 32)
    targets = find_targets(model, ["*"])
    stats = statistics(model, targets, 3, 32, 32) if compression.needs_statistics else {}
    real = compression.compress_model(model, targets, stats, train)
    outline = compression.outline(model, targets, train)
    assert {name: (w.shape, w.bits, w.macs) for name, w in outline.weights.items()} == {
        name: (w.shape, w.bits, w.macs) for name, w in real.weights.items()
    }
    shapes = ({name: t.shape for name, t in one.model.state_dict().items()} for one in (outline, real))
    assert next(shapes) == next(shapes)


@EACH
def test_the_outline_of_a_grouped_layer_has_its_size(compression: Compression):
    if not compression.sized_by_shape or isinstance(compression, StructuredPruning):
        pytest.skip("its size follows from the values, or groups lose no channels")
    for layer, shape in ((nn.Conv2d(6, 10, 3, groups=2), (6, 7, 7)), (nn.Conv2d(5, 5, 3, groups=5), (5, 6, 6))):
        model = nn.Sequential(nn.Conv2d(shape[0], shape[0], 1), layer, nn.Flatten(), nn.LazyLinear(3)).eval()
        model(torch.zeros(1, *shape))
        stats = statistics(model, ["1"], *shape) if compression.needs_statistics else {}
        real, outline = (
            compression.compress_model(model, ["1"], stats, images(*shape)),
            compression.outline(model, ["1"], images(*shape)),
        )
        assert outline.weights["1"].bits == real.weights["1"].bits


CHOICES: dict[str, dict[str, Any]] = {
    **{f"init {init.name}": {"inits": [init.name]} for init in INITS},
    **{f"by {one.name}": {"allocation": one.name, "ranks": [900, 2000]} for one in ALLOCATIONS},
    "statistics": {"combination": {"compression": {"method": "svd", "metric": "activation"}}},
    "trained": {"combination": {"compression": {"method": "prune_gradient", "keep": 0.5}}},
    "trained codes": {"combination": {"adapter": {"method": "lora", "scales": True}}},
    "dora": {"combination": {"adapter": "dora"}},
    "whole": {"combination": {"adapter": "full"}},
}


def task_of(name: str) -> Task:
    """Convolutions, one of them grouped; or a perceptron, where channels are removed."""
    return make_task(Mlp if name == "trained" else BatchNormNet)


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize("name", CHOICES)
def test_a_plan_gathers_decomposes_and_trains_nothing(name):
    spec, task = make_spec(**CHOICES[name]), task_of(name)
    outlines = {"int1-lora": Outline(task, spec.combination[0], spec.search)}
    plan = plan_study(spec, outlines, as_objectives(spec, outlines, "cpu"))
    (combination,) = plan["combinations"]
    assert combination["seconds"] >= 0
    assert all(rank["bytes"] > 0 for rank in combination["ranks"])
    assert plan["memory_bytes"] > plan["statistics_bytes"]


@pytest.mark.parametrize("name", [name for name in CHOICES if not name.startswith("by ")])
def test_a_plan_gives_the_bytes_parameters_and_operations_of_the_trials(name):
    spec, task = make_spec(**CHOICES[name]), task_of(name)
    outline, real = (kind(task, spec.combination[0], spec.search) for kind in (Outline, Combination))
    for rank in outline.search.ranks:
        assert outline.facts(rank) == real.facts(rank)


@pytest.mark.parametrize("by", [one.name for one in ALLOCATIONS])
def test_a_budget_is_shown_spread_within_what_it_pays_for(by):
    spec, task = make_spec(allocation={"by": by, "unit": "parameters"}, ranks=[60, 200, 390]), make_task()
    outline = Outline(task, spec.combination[0], spec.search)
    assert [outline.facts(budget).trainable <= budget for budget in (60, 200, 390)] == [True] * 3
    assert outline.facts(390).trainable > outline.facts(60).trainable > 0


@pytest.mark.parametrize(
    ("inits", "compression", "needed"),
    [
        (["paper", "svd"], "int1", False),
        (["qera"], "int1", True),
        (["paper"], {"method": "int1", "metric": "activation"}, True),
    ],
)
def test_a_plan_says_the_memory_of_statistics_where_some_are_needed(inits, compression, needed):
    spec, task = make_spec(inits=inits, combination={"compression": compression}), make_task()
    outline = Outline(task, spec.combination[0], spec.search)
    assert (statistics_bytes([outline]) > 0) == needed
    assert statistics_bytes([outline, outline]) == statistics_bytes([outline]), "combinations share them"


def test_the_memory_and_wide_layers_are_in_the_words_of_a_plan(monkeypatch):
    monkeypatch.setattr("pipeline.compress.layer_statistics.MOMENT_LIMIT", 8 * 100**2)
    path = write_study()
    path.write_text(path.read_text().replace('"svd"', '"qera"'))
    words = re.sub(r"\s+", " ", invoke("plan", "tiny").stdout)
    assert re.search(r"memory about [\d.]+ [kMG]B, of which statistics of the layers [\d.]+ [kMG]?B", words)
    assert "fc1 (192 inputs)" in words
    (first, _) = json.loads(invoke("plan", "tiny", "--json").stdout)["combinations"]
    assert first["statistics"]["sampled"] == {"fc1": 192}


def test_statistics_that_exceed_the_memory_of_the_machine_are_refused_by_every_verb(monkeypatch):
    path = write_study()
    path.write_text(path.read_text().replace('"svd"', '"qera"'))
    monkeypatch.setattr("pipeline.run.readiness_steps.physical_memory", lambda: 10**5)
    results = [invoke(verb, "tiny") for verb in ("check", "plan", "run")]
    assert [result.exit_code for result in results] == [3, 3, 3]
    assert all("statistics" in result.stdout + result.stderr for result in results)
    assert not list(Path().rglob("*.safetensors"))


def test_caches_that_exceed_the_disk_are_refused_by_every_verb_unless_the_limit_of_caches_forbids_them(monkeypatch):
    path = write_study()
    text = path.read_text().replace('adapter = "lora"\n\n', 'adapter = "lora"\ntargets = ["fc2"]\n\n')
    path.write_text(text.replace('targets = ["fc1"]', 'targets = ["fc2"]'))
    monkeypatch.setattr("pipeline.run.readiness_steps.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    assert [invoke(verb, "tiny").exit_code for verb in ("check", "plan", "run")] == [4, 4, 4]
    assert not list(Path().rglob("*.safetensors"))
