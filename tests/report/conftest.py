from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from stored_studies import Stored

from pipeline.search.storage import open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RDBStorage]:
    storage = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def store(storage: RDBStorage) -> Callable[..., Stored]:
    def make(**fields: Any) -> Stored:
        return Stored(storage, **fields)

    return make
