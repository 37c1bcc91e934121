from pathlib import Path

import optuna
import pytest
import torch


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything below storage/ lies in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESTORA_STORAGE", raising=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)
