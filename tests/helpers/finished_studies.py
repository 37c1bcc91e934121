"""Fixtures: stored studies as a finished run leaves them."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from stored_studies import Stored, finish_study

from pipeline.results.combination_result import CombinationResult
from pipeline.results.reading import read_results
from pipeline.store.database import open_storage


@pytest.fixture
def store(storage: RDBStorage) -> Callable[..., Stored]:
    def make(**fields: Any) -> Stored:
        return Stored(storage, **fields)

    return make


Finished = tuple[list[CombinationResult], Path]
"""A study, and the folder that it was run in."""


def _run_in(folder: Path, run: Callable[[RDBStorage], None]) -> Iterator[Finished]:
    """Run the study ``digits`` in a folder; its database is open until the fixture ends."""
    storage = open_storage(f"sqlite:///{folder / 'studies.db'}")
    with chdir(folder):
        run(storage)
    yield read_results(storage, "digits"), folder
    storage.remove_session()
    storage.engine.dispose()


def _entered(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> list[CombinationResult]:
    results, folder = finished
    monkeypatch.chdir(folder)
    return results


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    def run(storage: RDBStorage) -> None:
        watched = ("fc1", "fc2")
        finish_study(Stored(storage, watched=watched))
        finish_study(Stored(storage, combination="sparse-lora", base_bytes=120_000, watched=watched), lift=0.003)

    yield from _run_in(tmp_path_factory.mktemp("finished"), run)


@pytest.fixture
def finished(_finished: Finished, monkeypatch: pytest.MonkeyPatch) -> list[CombinationResult]:
    """Two combinations, searched and tested, with spectra of two layers."""
    return _entered(_finished, monkeypatch)


@pytest.fixture(scope="session")
def _hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    def run(storage: RDBStorage) -> None:
        for name in ("<script>alert(1)</script>", "<b>bold</b>"):
            study: dict[str, Any] = {"ranks": (2,), "inits": ("<img src=x>", "svd"), "watched": ("<b>fc</b>",)}
            finish_study(Stored(storage, combination=name, **study))

    yield from _run_in(tmp_path_factory.mktemp("hostile"), run)


@pytest.fixture
def hostile(_hostile: Finished, monkeypatch: pytest.MonkeyPatch) -> list[CombinationResult]:
    """Two combinations and a layer whose names are HTML."""
    return _entered(_hostile, monkeypatch)
