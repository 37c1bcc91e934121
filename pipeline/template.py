"""The commented study file that ``restora new`` writes."""

import re
from pathlib import Path

from pipeline.errors import UsageError

TEMPLATE = """\
# {name}: say here what this study asks; `restora ls` shows this line.
name = "{name}"
seed = 0       # of everything that is drawn
seeds = 1      # the winner of each cell is trained under this many seeds; tables give mean and spread

[task.model]
source = "timm"            # `restora ls` lists them all
architecture = "resnet18"
hub = true                 # from the hub; or give a local file:
# checkpoint = "weights.safetensors"

[task.data]
source = "image-folder"    # train/<class>/*.jpg and test/<class>/*.jpg
# root = "data/mine"       # or RESTORA_DATA

[task.split]
val = 0.1                  # of the training images; trials are judged on these
seed = 0

# Without this table the model is used as it is loaded.
# [task.baseline]
# epochs = 10
# optimizer = "adam"
# lr = 1e-3
# batch_size = 128

# One Optuna study for each combination.
[[combination]]
name = "int1-lora"
compression = {{ method = "int1", scale = "row" }}
adapter = {{ method = "lora", scale = "alpha/r" }}
targets = ["fc"]           # glob patterns over layer names, e.g. "layer4.*"

[search]
ranks = [2, 4, 8]          # each (rank, init) is a cell with a budget of its own
inits = ["paper", "svd"]
alpha = {{ low = 1, high = 64, log = true }}
optimizer = ["adam", "sgd"]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [64, 128]
epochs = 10
trials = 12                # of each cell
ask_ahead = 4              # trials of a cell that are asked for at once
sampler = {{ method = "tpe", startup = 4 }}
pruner = {{ method = "halving", first = 1, factor = 3 }}

# [compute]                # outputs of frozen layers on disk: float32, float16, bfloat16 or off
# cache = "float32"

# [spectra]                # singular values to record over epochs, of the baseline and of each cell's winner
# layers = ["fc"]
"""


def write_template(name: str) -> Path:
    """Write ``studies/<name>.toml``.

    Raises:
        UsageError: The name cannot be a file's, or the file is there.
    """
    name = name.removesuffix(".toml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"'{name}' cannot be a study's name; give up to 64 letters, digits, '.', '_' and '-'")
    path = Path("studies") / f"{name}.toml"
    if path.exists():
        raise UsageError(f"{path} is there already; choose another name, or edit it")
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEMPLATE.format(name=name))
    return path
