from pathlib import Path

import pytest
from children import start_python

from pipeline.paths import LOCKS
from pipeline.run.cleanup import unneeded

HOLD = """
import sys
from pathlib import Path
from pipeline.locks import exclusive
with exclusive(Path(sys.argv[1]), "the test"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def half_written():
    """What a killed run may leave: a file of this package, and one of safetensors, which has its own names."""
    paths = [Path("storage/artifacts/tiny/int1-lora/.rank-2.svd.abc.tmp"), Path("storage/cache/baselines/.tmpA1b2C3")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("half")
    return sorted(paths)


def test_half_written_files_of_killed_runs_are_unneeded_those_of_safetensors_too(storage, half_written):
    assert unneeded(storage) == half_written


def test_while_a_run_is_alive_its_half_written_files_stay(storage, half_written):
    run = start_python("-c", HOLD, str(LOCKS / "tiny.lock"), stdin=-1, stdout=-1, text=True)
    assert run.stdout.readline() == "held\n"
    assert unneeded(storage) == []
    run.communicate()
    assert unneeded(storage) == half_written
