"""Failures of parts, such as combinations: they leave the others alone, or are told together before a run begins."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import IntegrityError, RestoraError, SpecError, StorageError
from pipeline.guard import StopTraining
from pipeline.store.server import is_lost
from pipeline.wording import listed, of_combinations

logger = logging.getLogger(__name__)

ENDS_ALL = (StopTraining, StorageError, StorageInternalError, SQLAlchemyError, OSError)
"""What no other part would get past: a stop, the database, the disk."""
RUNS = 5
"""How often a run may lose a connection that is in use before it ends."""


def run_again(run: Callable[[], None]) -> None:
    """Carry out a run, and a few times more after a connection was lost in the middle of a transaction.

    Running again is always safe: only the trials of that moment are asked for again.
    """
    for left in reversed(range(RUNS)):
        try:
            return run()
        except (StorageInternalError, SQLAlchemyError) as error:
            if not left or not is_lost(error):
                raise
            logger.warning("the database ended a connection that was in use; the run goes on from what is stored")
    return None


class Failures:
    """Notes the failures of parts by their names, whatever their reasons."""

    def __init__(self) -> None:
        self._noted: dict[str, list[str]] = {}  # the names of the parts by their reason
        self._first: Exception | None = None

    @contextmanager
    def contained(self, name: str, said: str) -> Iterator[None]:
        """Note and log a failure of a part; ``said`` are the words for it, before its reason."""
        try:
            yield
        except ENDS_ALL:
            raise
        except Exception as error:
            expected = isinstance(error, RestoraError)
            reason = str(error) if expected else f"{type(error).__name__}: {error}; restora --debug shows where"
            logger.error(f"{said}: {reason}")
            self._first = self._first or error
            parts = self._noted.setdefault(reason, [])
            parts += [] if name in parts else [name]

    def raise_any(self, said: str) -> None:
        """Raise an ``IntegrityError`` with all failures, if there are any."""
        if self._noted:
            reasons = [f"{listed(parts)}: {reason}" for reason, parts in self._noted.items()]
            raise IntegrityError(f"{said}: {'; '.join(reasons)}") from self._first


class Refusals:
    """Notes the faults of combinations, so that one that several have is told once."""

    def __init__(self) -> None:
        self._having: dict[str, list[str]] = {}  # the combinations by their fault

    @contextmanager
    def of(self, combination: str) -> Iterator[None]:
        """Note a fault of a combination."""
        try:
            yield
        except SpecError as error:
            self._having.setdefault(str(error), []).append(combination)

    def raise_any(self) -> None:
        """Raise a ``SpecError`` with a line for each fault, if there are any."""
        if self._having:
            lines = [f"{of_combinations(names)}: {fault}" for fault, names in self._having.items()]
            raise SpecError("\n".join(lines))
