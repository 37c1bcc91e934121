"""What a shell is offered; bash asks by environment variables."""

import os
import subprocess
import sys
import time

import pytest
from command import write_study

COMMAND = "import sys; sys.argv = ['restora']; from pipeline.cli import main; main()"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study()
    write_study("other")


def ask(line, command=COMMAND):
    """What the command says to bash, where the cursor stands at the end of a line."""
    own = {"_RESTORA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    words, environment = [sys.executable, "-c", command], {**os.environ, **own}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)


def offered(line):
    process = ask(line)
    assert process.stderr == ""
    return process.stdout.split()


@pytest.mark.parametrize("verb", ["check", "plan", "run", "status", "report", "export"])
def test_a_study_is_completed_from_the_files_that_are_there(verb):
    assert offered(f"restora {verb} ") == ["other", "tiny"]
    assert offered(f"restora {verb} ti") == ["tiny"]


def test_combinations_are_the_studys_own():
    assert offered("restora export tiny --combination ") == ["int1-lora", "sparse-lora"]
    assert offered("restora export tiny --combination s") == ["sparse-lora"]
    assert offered("restora export nowhere --combination ") == []


def test_devices_are_completed():
    assert offered("restora run tiny --device c") == ["cpu", "cuda"]


def test_a_file_that_is_not_valid_is_passed_over_without_a_word():
    write_study("broken").write_text("name = [")
    assert offered("restora export broken --combination ") == []
    assert "broken" in offered("restora run ")


def test_names_are_offered_at_once():
    took = []
    for _ in range(3):
        started = time.perf_counter()
        offered("restora run ")
        took.append(time.perf_counter() - started)
    assert min(took) < 1, "0.2 s on a machine that does nothing else"


def test_completion_needs_nothing_heavy():
    heavy = "print(*[name for name in ('torch', 'optuna', 'sqlalchemy') if name in sys.modules], file=sys.stderr)"
    command = f"import sys; sys.argv = ['restora']\nfrom pipeline.cli import main\ntry:\n main()\nfinally:\n {heavy}"
    assert ask("restora run ", command).stderr == "\n"
