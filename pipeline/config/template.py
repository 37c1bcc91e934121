"""The commented study file that ``restora new`` writes."""

import re
from pathlib import Path

from pipeline.errors import UsageError

TEMPLATE = """\
# {name}: say here what this study asks; `restora ls` shows this line.
name = "{name}"
seed = 0       # of everything that is drawn
seeds = 1      # the winner of each cell is trained under this many seeds; tables give mean and spread

# [task]                   # without true labels: win back the loaded model's own answers
# metric = "agreement"

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

# One Optuna study for each combination; `restora ls` and docs/methods.md have all methods.
[[combination]]
name = "int1-lora"
compression = {{ method = "int1", scale = "row" }}       # intN, sparse, svd, svdlora, tou, prune_magnitude, ...
adapter = {{ method = "lora", scale = "alpha/r" }}       # dora, tou, head, full, none
targets = ["fc"]           # globs over layer names, "layer4.*", or groups: head, attention, mlp, conv, linear, all
# targets = ["all", {{ match = "head", dense = true }}, {{ match = "layer4.*", rank = 4 }}]   # the last match holds
# qkv = "split"            # query, key and value as layers of their own
# batch_norm = "reestimated"   # statistics taken again behind compressed layers

[search]
ranks = [2, 4, 8]          # each (rank, init) is a cell with a budget of its own
# allocation = {{ by = "gain" }}   # ranks are then bytes of the whole adapter, spread over layers
inits = ["paper", "svd"]   # qera, loftq, pissa, eva, ...
alpha = {{ low = 1, high = 64, log = true }}
optimizer = ["adam", "sgd"]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [64, 128]
epochs = 10
# loss = {{ method = "distillation", labels = 0.5 }}       # from the uncompressed model
trials = 12                # of each cell
# queued = 4               # so many cells of best score before any training begin with the middle of every range
ask_ahead = 4              # trials of a cell that are asked for at once
sampler = {{ method = "tpe", startup = 4 }}
pruner = {{ method = "halving", first = 1, factor = 3 }}

# [compute]                # outputs of frozen layers on disk: float32, float16, bfloat16 or off
# cache = "float32"

# [spectra]                # singular values to record over epochs, of the baseline and of each cell's winner
# layers = ["fc"]          # as targets
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
