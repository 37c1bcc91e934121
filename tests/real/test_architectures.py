"""Ten architectures of torchvision and timm, from the study file to the exported and the loaded checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from tiny_data import write_images
from typer.testing import CliRunner

import pipeline
from pipeline.cli import app
from pipeline.config.study_file import load_spec
from pipeline.task.prepare import prepare

STUDY = """\
name = "one"

[task.model]
source = "{source}"
architecture = "{architecture}"
image_size = {size}

[task.data]
source = "image-folder"
root = "images"

[task.split]
val = 0.25
test = 0.25

[task.baseline]
epochs = 1
batch_size = 4
lr = 1e-3

[[combination]]
name = "int1-lora"
compression = "int1"
adapter = "lora"
targets = {targets}

[search]
ranks = [1]
inits = ["paper"]
alpha = 8
optimizer = ["adam"]
lr = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [4]
epochs = 1
trials = 2
sampler = {{ method = "random" }}
"""

ARCHITECTURES = {
    "torchvision/resnet18": (32, ["*"]),
    "torchvision/densenet121": (32, ["*"]),
    "torchvision/squeezenet1_0": (32, ["*"]),
    "torchvision/inception_v3": (80, ["*"]),
    "torchvision/googlenet": (32, ["*"]),
    "torchvision/mnasnet0_5": (32, ["*"]),
    "torchvision/swin_t": (32, ["*"]),
    "timm/convnext_atto": (32, ["*"]),
    "timm/vit_tiny_patch16_224": (32, ["attention", "mlp", "head"]),
    "timm/efficientformerv2_s0": (64, ["*"]),
}
"""The side of the images, and the targets."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_goes_from_the_study_file_to_a_loaded_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (size, targets), (source, architecture) = ARCHITECTURES[name], name.split("/")
    text = STUDY.format(source=source, architecture=architecture, size=size, targets=json.dumps(targets))
    Path("studies").mkdir()
    Path("studies/one.toml").write_text(text, encoding="utf-8")
    write_images(Path("images"), 12, side=16, classes={"dark": (60, 60, 60), "light": (180, 180, 180)})
    for words in (["check", "one"], ["run", "one"], ["export", "one"]):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    folder = Path("storage/exports/one/int1-lora/rank-1")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    task, loaded = prepare(load_spec(Path("studies/one.toml")).task), pipeline.load(folder)
    images, labels = next(iter(task.test.batches(len(task.test))))
    with torch.no_grad():
        right = (loaded(images).argmax(1) == labels).sum().item()
    assert right == card["accuracy"]["recovered"]["test"]["correct"]
    assert sum(tensor.nbytes for tensor in task.model.state_dict().values()) == card["size"]["dense_bytes"]
    assert card["size"]["tensor_bytes"] < card["size"]["dense_bytes"]
