"""Where a study stands, read with SQL alone from the summaries of its cells: this needs neither Optuna nor torch."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Row, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from pipeline.store.summary import (
    COVERED,
    DAMAGED,
    STATES,
    Place,
    cell_summary,
    is_exhausted,
    stored_cells,
    summary_key,
)

# One statement, so that attributes, counts and epochs are of the same moment. The key of a running trial's epoch is
# JSON: the place of its rank and of its init among those searched, each before its distribution.
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


def status_row(
    rank: int, init: str, budget: int, summary: Mapping[str, Any], *, tested: bool, epoch: int
) -> dict[str, Any]:
    """A cell in the table of ``status``; ``epoch`` is the one that its furthest running trial has behind it."""
    return {
        "rank": rank,
        "init": init,
        "budget": budget,
        "states": summary["states"],
        "epoch": epoch,
        "best": summary["best"],
        "trial": summary["trial"],
        "tested": tested,
        "exhausted": is_exhausted(summary["states"], budget),
        "reasons": summary["reasons"],
        "interrupted": summary["interrupted"],
    }


def status_part(name: str, facts: Mapping[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any]:
    """A combination in the table of ``status``.

    ``unit`` is what budgets count where an allocation spreads them, else none; ``run`` is the latest run: ``command``,
    ``began`` (UTC, ISO 8601) and ``done``, the trials that were complete or pruned when it began.
    """
    search = facts["pinned"]["search"]
    return {
        "combination": name,
        "metric": facts.get("task", {}).get("metric", "accuracy"),
        "unit": (search.get("allocation") or {}).get("unit"),
        "epochs": search.get("epochs", 1),
        "run": facts.get("run"),
        "cells": cells,
    }


def read_status(url: str, study: str, *, with_reasons: bool) -> list[dict[str, Any]] | None:
    """Where each combination of a study stands, as ``status_table`` says it.

    Returns:
        None where only a full reading can tell: a summary is missing or behind, has no room for the reasons that are
        asked for, or the database does not answer, of which the full reading says why.
    """
    try:
        return _table(_read(url, f"{study}/"), with_reasons=with_reasons)
    except DAMAGED:
        return None


def _table(rows: Iterable[Row[Any]], *, with_reasons: bool) -> list[dict[str, Any]] | None:
    attributes: dict[str, dict[str, Any]] = defaultdict(dict)
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    epochs: dict[str, dict[Place, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row.kind == "count":
            counts[row.study_name][row.key] = int(row.value)
        elif row.kind == "attribute":
            attributes[row.study_name][row.key] = json.loads(row.value)
        else:
            place, own = _place(row.key), epochs[row.study_name]
            own[place] = max(own[place], int(row.value))
    stored = {name: facts for name, facts in attributes.items() if "pinned" in facts}
    if not stored or any(facts.get(COVERED, {}) != counts[name] for name, facts in stored.items()):
        return None
    cells = {name: _cells(facts, epochs[name]) for name, facts in stored.items()}
    if with_reasons and any(cell["reasons"] is None for each in cells.values() for cell in each):
        return None
    return [status_part(name.partition("/")[2], facts, cells[name]) for name, facts in stored.items()]


def _place(key: str) -> Place:
    rank, ranks, init, inits = json.loads(key)
    return ranks["attributes"]["choices"][int(rank)], inits["attributes"]["choices"][int(init)]


def _read(url: str, prefix: str) -> list[Row[Any]]:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
            return []  # to connect would make it
        with create_engine(parsed, poolclass=NullPool).connect() as connection:
            return list(connection.execute(_READ, {"length": len(prefix), "prefix": prefix}))
    except (SQLAlchemyError, ImportError):  # no such tables, server or driver
        return []


def _cells(facts: Mapping[str, Any], epochs: Mapping[Place, int]) -> list[dict[str, Any]]:
    rows = []
    for rank, init in stored_cells(facts):
        cell = f"rank {rank} {init}"
        summary = facts.get(summary_key(cell), cell_summary(dict.fromkeys(STATES, 0), {}, {}, None, None))
        winner = facts.get(f"winner {cell}", {})
        tested = winner.get("trial") == summary["trial"] and any("test" in seed for seed in winner.get("seeds", []))
        epoch = epochs.get((rank, init), 0)
        rows.append(status_row(rank, init, facts["budget"], summary, tested=tested, epoch=epoch))
    return rows
