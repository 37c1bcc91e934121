"""Failures in a run: those of parts, such as combinations, leave the others alone; lost connections end none."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import IntegrityError, RestoraError, StorageError
from pipeline.guard import StopTraining
from pipeline.store.server import is_lost

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
        self._noted: dict[str, Exception] = {}

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
            self._noted[f"{name}: {reason}"] = error

    def raise_any(self, said: str) -> None:
        """Raise an ``IntegrityError`` with all failures, if there are any."""
        if self._noted:
            raise IntegrityError(f"{said}: {'; '.join(self._noted)}") from next(iter(self._noted.values()))
