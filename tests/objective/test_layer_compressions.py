"""Layers with a compression of their own: sizes, bases that inits move, cards and checkpoints."""

import json

import pytest
import torch
from tiny_studies import Mlp, kept_of, make_objective, make_spec, make_task, search
from torch import nn

from pipeline import load
from pipeline.compress.methods.int1 import Int1, SignWeight
from pipeline.compress.methods.intn import CodeWeight, IntN
from pipeline.config.combination_spec import TargetSpec
from pipeline.errors import SpecError
from pipeline.export.selection import export_combination
from pipeline.objective.combination import Combination
from pipeline.objective.outline import Outline
from pipeline.results.reading import read_results
from pipeline.run.winners import score_winners
from pipeline.space import Values
from pipeline.store.database import open_storage
from pipeline.task.contract import Task

OWN = {"targets": ["*", {"match": "fc2", "compression": {"method": "intN", "bits": 8}}]}


def combination(kind=Combination, task=None, **options):
    spec = make_spec(combination={**OWN, **options}, inits=["loftq", "svd"])
    return kind(task or make_task(), spec.combination[0], spec.search)


def test_a_layer_is_compressed_by_its_own_method_and_others_by_that_of_the_combination():
    weights = combination().compressed.weights
    assert isinstance(weights["fc1"], SignWeight)
    assert isinstance(weights["fc2"], CodeWeight)
    assert weights["fc2"].width == 8
    dense = make_task().model.get_submodule("fc2").weight.detach()
    assert torch.equal(weights["fc2"].dense(), IntN(bits=8).compress(dense, None).dense())


def test_an_outline_has_the_sizes_of_the_values():
    exact, outline = combination(), combination(Outline)
    for rank in (1, 2):
        assert outline.facts(rank).size == exact.facts(rank).size


def test_an_init_that_moves_the_base_compresses_each_layer_by_its_own_method():
    starts = combination().starts(Values(1, "loftq"), 0)
    assert isinstance(starts["fc1"].base, SignWeight)
    assert isinstance(starts["fc2"].base, CodeWeight)


def test_statistics_are_gathered_for_the_layers_that_need_them_alone():
    one = combination(
        Outline, targets=["*", {"match": "fc1", "compression": {"method": "int1", "metric": "activation"}}]
    )
    assert one.compression.needs_statistics
    assert list(one.statistics_bytes) == ["fc1"]


def test_a_checkpoint_says_the_methods_of_its_layers_and_gives_the_model_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = make_spec(combination=OWN, inits=["svd"], ranks=[1], trials=2, epochs=1, sampler={"method": "random"})
    objective, storage = make_objective(spec), open_storage("sqlite:///studies.db")
    score_winners(objective, search(storage, spec, objective=objective), kept_of(spec), 1)
    (result,) = read_results(storage, spec.name)
    (folder,) = export_combination(objective, result, kept_of(spec))
    method = json.loads((folder / "card.json").read_text())["method"]
    assert method["compression"] == objective.combination.spec.compression.complete()
    assert method["compressions"] == {"fc2": IntN(bits=8).complete()}
    assert "prefix" in method["compression"], "options of later versions are listed with their defaults"
    loaded = load(folder, model=Mlp())
    assert torch.equal(loaded.fc2.weight, objective.combination.compressed.weights["fc2"].dense())


def test_a_study_file_gives_back_the_compression_of_an_entry():
    entry = TargetSpec(match="fc*", compression=Int1(scale="tensor"))
    assert TargetSpec.model_validate(entry.model_dump(mode="json")) == entry
    assert TargetSpec(match="fc*").model_dump(mode="json") == "fc*"


def test_a_dense_layer_takes_no_compression():
    with pytest.raises(
        ValueError, match="a dense layer is not compressed, so it has no compression; give one of the two"
    ):
        TargetSpec(match="fc1", dense=True, compression=Int1())


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"targets": ["*", {"match": "fc2", "compression": "prune_magnitude"}]}, "layer 'fc2'"),
        ({"compression": "prune_gradient"}, "compression"),
    ],
    ids=["own", "of the combination"],
)
def test_a_method_that_compresses_whole_models_is_refused(options, place):
    with pytest.raises(SpecError, match=f"^{place}: 'prune_.*' compresses whole models, and targets have compressions"):
        combination(**options)


def test_layers_that_share_a_weight_need_one_compression():
    class Tied(Mlp):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.fc2.weight = self.fc1.weight

        def forward(self, x):
            return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    plain = make_task()
    task = Task(Tied(), train=plain.train, val=plain.val, test=plain.test)
    with pytest.raises(SpecError, match="layers 'fc1' and 'fc2' share one weight, and have different compressions"):
        combination(task=task)
    assert combination(task=task, targets=["*", {"match": "fc3", "compression": "intN"}]).compressed.weights
