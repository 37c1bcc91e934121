import re
from datetime import UTC, datetime

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial
from report_pages import Tags, render
from stored_studies import finish_study

from pipeline.report.figures.contract import PICTURES
from pipeline.results.reading import read_results
from pipeline.results.tables import evaluation_rows, trial_rows
from pipeline.store.stored_study import in_chunks

accuracy_by_rank = PICTURES["accuracy_by_rank"]().draw
accuracy_by_size = PICTURES["accuracy_by_size"]().draw
history = PICTURES["history"]().draw
recovery = PICTURES["recovery"]().draw

MADE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
def attributes():
    """Writes attributes of a stored study, as a run of this version does."""

    def write(stored, **table):
        for key, value in table.items():
            stored.study.set_user_attr(key, value)

    return write


def test_the_page_says_what_came_of_it_before_anything_else(finished):
    said = Tags(render(finished)).said
    assert (
        "The original model has 98.00 % test accuracy in 941 kB. Compression alone leaves 41.00 % in 58.6 kB "
        "(int1-lora) and 41.30 % in 120 kB (sparse-lora). 32 of 32 trials in 8 cells have ended" in said
    )
    assert "97.05 % (mean of 2 seeds) in 109 kB, 8.7 times smaller, 98 % of the loss recovered (int1" in said
    assert said.index("The original model has") < said.index("Results")


def test_the_page_says_what_was_done(finished):
    said = Tags(render(finished, MADE)).said
    assert "train 54,600, val 5,400, test 10,000" in said
    assert "98.00 (97.71 to 98.26)" in said
    assert "int1 (scale row)" in said
    assert "5" * 64 in said
    assert "2.13.0" in said
    assert "loss is not finite <epoch 1>" in said
    assert "Made on 2026-03-01 at 12:30 UTC." in said
    assert "not finished" not in said


def test_a_study_that_goes_on_says_how_far_it_is_and_what_has_not_begun(store, storage):
    stored = store()
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    stored.running(8, "svd")
    store(combination="later")
    text = render(read_results(storage, "digits"))
    page = Tags(text)
    assert "digits is not finished: 1 of 32 trials (3 %) have ended, 1 of the others begun" in page.said
    assert "to write it again: restora report digits" in page.said
    assert "Not begun: rank 2, paper and rank 8, paper of int1-lora; later." in page.said
    assert [(bar["value"], bar["max"]) for bar in page.all("progress")] == [("1", "32")]
    assert 'http-equiv="refresh"' not in text, "a page that reloads itself would lose the reader's place"
    assert "Spectra" not in page.text, "a picture that was not asked for is left out"
    assert "No picture: int1-lora: importances need two complete trials, there is one; later: " in page.said


def test_a_searched_study_whose_winners_are_not_all_tested_says_so(store, storage):
    stored = store(ranks=(2,), inits=("svd",), budget=1)
    stored.references("val", 0.98, 0.4)
    stored.trial(2, "svd", 0.9)
    said = Tags(render(read_results(storage, "digits"))).said
    assert "The search of digits has ended, and not every winner is tested yet." in said
    assert "The original model has 98.00 % validation accuracy" in said


def test_several_studies_stand_side_by_side_under_their_names(finished, storage, store):
    finish_study(store(name="other", ranks=(4,), inits=("svd",)), lift=-0.01)
    results = [*read_results(storage, "other"), *finished]
    results = [type(one)(**{**vars(one), "label": one.study.study_name}) for one in results]
    page = Tags(render(results))
    assert page.said.startswith("other and digits: accuracy after compression")
    assert "digits: The original model has" in page.said
    assert "other, original" in page.said
    assert "◆ other/int1-lora" in page.said, "a study's checkpoints are compared with its own alone"
    assert "◆ digits/int1-lora" in page.said


def test_read_results_of_several_studies_have_labels_that_name_their_study(storage, store):
    store(name="a"), store(name="b"), store(name="b", combination="sparse-lora")
    both = read_results(storage, "b", "a", "b")
    assert [(one.of, one.name, one.label) for one in both] == [
        ("b", "int1-lora", "b/int1-lora"),
        ("b", "sparse-lora", "b/sparse-lora"),
        ("a", "int1-lora", "a/int1-lora"),
    ]
    assert [one.label for one in read_results(storage, "a")] == ["int1-lora"]


def test_agreement_budgets_and_adapters_without_ranks_are_called_what_they_are(storage, store):
    budgets = store(ranks=(20_000,), inits=("svd",), metric="agreement", budgets="bytes", budget=1)
    alone = store(combination="int8-none", ranks=(0,), inits=("none",), metric="agreement", budget=1)
    for stored, rank, init in ((budgets, 20_000, "svd"), (alone, 0, "none")):
        stored.references("val", 1.0, 0.5)
        stored.test(rank, init, stored.trial(rank, init, 0.9), 0.88)
        stored.references("test", 1.0, 0.5)
    page = Tags(render(read_results(storage, "digits")))
    assert page.said.startswith("digits: agreement after compression")
    assert "No labels were used: agreement is the share of test images" in page.said
    assert "int1-lora 20 kB svd" in page.said
    assert "int8-none - -" in page.said
    assert page.said.lower().count("accuracy") == 1, "the glossary says that agreement stands for it"


def test_the_page_has_what_is_needed_to_do_it_again(storage, store, attributes):
    stored = store(ranks=(2,), inits=("svd",), budget=1)
    number = stored.trial(2, "svd", 0.9, checkpoint="storage/exports/x/model.safetensors", checkpoint_sha256="e" * 64)
    text = 'name = "digits"  # <mine>\n' + "x" * 4000
    run = {"command": "restora run digits --device cpu", "began": "2026-03-01T10:00:00+00:00", "done": 0}
    attributes(stored, run=run, **in_chunks("file", text))
    page = Tags(render(read_results(storage, "digits")))
    assert "restora run digits --device cpu" in page.said
    assert "2026-03-01T10:00:00+00:00" in page.said
    assert text in page.text
    assert f"{number} storage/exports/x/model.safetensors {'e' * 64}" in page.said


def test_a_study_of_an_older_version_says_what_of_it_is_pinned_and_how_to_export(storage, store):
    store(ranks=(2,), inits=("svd",)).trial(2, "svd", 0.9)
    said = Tags(render(read_results(storage, "digits"))).said
    assert "The pinned values of digits (an older version did not store its file)" in said
    assert 'combination = {"name": "int1-lora"' in said
    assert "to export them: restora export digits" in said


def test_the_latest_run_of_a_study_is_that_of_whichever_combination_began_last(storage, store, attributes):
    for name, day in (("first", 1), ("last", 3), ("between", 2)):
        run = {"command": f"restora run digits --only {name}", "began": f"2026-03-0{day}T10:00:00+00:00", "done": 0}
        attributes(store(combination=name), run=run)
    store(combination="not begun")
    said = Tags(render(read_results(storage, "digits"))).said
    assert "restora run digits --only last" in said
    assert "2026-03-03T10:00:00+00:00" in said
    assert "2026-03-01" not in said


def test_trials_without_a_cell_are_passed_over(storage, store):
    stored = store(ranks=(2,), inits=("svd",))
    number = stored.trial(2, "svd", 0.9)
    space = {"rank": CategoricalDistribution((2,))}
    stored.study.add_trial(create_trial(params={"rank": 2}, distributions=space, value=0.99))
    stored.study.enqueue_trial({"rank": 2})
    stored.study.add_trial(create_trial(value=0.99, user_attrs={"checkpoint": "theirs"}))
    results = read_results(storage, "digits")
    assert [row["trial"] for row in trial_rows(results)] == [number]
    assert "theirs" not in Tags(render(results)).said
    assert list(history(results).data[0].x) == [number]


def test_a_winner_that_failed_under_another_seed_says_so_and_why(storage, store):
    stored = store(ranks=(2, 8), inits=("svd",))
    stored.references("val", 0.98, 0.4)
    stored.references("test", 0.98, 0.4)
    stored.test(2, "svd", stored.trial(2, "svd", 0.9), 0.89, 0.91, failed={77: "loss is not finite"})
    stored.test(8, "svd", stored.trial(8, "svd", 0.95), 0.95, failed={78: "out of memory", 79: "out of memory"})
    results = read_results(storage, "digits")
    said = Tags(render(results)).said
    assert "90.00 ± 1.41 (2 of 3 seeds)" in said
    assert "90.00 % (mean of 2 of 3 seeds) in" in said
    assert "95.00 (94.56 to 95.41) 1 of 3 seeds" in said
    assert "int1-lora, rank 2, svd 77 loss is not finite" in said
    assert "int1-lora, rank 8, svd 79 out of memory" in said
    assert [(row["seeds"], row["failed_seeds"]) for row in evaluation_rows(results)] == [(2, 1), (1, 2)]
    line = next(trace for trace in accuracy_by_rank(results).data if trace.hovertext)
    assert "images, mean of 2 of 3 seeds from 89.00% to 91.00% (" in line.hovertext[0]
    assert "images, 1 of 3 seeds (" in line.hovertext[1]


def test_table_summary_and_pictures_agree_on_the_front_and_on_recovery_over_seeds(storage, store):
    """By the first seed alone rank 8 would beat rank 32; by the mean rank 2 beats rank 8."""
    stored = store(ranks=(2, 8, 32), inits=("svd",))
    stored.references("val", 0.98, 0.4)
    stored.references("test", 0.98, 0.4)
    for rank, accuracies in {2: (0.85, 0.89), 8: (0.95, 0.75), 32: (0.90, 0.92)}.items():
        stored.test(rank, "svd", stored.trial(rank, "svd", 0.9), *accuracies)
    results = read_results(storage, "digits")
    front = next(trace for trace in accuracy_by_size(results).data if trace.name == "Pareto front of the cells")
    drawn = next(trace for trace in recovery(results).data if trace.hovertext)
    page, rows = Tags(render(results)), evaluation_rows(results)
    size_of = {row["rank"]: row["bytes"] for row in rows}
    assert list(front.x) == [size_of[2], size_of[32]]
    assert re.findall(r"◆ int1-lora (\d+) svd", page.said) == ["2", "32"]
    assert "87.00 % (mean of 2 seeds) in" in page.said
    assert "91.00 % (mean of 2 seeds) in" in page.said
    assert "85.00 % (mean of 2 seeds) in" not in page.said
    assert [100 * row["recovery"] for row in rows] == pytest.approx(list(drawn.y))
    assert all(f" seeds) {share:.1f} " in page.said for share in drawn.y)
    assert [row["recovered_test"] for row in rows] == [0.85, 0.95, 0.90], "columns of the checkpoint are its own"


def test_sizes_of_layers_are_summed_up(storage, store):
    stored = store(ranks=(2, 8), inits=("svd",))
    stored.trial(2, "svd", 0.9)
    stored.layers("fc1", "fc2")
    said = Tags(render(read_results(storage, "digits"))).said
    assert "layer original compressed of it weights scales bias adapter, rank 2 adapter, rank 8" in said
    assert "fc2 8.4 kB 690 B 250 B 40 B 400 B 160 B 640 B" in said
    assert "all of them 12.8 kB 1.25 kB 375 B 80 B 800 B 320 B 1.28 kB" in said


def test_a_checkpoint_that_is_larger_and_worse_than_compression_alone_is_not_said_to_be_unbeaten(store, storage):
    stored = store(ranks=(2,), inits=("svd",))
    stored.references("val", 0.98, 0.95)
    stored.trial(2, "svd", 0.94)
    page = Tags(render(read_results(storage, "digits")))
    assert "No checkpoint beats compression alone." in page.said
    assert "◆ int1-lora" not in page.said
