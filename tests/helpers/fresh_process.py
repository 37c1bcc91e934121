"""An exported checkpoint loaded where nothing is known of how it was made."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

SCRIPT = """
import json, sys
import torch
from safetensors.torch import load_file
import pipeline
{model}
answers = {{}}
for folder, inputs in json.loads(sys.argv[1]).items():
    given = load_file(inputs)
    model = pipeline.load(folder{argument})
    with torch.inference_mode():
        logits = model(given["images"])
    answers[folder] = {{
        "difference": float((logits - given["logits"]).abs().max()),
        "correct": int((logits.argmax(1) == given["labels"]).sum()),
        "training": any(module.training for module in model.modules()),
    }}
print(json.dumps(answers))
"""


def ask(given: dict[Path, dict[str, Tensor]], model: str = "", argument: str = "") -> dict[Path, dict[str, Any]]:
    """What a fresh process finds of each exported folder.

    Args:
        given: For each folder ``images``, ``labels``, and the ``logits`` that it ought to come to.
        model: Source that makes the user's own module.
        argument: How it is handed to ``load``.
    """
    files = {}
    for folder, tensors in given.items():
        path = folder.parent / f"{folder.name}.inputs.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        files[str(folder)] = str(path)
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(model=model, argument=argument), json.dumps(files)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return {Path(folder): answer for folder, answer in json.loads(process.stdout).items()}
