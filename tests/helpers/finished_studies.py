"""Fixtures: stored studies as a finished run leaves them."""

from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from stored_studies import Stored, finish_study

from pipeline.results.combination_result import CombinationResult
from pipeline.results.reading import read_results
from pipeline.store.database import open_storage


@contextmanager
def _opened(folder: Path) -> Iterator[RDBStorage]:
    storage = open_storage(f"sqlite:///{folder / 'studies.db'}")
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def store(storage: RDBStorage) -> Callable[..., Stored]:
    def make(**fields: Any) -> Stored:
        return Stored(storage, **fields)

    return make


Finished = tuple[list[CombinationResult], Path]
"""A study, and the folder that it was run in."""


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    watched = ("fc1", "fc2")
    with _opened(folder) as storage:
        with chdir(folder):
            finish_study(Stored(storage, watched=watched))
            finish_study(Stored(storage, combination="sparse-lora", base_bytes=120_000, watched=watched), lift=0.003)
        yield read_results(storage, "digits"), folder


@pytest.fixture
def finished(_finished: Finished, monkeypatch: pytest.MonkeyPatch) -> list[CombinationResult]:
    """Two combinations, searched and tested, with spectra of two layers."""
    results, folder = _finished
    monkeypatch.chdir(folder)
    return results


@pytest.fixture(scope="session")
def _hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("hostile")
    study: dict[str, Any] = {"ranks": (2,), "inits": ("<img src=x>", "svd"), "watched": ("<b>fc</b>",)}
    with _opened(folder) as storage:
        with chdir(folder):
            for name in ("<script>alert(1)</script>", "<b>bold</b>"):
                finish_study(Stored(storage, combination=name, **study))
        yield read_results(storage, "digits"), folder


@pytest.fixture
def hostile(_hostile: Finished, monkeypatch: pytest.MonkeyPatch) -> list[CombinationResult]:
    """Two combinations and a layer whose names are HTML."""
    results, folder = _hostile
    monkeypatch.chdir(folder)
    return results
