import sys
from pathlib import Path

import optuna
import pytest
import torch

# Helpers of the folders beside this one.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("search", "task")]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
