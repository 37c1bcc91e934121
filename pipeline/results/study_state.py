"""How far a study is, read with SQL from the stored tallies of its cells; needs neither Optuna nor torch."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Row, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.cell import Cell, stored_cells
from pipeline.numbers import far_from_uniform
from pipeline.store.tally import COVERED, DAMAGED, Tally

# One statement, so that attributes, counts and epochs are of the same moment. The key of a running trial's epoch is
# JSON: the index of its rank, the distribution of ranks, the index of its init, the distribution of inits.
_READ = text("""
SELECT study_id, study_name, 'count' AS kind, CAST(state AS VARCHAR) AS key, CAST(count(*) AS VARCHAR) AS value
FROM studies JOIN trials USING (study_id)
WHERE substr(study_name, 1, :length) = :prefix GROUP BY study_id, study_name, state
UNION ALL
SELECT study_id, study_name, 'attribute', key, value_json FROM studies JOIN study_user_attributes USING (study_id)
WHERE substr(study_name, 1, :length) = :prefix
UNION ALL
SELECT study_id, study_name, 'epoch',
'[' || CAST(ranks.param_value AS VARCHAR) || ',' || ranks.distribution_json || ','
|| CAST(inits.param_value AS VARCHAR) || ',' || inits.distribution_json || ']',
CAST((SELECT COALESCE(max(step), 0) FROM trial_intermediate_values AS steps WHERE steps.trial_id = trials.trial_id)
AS VARCHAR)
FROM studies JOIN trials USING (study_id)
JOIN trial_params AS ranks ON ranks.trial_id = trials.trial_id AND ranks.param_name = 'rank'
JOIN trial_params AS inits ON inits.trial_id = trials.trial_id AND inits.param_name = 'init'
WHERE trials.state = 'RUNNING' AND substr(study_name, 1, :length) = :prefix
ORDER BY study_id
""")


def status_row(cell: Cell, budget: int, tally: Mapping[str, Any], *, tested: bool, epoch: int) -> dict[str, Any]:
    """A cell in the table of ``status``, from its tally as a table and the epochs of its furthest running trial.

    Reasons and interruptions are None where the stored tally has no room for them.
    """
    exhausted = Tally.from_table(tally).exhausted(budget)
    known = {"rank": cell.rank, "init": cell.init, "budget": budget, "epoch": epoch}
    return {**known, **tally, "tested": tested, "exhausted": exhausted}


def status_part(name: str, facts: Mapping[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A combination in the table of ``status``.

    ``unit`` is what ranks are budgets of (``bytes`` or ``parameters``) where an allocation spreads them, otherwise
    None. ``largest_class`` is the share of the largest class by part (``val``, ``test``), which a model reaches that
    always answers it, and ``uneven`` whether accuracies have to be read beside it. ``run`` is the latest run: its
    ``command``, when it ``began`` (UTC, ISO 8601), and ``done``, the trials that were complete or pruned at that time.
    ``auto`` is what was chosen by measuring where the study file says "auto".
    """
    search = facts["pinned"]["search"]
    return {
        "combination": name,
        "metric": facts.get("task", {}).get("metric", "accuracy"),
        "uneven": is_uneven(facts),
        "largest_class": {part: count / images for part, (count, images) in facts.get("largest_class", {}).items()},
        "unit": (search.get("allocation") or {}).get("unit"),
        "epochs": facts.get("epochs") or search.get("epochs", 1),
        "run": facts.get("run"),
        "auto": facts.get("auto", {}),
        "cells": cells,
    }


def is_uneven(facts: Mapping[str, Any]) -> bool:
    """Whether the largest class has so many images that a study's accuracies have to be read beside its share."""
    classes = facts.get("task", {}).get("classes", 0)
    return any(far_from_uniform(count, images, classes) for count, images in facts.get("largest_class", {}).values())


def read_status(url: str, study: str, *, with_reasons: bool) -> list[dict[str, Any]] | None:
    """The table of ``status``, read from the stored tallies; ``status_table`` makes the same from all trials.

    Returns:
        None where all trials have to be read: a stored tally is missing, out of date, or without the reasons that are
        asked for, a study is damaged, or the database does not answer (reading the trials then says why).
    """
    try:
        table = _table(_read(url, f"{study}/"))
    except DAMAGED:
        return None
    if with_reasons and any(cell["reasons"] is None for part in table for cell in part["cells"]):
        return None
    return table or None


def _read(url: str, prefix: str) -> list[Row[Any]]:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
            return []  # to connect would make it
        with create_engine(parsed, poolclass=NullPool).connect() as connection:
            return list(connection.execute(_READ, {"length": len(prefix), "prefix": prefix}))
    except (SQLAlchemyError, ImportError):  # no such tables, server or driver
        return []


def _table(found: Iterable[Row[Any]]) -> list[dict[str, Any]]:
    """The table without reasons that were too long to store; empty if a tally is missing or out of date."""
    attributes: dict[str, dict[str, Any]] = defaultdict(dict)
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    epochs: dict[str, dict[Cell, int]] = defaultdict(lambda: defaultdict(int))
    for row in found:
        if row.kind == "count":
            counts[row.study_name][row.key] = int(row.value)
        elif row.kind == "attribute":
            attributes[row.study_name][row.key] = json.loads(row.value)
        else:
            rank, ranks, init, inits = json.loads(row.key)
            cell = Cell(ranks["attributes"]["choices"][int(rank)], inits["attributes"]["choices"][int(init)])
            epochs[row.study_name][cell] = max(epochs[row.study_name][cell], int(row.value))
    stored = {name: facts for name, facts in attributes.items() if "pinned" in facts}
    if any(facts.get(COVERED, {}) != counts[name] for name, facts in stored.items()):
        return []
    return [status_part(name.partition("/")[2], facts, _cells(facts, epochs[name])) for name, facts in stored.items()]


def _cells(facts: Mapping[str, Any], epochs: Mapping[Cell, int]) -> list[dict[str, Any]]:
    rows = []
    for cell in stored_cells(facts):
        tally, winner = facts.get(cell.summary_key, Tally().as_table()), facts.get(cell.winner_key, {})
        tested = winner.get("trial") == tally["trial"] and any("test" in seed for seed in winner.get("seeds", []))
        rows.append(status_row(cell, facts["budget"], tally, tested=tested, epoch=epochs.get(cell, 0)))
    return rows
