"""The status of a study that needs no training: what it reads, and what it does not."""

import json
import os
import re
import subprocess
import sys

import pytest
from bare_studies import complete, make_ledger
from command import invoke
from optuna.trial import TrialState, create_trial

from pipeline.results import reading as results
from pipeline.store.database import open_storage


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """The ledger of a study in the working folder, a trial in it."""
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///storage/studies.db")
    ledger = make_ledger(storage)
    complete(ledger, 0, 0.5)
    yield ledger
    storage.remove_session()
    storage.engine.dispose()


def best(words=("status", "tiny", "--json")):
    return json.loads(invoke(*words).stdout)[0]["cells"][3]["best"]


@pytest.mark.usefixtures("ledger")
def test_status_needs_neither_optuna_nor_torch():
    code = """
import sys
from typer.testing import CliRunner
from pipeline.cli import app
for words in (["status", "tiny"], ["status", "tiny", "--json"]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "svd" in result.stdout, result.output
print([name for name in ("torch", "optuna", "timm", "numpy") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout == "[]\n"


def test_status_reads_the_summary_alone_where_it_is_whole(ledger, monkeypatch):
    monkeypatch.setattr(results, "read_results", lambda *_: pytest.fail("all trials were read"))
    assert best() == 0.5
    assert re.search(r"svd +1/4 .* 0\.5000 +0 +-", invoke("status", "tiny").stdout)


def test_status_reads_all_trials_where_the_summary_is_behind(ledger):
    trial = ledger.study.trials[0]
    better = create_trial(
        state=TrialState.COMPLETE, value=0.9, params=trial.params, distributions=trial.distributions
    )  # fmt: skip
    ledger.study.add_trial(better)
    assert best() == 0.9


def test_status_of_a_killed_run_says_what_is_stored(tmp_path, monkeypatch):
    """Killed in the middle of a transaction, then between two."""
    monkeypatch.chdir(tmp_path)
    code = """
import os, sys
from bare_studies import complete, make_ledger
from pipeline.store import ledger as module
from pipeline.store.database import open_storage
ledger = make_ledger(open_storage("sqlite:///storage/studies.db"))
complete(ledger, 0, 0.5)
if sys.argv[1] == "within":
    module.end_trial = lambda *_: os.kill(os.getpid(), 9)
    complete(ledger, 1, 0.6)
os.kill(os.getpid(), 9)
"""
    for moment, kept in {"within": 1, "between": 2}.items():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.run([sys.executable, "-c", code, moment], env=environment, timeout=60, check=False)
        assert process.returncode == -9
        states = json.loads(invoke("status", "tiny", "--json").stdout)[0]["cells"][3]["states"]
        assert states == {"complete": kept, "pruned": 0, "fail": 0, "running": 0}
