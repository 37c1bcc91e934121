"""What tests of several folders need."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from pipeline.search.storage import open_storage


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[Callable[[str], RDBStorage]]:
    """Opens databases by name, and lets go of them."""
    opened: list[RDBStorage] = []

    def make(name: str = "studies") -> RDBStorage:
        opened.append(open_storage(f"sqlite:///{tmp_path / name}.db"))
        return opened[-1]

    yield make
    for storage in opened:
        storage.remove_session()
        storage.engine.dispose()


@pytest.fixture
def storage(open_database: Callable[[], RDBStorage]) -> RDBStorage:
    return open_database()
