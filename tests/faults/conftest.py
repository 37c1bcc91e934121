import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import RDBStorage

from pipeline.search.storage import open_storage

# Helpers of the folders beside this one.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("cli", "export", "search", "task")]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything below storage/ lies in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESTORA_DEBUG", "")  # so that a --debug is forgotten
    for name in ("RESTORA_STORAGE", "RESTORA_DATA"):
        monkeypatch.delenv(name, raising=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)


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
