import sys
from pathlib import Path

import optuna
import pytest
import torch

# Helpers of the folders beside this one.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("search", "task", "cli", "dashboard", "report")]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORA_DEBUG", "")  # so that a --debug is forgotten
    for name in ("RESTORA_STORAGE", "RESTORA_DATA"):
        monkeypatch.delenv(name, raising=False)
