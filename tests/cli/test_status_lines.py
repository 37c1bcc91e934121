from pipeline.cli.status_lines import status_lines

EVEN = {"largest_class": {}, "uneven": False}


def table(fail=0, **reasons):
    states = {"complete": 2, "pruned": 0, "fail": fail, "running": 0}
    cell = {
        "rank": 2, "init": "svd", "budget": 4, "states": states, "epoch": 0, "best": 0.5, "trial": 0, "tested": False,
        "exhausted": False, "reasons": {}, "interrupted": {}, **reasons,
    }  # fmt: skip
    return [
        {"combination": "one", "metric": "accuracy", "unit": None, **EVEN, "epochs": 8, "run": None, "cells": [cell]}
    ]


def said(*args, **facts):
    return [line.plain.strip() for line in status_lines(table(*args, **facts))]


def test_interrupted_trials_are_shown_apart_from_failed_ones():
    lines = said(1, reasons={"not finite": 1}, interrupted={"its run was killed": 2})
    assert "1 failed: not finite" in lines
    assert "2 interrupted, to be tried again: its run was killed" in lines
    assert "2/4 trials, 1 failed;" in lines[-1]


def test_reasons_that_are_too_many_for_the_summary_point_to_the_json():
    assert any("status --json lists all of them" in line for line in said(9, reasons=None, interrupted=None))
