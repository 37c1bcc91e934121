"""The commented study file that ``restora new`` writes."""

import re
from pathlib import Path

from pipeline.config.fields import SAFE_NAME
from pipeline.errors import UsageError

TEMPLATE = """\
# {name}: write here what this study asks; `restora ls` shows this line.
name = "{name}"
seed = 0       # seed of everything that is drawn
seeds = 1      # seeds under which the winner of each cell is trained; tables give mean and spread

# [task]                   # for images without true labels: agreement with the loaded model's own answers
# metric = "agreement"

[task.model]
source = "timm"            # `restora ls` lists all sources
architecture = "resnet18"
hub = true                 # weights from the hub; or give a local file:
# checkpoint = "weights.safetensors"

[task.data]
source = "image-folder"    # train/<class>/*.jpg and test/<class>/*.jpg
# root = "data/mine"       # or RESTORA_DATA

[task.split]
val = 0.1                  # fraction of the training images on which trials are judged
seed = 0

# Without this table the model is used as it is loaded; with it, it is trained first.
# [task.baseline]
# epochs = 10
# optimizer = "adam"
# lr = 1e-3
# batch_size = 128

# Each combination has an Optuna study of its own. docs/methods.md describes all methods and their options.
[[combination]]
name = "int1-lora"
compression = {{ method = "int1", scale = "row" }}       # intN, sparse, svd, svdlora, tou, prune_magnitude, ...
adapter = {{ method = "lora", scale = "alpha/r" }}       # dora, tou, head, full, none
targets = ["fc"]           # globs over layer names, "layer4.*", or groups: head, attention, mlp, conv, linear, all
# targets = ["all", {{ match = "head", dense = true }}, {{ match = "layer4.*", rank = 4 }}]   # the last match applies
# qkv = "split"            # query, key and value as three layers
# batch_norm = "reestimated"   # statistics measured again after compression

[search]
ranks = [2, 4, 8]          # each (rank, init) is a cell with its own budget of trials
# allocation = {{ by = "gain" }}   # ranks are then bytes of the whole adapter, spread over the layers
inits = ["paper", "svd"]   # qera, loftq, pissa, eva, ...
alpha = {{ low = 1, high = 64, log = true }}
optimizer = ["adam", "sgd"]    # adamw, nesterov, rmsprop
lr = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [64, 128]
epochs = 10
# schedule = "cosine"      # the learning rate falls to zero over a trial
# loss = {{ method = "distillation", labels = 0.5 }}       # the uncompressed model is the teacher
trials = 12                # budget of each cell
# queued = 4               # the 4 cells that score best before training start from mid-range values
ask_ahead = 4              # trials of a cell that run at the same time
sampler = {{ method = "tpe", startup = 4 }}
pruner = {{ method = "halving", first = 1, factor = 3 }}

# [compute]                # type of cached outputs of frozen layers: float32, float16, bfloat16 or off
# cache = "float32"

# [spectra]                # singular values recorded per epoch, of the baseline and of each cell's winner
# layers = ["fc"]          # names or globs of layers
"""


def write_template(name: str) -> Path:
    """Write ``studies/<name>.toml``.

    Raises:
        UsageError: The name cannot be a file's name, or the file exists.
    """
    name = name.removesuffix(".toml")
    if not re.fullmatch(SAFE_NAME, name):
        raise UsageError(f"'{name}' is not a valid study name; give up to 64 letters, digits, '.', '_' and '-'")
    path = Path("studies") / f"{name}.toml"
    if path.exists():
        raise UsageError(f"{path} already exists; choose another name, or edit it")
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEMPLATE.format(name=name))
    return path
