"""Faults that end a command: signals, locks, databases, names, passwords. Numbers are those of the table of faults."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from children import start_python
from command import STUDY, app, files, invoke, start, write_study
from typer.testing import CliRunner

from pipeline.errors import StorageError
from pipeline.guard import StopTraining
from pipeline.locks import exclusive
from pipeline.store import database as storage_module
from pipeline.store.database import open_storage

SECRET = "hunter2"


def states(study="tiny"):
    table = json.loads(invoke("status", study, "--json").stdout)
    return [cell["states"] for combination in table for cell in combination["cells"]]


def stop_while_training(stop):
    """Send a running ``restora run`` a signal once trials are stored as running."""
    process = start("run", "tiny", "--device", "cpu")
    for _ in range(400):
        if Path("storage/studies.db").exists():
            try:
                with sqlite3.connect("storage/studies.db") as database:
                    (running,) = database.execute("SELECT COUNT(*) FROM trials WHERE state = 'RUNNING'").fetchone()
                database.close()
                if running:
                    break
            except sqlite3.OperationalError:
                pass
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(stop)
    stdout, said = process.communicate(timeout=60)
    return process.returncode, stdout, said


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_fault_01_a_signal_in_an_epoch_stops_it_and_the_same_command_goes_on(stop, code):
    path = write_study(epochs=20_000)
    path.write_text(path.read_text().replace("[1, 2]", "[1]").replace('["paper", "svd"]', '["svd"]'))
    returned, stdout, said = stop_while_training(stop)
    assert returned == code, said
    assert stdout == ""
    assert "Traceback" not in said
    assert f"stopped: interrupted by {stop.name}" in said
    assert "To resume: restora run tiny --device cpu" in said.strip().splitlines()[-1]
    study = optuna.load_study(study_name="tiny/int1-lora", storage=open_storage("sqlite:///storage/studies.db"))
    assert study.trials
    for trial in study.trials:
        assert trial.state == optuna.trial.TrialState.FAIL
        assert trial.user_attrs["reason"] == f"interrupted by {stop.name}"
    assert all(not any(cell.values()) for cell in states()), "interrupted trials do not count"


def test_fault_01_children_of_the_tests_hear_ctrl_c_where_the_tests_ignore_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = start_python("-c", "input()", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT


def test_fault_01_a_signal_in_an_export_stops_it_too(monkeypatch):
    write_study()
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    for kept in Path("storage/artifacts").rglob("*.safetensors"):
        kept.unlink()

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGTERM)
        check(self)

    from pipeline.guard import Guard

    check = Guard.check
    monkeypatch.setattr(Guard, "check", interrupted)
    result = invoke("export", "tiny", "--device", "cpu")
    assert result.exit_code == 143
    assert "interrupted by SIGTERM" in result.stderr
    assert not Path("storage/exports").exists()


def test_fault_03_a_second_run_is_refused_with_the_firsts_pid():
    write_study()
    with exclusive(Path("storage/locks/tiny.lock"), "study 'tiny'"):
        result = invoke("run", "tiny", "--device", "cpu")
    assert result.exit_code == 4
    assert f"study 'tiny' is being run by process {os.getpid()}" in result.stderr
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0


def test_fault_03_many_processes_may_create_the_file_at_once(tmp_path):
    code = f"""
import sys, time
from pipeline.store.database import open_storage
import optuna
print("ready", flush=True)
sys.stdin.readline()
storage = open_storage("sqlite:///{tmp_path}/at-once.db")
optuna.create_study(storage=storage, study_name=sys.argv[1])
"""
    many = [
        start_python("-c", code, str(place), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     text=True)
        for place in range(5)
    ]  # fmt: skip
    for process in many:
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in many:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in many]
    assert [process.returncode for process in many] == [0] * 5, said
    names = optuna.get_all_study_names(open_storage(f"sqlite:///{tmp_path}/at-once.db"))
    assert sorted(names) == ["0", "1", "2", "3", "4"]


def test_fault_08_a_database_that_another_program_holds_is_waited_for_and_then_named(monkeypatch, tmp_path):
    monkeypatch.setattr(storage_module, "LOCK_WAIT", 0.3)
    write_study()
    path = tmp_path / "held.db"
    open_storage(f"sqlite:///{path}").engine.dispose()
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    try:
        result = invoke("run", "tiny", "--device", "cpu", "--storage", f"sqlite:///{path}")
    finally:
        holder.rollback()
        holder.close()
    assert result.exit_code == 4
    assert "held.db" in result.stderr
    assert "locked" in result.stderr
    assert invoke("run", "tiny", "--device", "cpu", "--storage", f"sqlite:///{path}").exit_code == 0


@pytest.mark.parametrize("verb", ["run", "status", "export", "clean"])
@pytest.mark.parametrize("content", [b"a letter of mine", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_fault_08_a_file_that_is_no_database_or_corrupt_is_named_and_left_alone(verb, content):
    write_study()
    Path("mine.db").write_bytes(content)
    study = [] if verb == "clean" else ["tiny"]
    result = invoke(verb, *study, "--storage", "sqlite:///mine.db")
    assert result.exit_code == 4, result.stderr
    assert "mine.db" in result.stderr
    assert Path("mine.db").read_bytes() == content


def test_fault_08_a_database_that_may_only_be_read_is_named_and_left_alone():
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    path = folder / "studies.db"
    try:
        open_storage(f"sqlite:///{path}").engine.dispose()
        content = path.read_bytes()
        path.chmod(0o444)
        folder.chmod(0o555)
        code = f"""
import os, optuna
from pipeline.store.database import open_storage, storage_errors
optuna.create_study(storage=open_storage("sqlite:///{Path("other.db").absolute()}"))  # imports what is imported late
os.getuid() or os.setuid(65534)
with storage_errors("sqlite:///{path}"):
    optuna.create_study(storage=open_storage("sqlite:///{path}"), study_name="mine")
"""
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert child.returncode == 1
        said = child.stderr.strip().splitlines()[-1]
        assert said.startswith("pipeline.errors.StorageError")
        assert str(path) in said
        assert re.search("readonly|read-only|cannot be written", said)
        assert path.read_bytes() == content
    finally:
        folder.chmod(0o755)
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def test_fault_18_data_that_changed_between_run_and_export_is_refused():
    write_study()
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    for image in Path("images/train/red").iterdir():
        image.write_bytes(Path("images/train/blue/000.png").read_bytes())
    for verb in ("run", "export"):
        result = invoke(verb, "tiny", "--device", "cpu")
        assert result.exit_code == 3
        assert "data: stored" in result.stderr


def test_fault_21_an_export_under_a_changed_study_file_is_refused():
    path = write_study()
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    path.write_text(path.read_text().replace('compression = "int1"', 'compression = "sparse"'))
    result = invoke("export", "tiny", "--device", "cpu")
    assert result.exit_code == 3
    assert "stored int1, now sparse" in result.stderr


@pytest.mark.parametrize("name", ["a/b", "..", "../up", "two words", "x" * 300, "", ".hidden"])
def test_fault_22_no_name_leads_out_of_the_folder(name):
    result = invoke("new", name)
    assert result.exit_code == 2
    assert files() == set()
    Path("studies").mkdir()
    Path("studies/odd.toml").write_text(STUDY.format(name=name, seed=0, epochs=1, trials=2))
    result = invoke("run", "odd")
    assert result.exit_code == 3
    assert "name" in result.stderr
    assert files() == {"studies/odd.toml"}


def test_fault_22_a_name_that_is_taken_is_not_written_over():
    path = write_study("mine")
    before = path.read_text()
    result = invoke("new", "mine")
    assert result.exit_code == 2
    assert path.read_text() == before


@pytest.mark.parametrize("verb", ["run", "status", "dashboard"])
def test_fault_23_a_password_is_never_said(verb, monkeypatch):
    pytest.importorskip("psycopg")
    write_study()
    url = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/studies?connect_timeout=2"
    study = [] if verb == "dashboard" else ["tiny"]
    result = invoke(verb, *study, "--storage", url)
    assert result.exit_code == 4
    assert "me:***@127.0.0.1" in result.stderr
    assert SECRET not in result.output
    monkeypatch.setenv("RESTORA_STORAGE", url)
    assert SECRET not in CliRunner().invoke(app, ["--debug", verb, *study]).output
    for path in Path("storage").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


URLS = [
    f"postgresql+psycopg://me:{SECRET}@host/studies",
    f"postgresql+psycopg://me@home:{SECRET}@host/studies",
    f"postgresql+psycopg://host/studies?user=me&password={SECRET}",
    f"://{SECRET}",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("words", [["--storage", "{}"], ["--storage={}"]])
def test_fault_23_nor_in_the_command_that_resumes(monkeypatch, words, url):
    from pipeline.cli.app import command_given

    monkeypatch.setattr("sys.argv", ["restora", "run", "tiny", *(word.format(url) for word in words)])
    assert SECRET not in command_given()
    assert re.match(r"restora run tiny '?--storage", command_given())


def test_fault_24_an_export_with_no_finished_trial_says_what_to_do(monkeypatch):
    def stopped(self):
        raise StopTraining("the test said so", 0)

    write_study()
    assert invoke("export", "tiny").exit_code == 5
    monkeypatch.setattr("pipeline.search.coordinator.Coordinator.run", stopped)
    assert invoke("run", "tiny", "--device", "cpu").exit_code == 0
    result = invoke("export", "tiny")
    assert result.exit_code == 5
    assert "restora run tiny" in result.stderr


def test_fault_08_a_url_of_no_database_is_refused():
    with pytest.raises(StorageError):
        open_storage("oracle://nowhere/none")
