import pytest
from hypothesis import given
from hypothesis import strategies as some
from views import MANY, cell, progress, view

from pipeline.terminal.live_table import board

DONE = progress(cell(complete=9, best=0.5))


def text(*given, **more):
    return "\n".join(line.plain for line in board(*given, **more))


def ranks(lines):
    """The ranks that the rows show."""
    header = next(place for place, line in enumerate(lines) if line.startswith("rank"))
    return [line.split()[0] for line in lines[header + 1 :] if not line.startswith("and ")]


def test_a_row_says_trials_states_epoch_and_best():
    own = progress(cell(4, "svd", complete=2, pruned=3, failed=1, running=3, epoch=2, best=0.9467))
    *_, names, row = text(view(own), 80, 24).splitlines()
    assert names.split() == ["rank", "init", "trials", "pruned", "failed", "running", "epoch", "best", "accuracy"]
    assert row.split() == ["4", "svd", "━━━━━─────", "5/9", "3", "1", "3", "3/9", "0.9467"]


def test_the_heading_says_where_the_study_is_how_quick_and_what_is_left():
    said = text(view(progress(cell(budget=32)), parts={"svd": progress(cell(budget=72))}), 120, 24)
    for part in ("digits: int1-lora", "combination 2 of 2", "1 min 23 s", "48 trials/min", "40 s left"):
        assert part in said
    assert "the study about 2 min 10 s" in said


def test_of_what_is_not_known_nothing_is_said():
    said = text(view(passed=None, rate=None), 120, 24)
    assert "- trials/min · - left" in said
    assert "None" not in said
    assert "nan" not in said


def test_the_best_cell_alone_is_bold():
    own = progress(cell(2, best=0.5), cell(4, best=0.9), cell(8, best=0.9), cell(16))
    bold = [line.plain.split()[0] for line in board(view(own), 80, 24)[-4:] if "bold green" in map(str, _styles(line))]
    assert bold == ["4"]


def _styles(line):
    return [span.style for span in line.spans]


def test_agreement_and_budgets_in_bytes_are_called_that():
    names = text(view(progress(cell(1700), metric="agreement", unit="bytes")), 80, 24).splitlines()[-2]
    assert names.split()[0] == "bytes"
    assert names.endswith("best agreement")


def test_an_adapter_without_ranks_shows_neither_rank_nor_init():
    said = text(view(progress(cell(0, "none", complete=1, best=0.5))), 80, 24)
    assert "none" not in said
    assert "rank" not in said


def test_combinations_that_are_done_stay_as_a_line_each():
    done = {"svd": progress(cell(complete=6, pruned=3, best=0.9))}
    assert "✓ svd  9/9 trials, 3 pruned, best accuracy 0.9000 (rank 2, svd)" in text(view(parts=done), 80, 24)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 10), (40, 12), (120, 40)])
def test_many_cells_fit_and_those_that_run_and_the_best_are_shown(width, height):
    lines = text(view(MANY, parts={"a": DONE, "b": DONE}), width, height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert {"40", "1000"} < set(ranks(lines))
    hidden = 61 - len(ranks(lines))
    assert lines[-1] == f"and {hidden} more: {hidden} done"


def test_the_last_table_has_every_cell():
    assert len(ranks(text(view(MANY), 80, None).splitlines())) == 61


@given(width=some.integers(1, 200), height=some.one_of(some.none(), some.integers(1, 60)), plain=some.booleans())
def test_no_line_is_wider_than_the_terminal(width, height, plain):
    lines = board(view(MANY, parts={f"combination {number}": DONE for number in range(20)}), width, height, plain=plain)
    assert all(line.cell_len <= width for line in lines)
    assert not plain or all(line.plain.isascii() for line in lines)
