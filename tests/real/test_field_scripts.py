"""Scripts of troubles that users of such software met, each in a process of its own; they lie beside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIELD = Path(__file__).parents[3] / "shared" / "field"
SCRIPTS = sorted(FIELD.glob("*/[CS][0-9]*.py"))
ARGUMENTS = {"C37": ["ended", "idle", "restart"], "C45": ["groups2"]}
"""The cases of a script; all if none are named. In C37's case of the lock the first run may end before the
second begins; ``tests/field/test_server_connections.py`` has that case with a run that
lasts. ``tests/field/test_loaded_layers.py`` has the other convolutions of C45, which take minutes here."""
SHELL = ("sh", "-c", '"$@"; exit $?', "sh")
"""Starts a command below a small process. Linux counts the memory of the process that starts another as that other's
peak, and a worker of the tests holds gigabytes; C38 reads its own peak."""
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPTS, reason=f"{FIELD} is not there")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_trouble_comes_out_right(script):
    path = os.pathsep.join([os.environ["PATH"], *map(str, POSTGRESQL)])
    done = subprocess.run(
        [*SHELL, sys.executable, script.name, *ARGUMENTS.get(script.stem, [])],
        cwd=script.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if last.startswith("SKIP"):
        pytest.skip(last)
    assert last == "PASS", done.stdout[-3000:] + done.stderr[-1000:]
