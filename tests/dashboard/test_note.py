import re

import pytest
from markdown_it import MarkdownIt
from optuna.trial import TrialState
from stored import COMMAND, begin, finish
from stored_studies import Stored, finish_study

from pipeline.dashboard.note import LINE, combination_note, renewed, study_note
from pipeline.results.reading import read_results


def note_of(storage):
    return combination_note(read_results(storage, "digits")[0])


def table(note):
    """Rows of its table, a list of cells each; spaces of any kind are spaces."""
    lines = [line.strip("|").split("|") for line in note.splitlines() if line[:1] == "|"]
    return [[" ".join(cell.split()) for cell in line] for line in lines]


def html(note):
    """As Markdown readers that take HTML show it."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(note)


def test_it_says_what_the_study_is_how_far_it_is_what_made_it_and_what_to_do_next(storage):
    finish(storage)
    note = note_of(storage)
    assert "**int1-lora** of study **digits**" in note
    assert "Task: mlp on mnist (54,600 training, 5,400 validation, 10,000 test images)" in note
    assert "Compression: int1 (scale row) of 3 layers" in note
    assert "Adapter: lora; inits: paper and svd" in note
    assert "Progress: 16 of 16 trials: 12 complete, 4 pruned, 1 failed." in note
    assert f"```\n{COMMAND}\n```" in note
    assert "2026-11-24 15:00 UTC" in note
    assert "`restora report digits`" in note
    assert "`restora export digits`" in note


def test_its_table_shows_original_only_compressed_and_the_best_of_each_rank_with_what_it_won_back(storage):
    finish(storage)
    head, _, *rows = table(note_of(storage))
    assert head == ["", "validation accuracy (%)", "test accuracy (%)", "size", "times smaller",
                    "recovered on test (%)", "trial"]  # fmt: skip
    assert [row[0] for row in rows] == ["original", "compressed only", "rank 2, svd", "rank 8, svd"]
    assert rows[0][1:5] == ["98.09", "98.00", "941 kB", "1.00"]
    assert rows[1][1:5] == ["42.00", "41.00", "58.6 kB", "16.04"]
    (best,) = (cell for cell in read_results(storage, "digits")[0].cells if str(cell.cell) == "rank 8 svd")
    share = (best.test_spread()[0] - 0.41) / (0.98 - 0.41)
    assert rows[3][5:] == [f"{100 * share:.1f}", str(best.best.number)]


def test_before_the_test_what_was_won_back_is_that_on_validation(storage):
    stored = begin(storage)
    stored.trial(2, "svd", 0.70)
    head, _, *rows = table(note_of(storage))
    assert head[5] == "recovered on validation (%)"
    assert rows[-1][1:3] == ["70.00", ""]
    assert rows[-1][5] == "50.0"


def test_a_study_that_has_just_begun_says_so(storage):
    begin(storage)
    note = note_of(storage)
    assert [row[0] for row in table(note)[2:]] == ["original", "compressed only"]
    assert "Progress: 0 of 16 trials: 0 complete, 0 pruned." in note


def test_it_says_why_trials_failed_the_most_frequent_reason_first(storage):
    stored = begin(storage)
    for reason in ("rare", "often", "often"):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason=reason)
    assert re.search(r"2 times: often\n- 1 time: rare", note_of(storage))


def test_a_trial_that_was_interrupted_is_no_failure(storage):
    stored = begin(storage)
    for _ in range(2):
        stored.trial(2, "svd", 0.1, TrialState.FAIL, reason="its run was killed", interrupted=True)
    note = note_of(storage)
    assert "failed" not in note
    assert "Interrupted, to be tried again: 2 trials." in note


def test_a_study_of_an_older_version_lacks_what_was_not_stored_then(storage):
    finish_study(Stored(storage))
    note = note_of(storage)
    assert "Made by" not in note
    assert "`restora report digits`" in note


def test_agreement_and_budgets_are_called_what_they_are(storage):
    stored = begin(storage, ranks=(4000,))
    facts = stored.study.user_attrs
    search = {**facts["pinned"]["search"], "allocation": {"by": "gain", "unit": "bytes"}}
    stored.study.set_user_attr("pinned", {**facts["pinned"], "search": search})
    stored.study.set_user_attr("task", {**facts["task"], "metric": "agreement"})
    stored.trial(4000, "svd", 0.9)
    head, *_, last = table(note_of(storage))
    assert head[1] == "validation agreement (%)"
    assert last[0] == "budget 4 kB, svd"


def test_an_adapter_without_ranks_has_none_in_its_row(storage):
    stored = begin(storage, ranks=(0,), inits=("none",))
    stored.trial(0, "none", 0.9)
    assert table(note_of(storage))[-1][0] == "best"


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a|b", "[x](javascript:alert(1))", "`x`", "*x*",
     "&lt;b&gt;", "\\<b>", "![x](http://x/y.png)", "a\n\n# b", "~~~\nx"],
)  # fmt: skip
def test_names_are_nothing_but_text(storage, name):
    stored = begin(storage, combination=name, inits=(name,))
    stored.trial(2, name, 0.9)
    stored.trial(2, name, 0.1, TrialState.FAIL, reason=name)
    stored.study.set_user_attr(
        "run", {"command": f"restora run '{name}' ```\n<b>", "began": "2026-11-24T15:00", "done": 0}
    )
    results = read_results(storage, "digits")
    for note in (combination_note(results[0]), study_note(results)):
        shown = html(note)
        assert not re.search(r"<(script|img|a|h1|del|b)\b", shown)
        rows = re.findall(r"<tr>.*?</tr>", shown, re.DOTALL)
        assert all(len(re.findall("<t[dh]", row)) == 7 for row in rows)
        assert len(rows) == 4
        assert shown.count("<pre>") == 1


def test_the_note_of_a_whole_study_shows_all_combinations_in_one_table(storage):
    finish(storage)
    finish(storage, "sparse-lora", base_bytes=120_000)
    note = study_note(read_results(storage, "digits"))
    assert "2 combinations" in note
    assert [row[0] for row in table(note)[2:]] == [
        "original",
        *("int1-lora: compressed only", "int1-lora: rank 2, svd", "int1-lora: rank 8, svd"),
        *("sparse-lora: compressed only", "sparse-lora: rank 2, svd", "sparse-lora: rank 8, svd"),
    ]
    assert "Progress: 32 of 32 trials" in note


def test_the_note_of_a_whole_study_names_the_run_that_began_last(storage):
    for combination, hour in (("late", 17), ("early", 15)):
        run = {"command": f"restora run {combination}", "began": f"2026-11-24T{hour}:00:00+00:00", "done": 0}
        begin(storage, combination).study.set_user_attr("run", run)
    note = study_note(read_results(storage, "digits"))
    assert "Latest run, begun 2026-11-24 17:00 UTC:\n\n```\nrestora run late\n```" in note


def test_what_someone_wrote_below_the_line_is_kept_to_the_letter():
    first = renewed("", "one")
    assert first.endswith(LINE)
    theirs = "\n\nmy own words  \n---\n" + LINE + "\nagain\n"
    second = renewed(first + theirs, "two")
    assert second == renewed("", "two") + theirs
    assert renewed(second, "two") == second


def test_a_note_without_the_line_is_all_someones_own():
    assert renewed("my note", "text") == f"{renewed('', 'text')}\n\nmy note"
