"""Each way of recovery through the whole house: searched, resumed, tested, exported, and loaded again."""

import json

import pytest
import torch
from tiny_studies import BatchNormNet, Mlp, ResidualNet, kept_of, make_objective, make_spec, make_task, measure, search

from pipeline import load
from pipeline.export.selection import export_combination
from pipeline.report.page import write_report
from pipeline.results.reading import read_results
from pipeline.results.study_state import read_status
from pipeline.run.winners import score_winners
from pipeline.space import Values, cells
from pipeline.store.database import open_storage

SEARCH = {"trials": 3, "epochs": 2, "sampler": {"method": "random"}, "ranks": [1, 2]}
TOU = {"method": "tou", "rank": 2}
SIGMA = {"low": 1e-3, "high": 1e-1, "log": True}
WAYS = {
    "dora on 4 bits, convolutions": (BatchNormNet, "dora", {"method": "intN", "group": 4}, ["svd", "qera"]),
    "gains, biases and 8-bit factors": (
        BatchNormNet,
        {"method": "lora", "scales": True, "bias": True, "factors": "int8"},
        "int1",
        ["eva"],
    ),
    "half-precision factors on sparse weights": (Mlp, {"method": "lora", "factors": "float16"}, "sparse", ["zero"]),
    "starts that move the base": (BatchNormNet, "lora", "int1", ["loftq", "pissa", "olora", "svd"]),
    "tou, noise searched": (Mlp, {"method": "tou", "sigma": SIGMA}, TOU, ["svd"]),
    "tou behind a frozen factor of 8 bits": (
        BatchNormNet,
        "tou",
        {**TOU, "frozen": {"method": "intN", "bits": 8}},
        ["svd"],
    ),
    "everything, on pruned convolutions": (ResidualNet, "full", "prune_magnitude", ["svd"]),
    "the head alone": (BatchNormNet, "head", "int1", ["svd"]),
    "norms folded": (BatchNormNet, {"method": "lora", "bias": True}, "int1", ["svd"], {"batch_norm": "folded"}),
    "codes of folded convolutions": (
        ResidualNet,
        "codes",
        {"method": "intN", "bits": 2},
        ["svd"],
        {"batch_norm": "folded"},
    ),
    "nothing": (Mlp, "none", {"method": "svd", "factors": {"method": "intN", "bits": 8}}, ["svd"]),
}


EVERY_WAY = pytest.mark.parametrize(
    ("module", "adapter", "compression", "inits", "more"),
    [(*way, {}) if len(way) == 4 else way for way in WAYS.values()],
    ids=WAYS,
)


@EVERY_WAY
def test_a_study_is_searched_once_and_its_files_give_the_models_that_were_tested(
    module, adapter, compression, inits, more, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    spec = make_spec(combination={"adapter": adapter, "compression": compression, **more}, inits=inits, **SEARCH)
    objective, storage = make_objective(spec, make_task(module)), open_storage("sqlite:///studies.db")
    study = search(storage, spec, objective=objective)
    own = cells(objective.combination.search)
    assert [trial.state.name for trial in study.trials].count("FAIL") == 0
    assert len(study.trials) == len(own) * objective.combination.search.trials
    score_winners(objective, study, kept_of(spec), 2)
    # A second run, as a new process begins it.
    again = make_objective(spec, make_task(module))
    assert len(search(storage, spec, objective=again).trials) == len(study.trials)

    (result,) = read_results(storage, spec.name)
    assert [cell.cell for cell in result.cells] == own
    assert all(len(cell.tested) == 2 for cell in result.cells)
    status = read_status("sqlite:///studies.db", spec.name, with_reasons=True)
    assert [(row["rank"], row["init"]) for row in status[0]["cells"]] == [(cell.rank, cell.init) for cell in own]
    assert write_report([result], tmp_path / "report").page.exists()

    for folder in export_combination(again, result, kept_of(spec)):
        card = json.loads((folder / "card.json").read_text())
        model = load(folder, model=module())
        recovered = card["accuracy"]["recovered"]
        for part in ("val", "test"):
            assert measure(model, getattr(objective.combination.task, part)) == [
                recovered[part][k] for k in ("correct", "images")
            ]
        rank = card["method"]["values"]["rank"]
        assert card["size"]["tensor_bytes"] == objective.combination.facts(rank).size.bytes


def test_every_cell_whose_init_moves_the_base_has_its_own_base_of_equal_size():
    objective = make_objective(make_spec(inits=["svd", "loftq", "pissa"], ranks=[1, 2]))
    own = cells(objective.combination.search)
    bases = {cell: objective.bases.of(cell).compressed for cell in own}
    lanes = {cell: objective.lane(Values(cell.rank, cell.init)) for cell in own}
    assert len({lane.cohort_key for lane in lanes.values()}) == 1 + 2 * 2
    for cell, compressed in bases.items():
        assert (compressed is objective.combination.compressed) == (cell.init == "svd")
        for name, weight in compressed.weights.items():
            assert torch.equal(compressed.model.get_submodule(name).weight, weight.dense())
            assert weight.bits == objective.combination.compressed.weights[name].bits
