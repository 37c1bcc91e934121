"""What tests of every folder need. Helpers that tests import lie in ``helpers/``."""

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import settings
from optuna.storages import RDBStorage
from rich.console import Console as Screen

from pipeline.dashboard import feed
from pipeline.store.database import open_storage

pytest_plugins = ["finished_studies", "postgresql_server"]

START = Path.cwd()

# A busy machine makes any example slow, which says nothing about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a folder of its own, seeded, with one thread, and without the user's settings.

    A test whose module works in a folder of the module's stays there.
    """
    if Path.cwd() == START:
        monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESTORA_DEBUG", "")  # so that a --debug is forgotten
    for name in ("RESTORA_STORAGE", "RESTORA_DATA"):
        monkeypatch.delenv(name, raising=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def dashboard_pictures() -> Iterator[None]:
    """A run draws none: they take half the time of a tiny run. Tests of the pictures override this fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "draw_plots", lambda results: {})
        yield


@pytest.fixture
def open_database(tmp_path: Path) -> Iterator[Callable[[str], RDBStorage]]:
    """Opens databases by name, and closes them after the test."""
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


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that are logged while the test runs."""
    lines: list[str] = []
    package, handler = logging.getLogger("pipeline"), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    yield lines
    package.removeHandler(handler)
    package.setLevel(logging.NOTSET)


@pytest.fixture
def make_screen() -> Callable[..., Screen]:
    """Makes terminals that keep what is written to them."""

    def make(width: int = 80, height: int = 24) -> Screen:
        return Screen(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)

    return make
