"""Studies whose files hold small tensors in 16 bits."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_studies import (
    BatchNormNet,
    Mlp,
    blobs,
    kept_of,
    make_objective,
    make_spec,
    make_task,
    measure,
    search,
    trained,
)
from torch import nn

from pipeline import load
from pipeline.compress import sizes
from pipeline.compress.coded_tensors import coded_tensor
from pipeline.config.combination_spec import PLAIN
from pipeline.config.study_file import pinned, upgraded
from pipeline.errors import SpecError
from pipeline.export.joined import separate
from pipeline.export.selection import export_combination
from pipeline.objective.outline import Outline
from pipeline.results.reading import read_results
from pipeline.run.planned_sizes import plan_rank
from pipeline.run.winners import score_winners
from pipeline.space import Values
from pipeline.store.database import open_storage
from pipeline.task.contract import Task

SEARCH = {"trials": 2, "epochs": 2, "sampler": {"method": "random"}, "ranks": [1]}
SHARED = {"method": "codebook", "size": 5, "vector": 3, "shared": True}
WAYS = {
    "8-bit factors": (BatchNormNet, {"method": "lora", "bias": True, "factors": "int8"}, "int1", ["eva"]),
    "one-bit factors": (Mlp, {"method": "lora", "factors": "int1"}, "int1", ["svd"]),
    "magnitudes": (Mlp, "dora", {"method": "intN", "group": 4, "symmetric": False}, ["svd"]),
    "bases that move": (BatchNormNet, "lora", {"method": "intN", "bits": 2}, ["loftq"]),
    "corrected biases": (Mlp, "lora", {"method": "int1", "bias": "corrected"}, ["svd"]),
    "few kept values": (Mlp, "lora", {"method": "sparse", "keep": 0.2, "values": {"bits": 3}}, ["svd"]),
    "factors": (Mlp, "none", {"method": "svd", "singular_values": True}, ["svd"]),
    "trained codes": (Mlp, "codes", {"method": "intN", "bits": 2}, ["svd"]),
    "a shared codebook": (BatchNormNet, "codes", SHARED, ["svd"]),
    "a shared codebook of bases that move": (BatchNormNet, "lora", SHARED, ["loftq"]),
    "everything": (BatchNormNet, "full", "int1", ["svd"]),
}


@pytest.mark.parametrize("coding", ["none", "rans"])
@pytest.mark.parametrize(("module", "adapter", "compression", "inits"), WAYS.values(), ids=WAYS)
def test_a_trial_is_judged_with_the_values_and_the_size_of_its_file(
    module, adapter, compression, inits, coding, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    methods = {"adapter": adapter, "compression": compression, "batch_norm": "kept"}
    spec = make_spec(combination=methods, inits=inits, storage={"small": "float16", "coding": coding}, **SEARCH)
    objective, storage = make_objective(spec, make_task(module)), open_storage("sqlite:///studies.db")
    study = search(storage, spec, objective=objective)
    score_winners(objective, study, kept_of(spec), 1)
    (result,) = read_results(storage, spec.name)
    (folder,) = export_combination(objective, result, kept_of(spec))
    card = json.loads((folder / "card.json").read_text())
    model, task = load(folder, model=module()), objective.combination.task
    recovered = card["accuracy"]["recovered"]
    assert [measure(model, part) for part in (task.val, task.test)] == [
        [recovered[part][k] for k in ("correct", "images")] for part in ("val", "test")
    ]
    assert recovered["val"]["accuracy"] == result.cells[0].best.value
    assert card["storage"] == {"small": "float16", "coding": coding}
    assert card["size"]["tensor_bytes"] == result.cells[0].best.user_attrs["bytes"]
    assert card["size"]["tensor_bytes"] <= objective.combination.facts(result.cells[0].cell).size.bytes
    stored = separate(load_file(folder / "model.safetensors"))
    assert {stored[name].dtype for name in stored if name.endswith((".bias", "_scale", ".scale"))} <= {torch.float16}
    in_full = make_objective(make_spec(combination=methods, inits=inits, **SEARCH), make_task(module))
    assert card["size"]["tensor_bytes"] < in_full.combination.facts(card["method"]["values"]["rank"]).size.bytes


def test_trained_gains_are_refused_because_they_would_change_rounded_scales():
    spec = make_spec(combination={"adapter": {"method": "lora", "scales": True}}, storage={"small": "float16"})
    with pytest.raises(SpecError, match="scales = false"):
        make_objective(spec)


def test_the_default_storage_is_not_pinned_and_another_is():
    plain, half = make_spec(), make_spec(storage={"small": "float16"})
    assert "storage" not in pinned(plain, plain.combination[0])["combination"]
    table = pinned(half, half.combination[0])
    assert table["combination"]["storage"] == {"small": "float16", "coding": "none"}
    assert upgraded(table) == table


def test_a_combination_may_say_another_storage_than_its_study():
    spec = make_spec(combination={"storage": {"small": "float32"}}, storage={"small": "float16"})
    assert make_objective(spec).combination.storage == PLAIN
    with pytest.raises(SpecError, match=r"1 error\n  storage.small"):
        make_spec(storage={"small": "int8"})


@pytest.mark.parametrize(
    ("adapter", "compression"),
    [("lora", {"method": "sparse", "keep": 0.1, "values": {"bits": 3}}), ("codes", {"method": "intN", "bits": 3})],
    ids=["lora", "codes"],
)
def test_a_plan_says_at_most_how_many_bytes_a_coded_trial_takes_and_about_how_many(adapter, compression):
    spec = make_spec(
        combination={"adapter": adapter, "compression": compression},
        storage={"small": "float16", "coding": "rans"},
        **{**SEARCH, "lr": 1e-3},
    )
    task = wide_task()
    objective = make_objective(spec, task)
    lane = objective.lane(Values(1, "svd", lr=1e-3, batch_size=32))
    list(objective.epochs(lane))
    exact = objective.attributes(lane, Values(1, "svd"))["bytes"]
    planned = plan_rank(Outline(task, spec.combination[0], spec.search), 1)
    assert exact <= planned["bytes"]
    assert planned["coded_bytes"] == pytest.approx(exact, rel=0.05)
    assert plan_rank(Outline(task, make_spec().combination[0], spec.search), 1)["coded_bytes"] is None


def wide_task() -> Task:
    """A perceptron of 10,000 weights: tables and states of the coder are small beside its codes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = trained(nn.Sequential(nn.Linear(16, 300), nn.ReLU(), nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 4)))
    return Task(model, train=blobs(96, 1), val=blobs(80, 2), test=blobs(80, 3))


def test_what_no_trial_changes_is_coded_once_for_all_of_them(monkeypatch):
    objective = make_objective(make_spec(storage={"coding": "rans"}, **SEARCH), make_task(BatchNormNet))
    shapes = []

    def counting(tensor, packing=None):
        shapes.append(tensor.shape)
        return coded_tensor(tensor, packing)

    monkeypatch.setattr(sizes, "coded_tensor", counting)
    lane = objective.lane(Values(rank=1, init="svd"))
    of_trials = [objective.size(Values(rank=1, init="svd"), lane.parameters).bytes for _ in range(2)]
    first, again = shapes[: -len(lane.parameters)], shapes[-len(lane.parameters) :]
    assert of_trials[0] == of_trials[1]
    assert len(first) > 2 * len(lane.parameters)
    assert sorted(again) == sorted(tensor.shape for tensor in lane.parameters.values())
