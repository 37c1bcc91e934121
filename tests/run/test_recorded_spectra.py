import pytest
import torch
from tiny_studies import BatchNormNet, kept_of, make_objective, make_spec, make_task, search

from pipeline.compress.spectrum import effective_rank, product_singular_values
from pipeline.config.spec import SpectraSpec
from pipeline.config.task_spec import BaselineSpec
from pipeline.errors import SpecError
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.results.reading import find_winners
from pipeline.results.spectra_file import read_spectra
from pipeline.run.recorded_spectra import keep_baseline_spectra, record_winners, watched_layers, weight_snapshot
from pipeline.run.winners import recover
from pipeline.space import Values
from pipeline.store.stored_study import trial_key


def watched_spec(*layers, values=64, **search):
    return make_spec(**search).model_copy(update={"spectra": SpectraSpec(layers=layers, values=values)})


@pytest.fixture
def record(said):
    """Records the spectra of winners; returns the lines that are logged."""

    def record(*study):
        said.clear()
        record_winners(*study)
        return list(said)

    return record


def read(spec, study, cell, trial, **changes):
    path = winner_spectra(spec.name, "int1-lora", cell.rank, cell.init)
    return read_spectra(path, trial_key(study.user_attrs["id"], trial.number), **changes)


def test_the_winner_of_each_cell_is_recorded_from_its_start_to_its_last_epoch(storage, record):
    spec = watched_spec("*", trials=4)
    objective, study = make_objective(spec), search(storage, spec)
    record(spec, objective, study)
    for cell, trial in find_winners(study).items():
        spectra = read(spec, study, cell, trial)
        courses = {(course.matrix, course.layer): course for course in spectra.courses}
        assert set(courses) == {(matrix, layer) for matrix in ("s B A", "Q + s B A") for layer in ("fc1", "fc2")}
        assert all(len(course.effective_rank) == objective.recipe.epochs + 1 for course in courses.values())
        product = courses["s B A", "fc1"]
        assert len(product.shares[0]) == cell.rank
        assert (product.effective_rank[0] == 0) == (cell.init == "paper"), "only B = 0 has no product"
        assert len(courses["Q + s B A", "fc1"].shares[0]) == 12
        best = trial.user_attrs["best_epoch"]
        recovered = recover(objective, kept_of(spec), trial).parameters
        s = objective.combination.adapter.s(Values.of(trial.params).alpha, cell.rank)
        values = product_singular_values(recovered["fc1.lora_B"], recovered["fc1.lora_A"], s)
        assert product.effective_rank[best] == pytest.approx(effective_rank(values), rel=1e-3)


def test_what_is_recorded_is_not_recorded_again_unless_more_is_asked_for(storage, record):
    spec = watched_spec("fc1", trials=4, values=3)
    objective, study = make_objective(spec), search(storage, spec)
    assert len(record(spec, objective, study)) == 4
    assert record(spec, objective, study) == []
    assert record(watched_spec("fc1", trials=4, values=2), objective, study) == []
    assert len(record(watched_spec("fc*", trials=4, values=3), objective, study)) == 4
    assert len(record(watched_spec("fc1", trials=4, values=4), objective, study)) == 4


def test_a_damaged_record_is_said_and_made_anew(storage, record):
    spec = watched_spec("fc1", trials=4)
    objective, study = make_objective(spec), search(storage, spec)
    record(spec, objective, study)
    cell, trial = next(iter(find_winners(study).items()))
    whole = read(spec, study, cell, trial)
    winner_spectra(spec.name, "int1-lora", cell.rank, cell.init).write_text("{")
    said = record(spec, objective, study)
    assert len(said) == 2
    assert "are damaged" in said[0]
    assert "is trained again, for its spectra" in said[1]
    assert read(spec, study, cell, trial) == whole


def test_layers_without_an_adapter_are_passed_over(storage, record):
    spec = make_spec(trials=4, combination={"targets": ["fc1"]})
    objective, study = make_objective(spec), search(storage, spec)
    assert record(spec, objective, study) == [], "it asks for none"
    assert record(spec.model_copy(update={"spectra": SpectraSpec(layers=("fc2",))}), objective, study) == []
    record(spec.model_copy(update={"spectra": SpectraSpec(layers=("*",))}), objective, study)
    cell, trial = next(iter(find_winners(study).items()))
    assert {course.layer for course in read(spec, study, cell, trial).courses} == {"fc1"}


def test_convolutions_are_recorded_too(storage, record):
    spec, task = watched_spec("conv*", trials=4, ranks=[2], inits=["svd"]), make_task(BatchNormNet)
    objective = make_objective(spec, task)
    study = search(storage, spec, objective=objective)
    record(spec, objective, study)
    ((cell, trial),) = find_winners(study).items()
    assert {course.layer for course in read(spec, study, cell, trial).courses} == {"conv1", "conv2"}


def test_a_pattern_that_matches_nothing_names_its_option():
    with pytest.raises(SpecError, match=r"^spectra.layers: 'fc9' matches no layer; did you mean 'fc\d'\?"):
        watched_layers(watched_spec("fc9"), make_task())


def test_a_baseline_that_was_trained_earlier_is_said_to_have_no_record(said):
    spec, task = watched_spec("fc1"), make_task()
    with_baseline = spec.task.model_copy(update={"baseline": BaselineSpec(epochs=1)})
    spec = spec.model_copy(update={"task": with_baseline})
    keep_baseline_spectra(spec, task, [])
    assert "not all spectra are recorded" in said.pop()
    keep_baseline_spectra(spec, task, [weight_snapshot(task.model, ["fc1"])] * 2)
    keep_baseline_spectra(spec, task, [])
    assert said == []
    (course,) = read_spectra(baseline_spectra(task.hashes["weights"]), task.hashes["weights"]).courses
    expected = effective_rank(torch.linalg.svdvals(task.model.fc1.weight.double()))
    assert course.effective_rank == pytest.approx([expected] * 2, rel=1e-4)
