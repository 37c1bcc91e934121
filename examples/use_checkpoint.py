"""Run a study of seconds, export its checkpoint, and use it: `python examples/use_checkpoint.py`.

What ``pipeline.load`` gives is a plain module in eval mode. The card beside it says which accuracies were measured.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import pipeline

STUDY = Path(__file__).resolve().parent / "digits.toml"


def exported(folder: str) -> Path:
    """Run the study in ``folder``, and export its checkpoint."""
    for verb in ("run", "export"):
        command = [sys.executable, "-m", "pipeline.cli", verb, str(STUDY.absolute())]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Path(folder) / "storage" / "exports" / "digits" / "int1-lora" / "rank-4"


def show(checkpoint: Path) -> None:
    model = pipeline.load(checkpoint)
    card = json.loads((checkpoint / "card.json").read_text())
    test = pipeline.prepare(pipeline.load_spec(STUDY).task).test
    with torch.inference_mode():
        correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test.batches(256))
    print(f"measured here  {correct / len(test):.1%} of {len(test)} test images")
    for name, scores in card["accuracy"].items():
        print(f"{name:<14} {scores['test']['accuracy']:.1%}, as the card says")
    print(f"{(checkpoint / 'model.safetensors').stat().st_size:,} bytes of file")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where the study keeps its files
        show(exported(folder))
        os.chdir(STUDY.parent)


if __name__ == "__main__":
    main()
