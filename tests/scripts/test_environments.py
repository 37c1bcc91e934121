import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROJECT = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [Requirement(text) for texts in (PROJECT["dependencies"], *EXTRAS) for text in texts]


def pins(file: str) -> dict[str, str]:
    """Versions by package of a file of constraints."""
    lines = [line.partition("==") for line in (SCRIPTS / file).read_text().splitlines() if not line.startswith("#")]
    return {re.sub("[-_.]+", "-", name).lower(): version for name, _, version in lines}


@pytest.mark.parametrize("requirement", [r for r in REQUIREMENTS if r.name != "restora"], ids=lambda r: r.name)
def test_the_lower_bound_of_a_package_is_the_oldest_version_that_is_tested(requirement: Requirement):
    oldest, newest = (pins(file)[requirement.name] for file in ("constraints-oldest.txt", "constraints.txt"))
    (lowest,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
    assert f"{oldest}.".startswith(f"{lowest}.")
    assert newest in requirement.specifier


def test_an_environment_that_belongs_to_another_checkout_is_refused_and_named(tmp_path: Path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho {tmp_path}\n")  # as if restora were installed from there
    python.chmod(0o755)
    ended = subprocess.run(
        ["bash", "-c", f"source {SCRIPTS / 'environment.sh'}; prepare_environment test"],
        env={**os.environ, "VENV": str(tmp_path / "venv")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"{tmp_path / 'venv'} belongs to the checkout {tmp_path}" in ended.stderr
    assert python.read_text().startswith("#!/bin/sh")
