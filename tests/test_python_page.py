"""The programs of ``docs/python.md`` are typed as a user's own strict type checker wants them, and they run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline

ROOT = Path(__file__).parents[1]
PROGRAMS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)


MISTAKES = """
import pipeline
spec = pipeline.load_spec("quickstart")
spec.combination[0].compression.no_such_thing
spec.search.inits[0].start("no layer")
pipeline.lod("checkpoint")
"""


def test_mypy_strict_accepts_the_programs_and_finds_mistakes_of_a_user(tmp_path):
    assert len(PROGRAMS) == 5
    names = [f"program_{i}.py" for i in range(len(PROGRAMS))]
    for name, program in zip([*names, "mistaken.py"], [*PROGRAMS, MISTAKES], strict=True):
        (tmp_path / name).write_text(program)
    # In a folder without settings, as a user's.
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent", "--no-pretty"]
    cache = ["--cache-dir", str(ROOT / ".mypy_cache" / "python-page")]
    checked = subprocess.run(
        [*command, *cache, *names, "mistaken.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.split(":")[:2] for line in checked.stdout.splitlines() if ": error: " in line]
    assert {file for file, _ in found} == {"mistaken.py"}, checked.stdout
    assert {line for _, line in found} == {"4", "5", "6"}, checked.stdout


def test_the_program_with_a_users_own_module_runs(tmp_path):
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    (program,) = (program for program in PROGRAMS if "network()" in program)
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "docs/python.md", "exec"), names)
    assert names["model"](torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_public_names_are_found_and_other_names_are_refused():
    assert {"Objective", "Task", "load", "load_spec", "prepare", "save"} <= set(pipeline.__all__)
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'lod'"):
        pipeline.lod  # noqa: B018
