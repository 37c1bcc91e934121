import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.environment import choose_device, versions
from pipeline.errors import UsageError

STUDY = Path(__file__).parents[1] / "studies" / "mnist-mlp.toml"


def beside_a_broken_torchvision(folder, *verb):
    """What a command comes to where torchvision is that of another torch."""
    broken = folder / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *verb],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.getcwd()}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_torchvision_of_another_torch_is_named_with_what_to_install(verb, tmp_path):
    result = beside_a_broken_torchvision(tmp_path, verb, str(STUDY), "--storage", f"sqlite:///{tmp_path}/studies.db")
    assert result.returncode == 5
    said = result.stdout + result.stderr
    assert "torchvision::nms does not exist" in said
    assert "pip install --upgrade --force-reinstall torch torchvision" in said
    assert "Traceback" not in said


def test_a_command_that_needs_no_torchvision_does_not_import_it(tmp_path):
    assert beside_a_broken_torchvision(tmp_path, "ls").returncode == 0


def test_a_device_that_is_not_there_is_a_usage_error():
    with pytest.raises(UsageError, match="device 'nonsense' cannot be used"):
        choose_device("nonsense")


def test_versions_name_what_decides_a_number():
    assert versions().keys() >= {"python", "restora", "torch", "torchvision", "timm", "optuna"}
