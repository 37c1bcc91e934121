"""Completion in bash, which passes the command line in environment variables."""

import os
import subprocess
import sys

import pytest
from command import write_study

COMMAND = "import sys; sys.argv = ['restora']; from pipeline.cli import main; main()"


@pytest.fixture(autouse=True)
def _two_studies():
    write_study()
    write_study("other")


def ask(line, command=COMMAND):
    """Run the command as bash does when Tab is pressed at the end of a line."""
    variables = {"_RESTORA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    words, environment = [sys.executable, "-c", command], {**os.environ, **variables}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)


def offered(line):
    process = ask(line)
    assert process.stderr == ""
    return process.stdout.split()


@pytest.mark.parametrize("verb", ["check", "plan", "run", "status", "report", "export"])
def test_a_study_is_completed_from_the_files_in_its_folder(verb):
    assert offered(f"restora {verb} ") == ["other", "tiny"]
    assert offered(f"restora {verb} ti") == ["tiny"]


def test_combinations_are_those_of_the_study():
    assert offered("restora export tiny --combination ") == ["int1-lora", "sparse-lora"]
    assert offered("restora export tiny --combination s") == ["sparse-lora"]
    assert offered("restora export nowhere --combination ") == []


def test_devices_are_completed():
    assert offered("restora run tiny --device c") == ["cpu", "cuda"]


def test_an_invalid_file_offers_no_combinations_and_prints_nothing():
    write_study("broken").write_text("name = [")
    assert offered("restora export broken --combination ") == []
    assert "broken" in offered("restora run ")


def test_completion_imports_no_large_package():
    heavy = "print(*[name for name in ('torch', 'optuna', 'sqlalchemy') if name in sys.modules], file=sys.stderr)"
    command = f"import sys; sys.argv = ['restora']\nfrom pipeline.cli import main\ntry:\n main()\nfinally:\n {heavy}"
    assert ask("restora run ", command).stderr == "\n"
