import os
import subprocess
import sys

import pytest

from pipeline.environment import choose_device, versions
from pipeline.errors import UsageError


@pytest.mark.parametrize("verb", [["ls"], ["check", "any"], ["run", "any"]])
def test_a_torchvision_of_another_torch_is_named_with_what_to_install(verb, tmp_path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *verb],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 5
    assert "torchvision::nms does not exist" in result.stderr
    assert "pip install --upgrade --force-reinstall torch torchvision" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_device_that_is_not_there_is_a_usage_error():
    with pytest.raises(UsageError, match="device 'nonsense' cannot be used"):
        choose_device("nonsense")


def test_versions_name_what_decides_a_number():
    assert versions().keys() >= {"python", "restora", "torch", "torchvision", "timm", "optuna"}
