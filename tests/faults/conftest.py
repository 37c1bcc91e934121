import sys
from pathlib import Path

import optuna
import pytest
import torch

# Helpers of the folders beside this one.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("cli", "export", "search", "task", "train")]


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
