"""A stored study without a task behind it, for whoever writes or reads trials without training any."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import TrialState
from tiny_studies import make_search

from pipeline.adapt.methods.lora import Lora
from pipeline.cell import Cell
from pipeline.space import Ask, Values, full_space
from pipeline.store.database import Database
from pipeline.store.ledger import Ledger
from pipeline.store.stored_study import create_or_resume

CELL = Cell(2, "svd")
SPACE = full_space(make_search(), Lora())


def bare_study(storage: Database, name: str = "tiny/int1-lora", budget: int = 4) -> optuna.Study:
    search = make_search()
    pinned = {"search": {"ranks": list(search.ranks), "inits": [{"method": init.name} for init in search.inits]}}
    return create_or_resume(storage, name, pinned, {}, {"budget": budget})


def make_ledger(storage: Database, **study: Any) -> Ledger:
    return Ledger(bare_study(storage, **study), SPACE)


def make_ask(number: int = 0, cell: Cell = CELL, seconds: float = 0.0) -> Ask:
    """A trial that was asked for some seconds ago."""
    values = Values(cell.rank, cell.init, 4.0, "adam", 1e-2, 16)
    return Ask(cell, number, "sampler", values, datetime.now() - timedelta(seconds=seconds))


def complete(ledger: Ledger, number: int, value: float, cell: Cell = CELL) -> int:
    return ledger.finish(make_ask(number, cell), TrialState.COMPLETE, [value], {"best_epoch": 1}, value)


def fail(ledger: Ledger, number: int, reason: str, **more: Any) -> int:
    return ledger.finish(make_ask(number), TrialState.FAIL, [], {"reason": reason, **more}, None)


@contextmanager
def commits(storage: Database) -> Iterator[list[Any]]:
    """Counts the transactions that are committed in it."""
    seen: list[Any] = []

    def note(connection: Any) -> None:
        seen.append(connection)

    sqlalchemy.event.listen(storage.engine, "commit", note)
    yield seen
    sqlalchemy.event.remove(storage.engine, "commit", note)
