import sys
from pathlib import Path

import pytest

# Helpers of the folder beside this one.
sys.path.append(str(Path(__file__).parents[1] / "report"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything below storage/ lies in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
