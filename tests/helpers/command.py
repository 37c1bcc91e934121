"""The command, in this process and in one of its own, and a tiny study in the working folder."""

import subprocess
from pathlib import Path
from typing import Any

from children import start_python
from tiny_data import write_images
from typer.testing import CliRunner

from pipeline.cli import app

STUDY = """\
# Colours: which small network tells three of them apart?
name = "{name}"
seed = {seed}

[task.model]
source = "mlp"
widths = [192, 8, 3]

[task.data]
source = "image-folder"
root = "images"

[task.split]
val = 0.3

[task.baseline]
epochs = 2
batch_size = 8

[[combination]]
name = "int1-lora"
compression = "int1"
adapter = "lora"

[[combination]]
name = "sparse-lora"
compression = {{ method = "sparse", block = "4x4" }}
adapter = "lora"
targets = ["fc1"]

[search]
ranks = [1, 2]
inits = ["paper", "svd"]
alpha = 4
optimizer = ["adam"]
lr = {{ low = 1e-3, high = 1e-2, log = true }}
batch_size = [8]
epochs = {epochs}
trials = {trials}
ask_ahead = 2
sampler = {{ startup = 1 }}
pruner = {{ method = "none" }}
"""
VERBS = ("ls", "new", "check", "plan", "run", "status", "report", "dashboard", "export", "clean")


def write_study(name: str = "tiny", *, seed: int = 0, epochs: int = 1, trials: int = 2) -> Path:
    """A study file below ``studies/``, and its images."""
    if not Path("images").exists():
        write_images(Path("images/train"), 10)
        write_images(Path("images/test"), 4, seed=1)
    path = Path(f"studies/{name}.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(STUDY.format(name=name, seed=seed, epochs=epochs, trials=trials))
    return path


def invoke(*words: str) -> Any:
    """The command in this process: ``exit_code``, ``stdout``, ``stderr``; no traceback is ever seen."""
    result = CliRunner().invoke(app, words)
    assert "Traceback" not in result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return start_python(
        "-m", "pipeline.cli", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def files() -> set[str]:
    """Every file below the working folder."""
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
