import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.cli import watch as module
from pipeline.cli.watch import Watch, watch_study

EVEN = {"largest_class": {}, "uneven": False}


def part(name="one", complete=0, budget=4, running=0, epoch=0, run=None, best=0.5, tested=False):
    states = {"complete": complete, "pruned": 0, "fail": 0, "running": running}
    cell = {
        "rank": 2, "init": "svd", "budget": budget, "states": states, "epoch": epoch, "trial": None, "tested": tested,
        "best": best if complete else None, "exhausted": False, "reasons": {}, "interrupted": {},
    }  # fmt: skip
    return {"combination": name, "metric": "accuracy", "unit": None, **EVEN, "epochs": 8, "run": run, "cells": [cell]}


def began(seconds, done):
    when = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"command": "restora run s", "began": when.isoformat(timespec="seconds"), "done": done}


def test_rate_and_time_left_follow_from_the_run_that_is_stored():
    watched = Watch("s", [part(complete=3, running=1, epoch=4, run=began(60, 1)), part("two", run=began(60, 0))], True)
    view = watched.view()
    assert view.rate == pytest.approx(2.5 / 60, rel=0.05)
    assert view.study_left == pytest.approx((0.5 + 4) / view.rate)
    assert view.passed == pytest.approx(60, abs=2)
    assert view.current == "one"


@pytest.mark.parametrize("run", [None, began(5000, 0)], ids=["no run", "an older run"])
def test_trials_of_a_combination_that_was_done_before_are_not_the_runs(run):
    table = [part(complete=4, run=run), part("two", complete=3, run=began(60, 1))]
    view = Watch("s", table, True).view()
    assert view.rate == pytest.approx(2 / 60, rel=0.05)
    assert view.study_left == pytest.approx(1 / view.rate)


def test_a_study_is_finished_once_its_winners_are_tested_or_no_run_is_there_to_do_it():
    searched, tested = [part(complete=4, run=began(60, 0))], [part(complete=4, run=began(60, 0), tested=True)]
    watched = Watch("s", searched, True)
    assert not watched.finished
    assert (watched.view().note, watched.view().rate) == ("testing the winners", None)
    assert Watch("s", searched, False).finished
    assert Watch("s", searched, None).finished
    watched.update(tested, True)
    assert (watched.finished, watched.view().note) == (True, "")


def test_a_cell_without_a_winner_has_none_to_be_tested():
    pruned = part(best=None)
    pruned["cells"][0]["states"]["pruned"] = 4
    assert Watch("s", [pruned], True).finished


def test_without_a_stored_run_the_rate_follows_from_trials_that_ended_while_watching(monkeypatch):
    watched = Watch("s", [part()], True)
    assert watched.view().rate is None
    later = watched.now + 30
    monkeypatch.setattr(module.time, "time", lambda: later)
    assert watched.update([part(complete=1)], True)
    assert watched.view().rate == pytest.approx(1 / 30)
    assert watched.view().passed is None


def test_without_an_active_run_no_time_left_is_shown():
    watched = Watch("s", [part(complete=1, run=began(10_000, 0))], False)
    view = watched.view()
    assert (view.rate, view.study_left, view.passed) == (None, None, None)
    assert view.note == "no run is active; restora run resumes it"
    assert "not known" in Watch("s", [part()], None).view().note


def test_the_combination_that_changed_last_is_the_current_one():
    watched = Watch("s", [part(complete=4), part("two"), part("three")], True)
    assert watched.view().current == "two"
    watched.update([part(complete=4), part("two"), part("three", complete=1)], True)
    assert watched.view().current == "three"


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("_at_once")
def test_off_a_terminal_every_change_is_a_line_and_the_finished_study_ends_it(capsys):
    tables = iter([[part()], [part()], [part(complete=1)], [part(complete=4, tested=True)]])
    watch_study("s", lambda: next(tables), lambda: True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" trials")[0] for line in lines] == ["one: 0/4", "one: 1/4", "one: 4/4"]


@pytest.mark.usefixtures("_at_once")
def test_with_json_every_change_is_one_object_on_one_line(capsys):
    tables = iter([[part()], [part()], [part(complete=4, tested=True)]])
    watch_study("s", lambda: next(tables), lambda: None, as_json=True)
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["trials"], first["finished"], first["running"]) == (0, False, None)
    assert (last["trials"], last["budget"], last["finished"]) == (4, 4, True)
    assert last["combinations"] == [part(complete=4, tested=True)]


@pytest.mark.usefixtures("_at_once")
def test_on_a_terminal_the_table_is_left_behind(make_screen, monkeypatch):
    screen = make_screen()
    monkeypatch.setattr(module, "terminal_of", lambda stream: screen)
    tables = iter([[part()], [part(complete=1)], [part(complete=4, tested=True)]])
    watch_study("s", lambda: next(tables), lambda: True, as_json=False)
    assert "4/4" in screen.file.getvalue()
    assert screen.file.getvalue().endswith("\x1b[?25h")


def test_a_reading_that_takes_long_is_not_done_as_often(monkeypatch):
    now, slept, tables = [0.0], [], iter([[part()], [part(complete=4, tested=True)]])
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        module.time, "sleep", lambda seconds: (slept.append(seconds), now.__setitem__(0, now[0] + seconds))
    )

    def read():
        now[0] += 3
        return next(tables)

    watch_study("s", read, lambda: True, as_json=True)
    assert sum(slept) == pytest.approx(30)


def test_a_stream_that_is_no_terminal_is_none(monkeypatch):
    from pipeline.terminal.text import terminal_of

    class Tty(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert terminal_of(io.StringIO()) is None
    assert terminal_of(Tty()) is not None
    monkeypatch.setenv("TERM", "dumb")
    assert terminal_of(Tty()) is None
