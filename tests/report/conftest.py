from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from stored_studies import Stored, finish_study

from pipeline.search.results import CombinationResult, read_results
from pipeline.search.storage import open_storage


@contextmanager
def _opened(folder: Path) -> Iterator[RDBStorage]:
    storage = open_storage(f"sqlite:///{folder / 'studies.db'}")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RDBStorage]:
    with _opened(tmp_path) as storage:
        yield storage


@pytest.fixture
def store(storage: RDBStorage) -> Callable[..., Stored]:
    def make(**fields: Any) -> Stored:
        return Stored(storage, **fields)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CombinationResult]]:
    """Two combinations, searched and tested."""
    with _opened(tmp_path_factory.mktemp("finished")) as storage:
        finish_study(Stored(storage))
        finish_study(Stored(storage, combination="sparse-lora", base_bytes=120_000), lift=0.003)
        yield read_results(storage, "digits")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CombinationResult]]:
    """Two combinations whose names are HTML."""
    with _opened(tmp_path_factory.mktemp("hostile")) as storage:
        for name in ("<script>alert(1)</script>", "<b>bold</b>"):
            finish_study(Stored(storage, combination=name, ranks=(2,), inits=("<img src=x>", "svd")))
        yield read_results(storage, "digits")
