"""Images of any size: an architecture takes them, or they are refused before any training, with sizes that work."""

import re
from pathlib import Path

import pytest
import torch
from command import invoke, write_study
from tiny_data import write_images
from torch import nn

from pipeline.config.task_spec import TaskSpec
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.models.timm import Timm
from pipeline.task.opened_task import OpenedTask

ARCHITECTURES = (
    ("timm", "test_vit"),  # a multiple of its patches, for which it is built
    ("timm", "test_convnext"),
    ("timm", "test_resnet"),
    ("timm", "test_efficientnet"),
    ("torchvision", "squeezenet1_1"),  # its pools leave nothing of a small image
    ("torchvision", "mnasnet0_5"),
    ("torchvision", "regnet_y_400mf"),  # computes its widths with tensors as it is built
)
SIZES = (1, 7, 17, 33, 48, 64)


def opened(source: str, architecture: str, size: int, root: Path = Path("images")) -> OpenedTask:
    model = {"source": source, "architecture": architecture, "image_size": size}
    table = {"model": model, "data": {"source": "image-folder", "root": str(root)}, "baseline": {"epochs": 1}}
    return OpenedTask(TaskSpec.model_validate(table))


def refusal_of(task: OpenedTask) -> str:
    try:
        assert task.input_shape
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("source", "architecture"), ARCHITECTURES)
def test_every_size_is_taken_or_refused_with_sizes_that_work(source, architecture):
    write_images(Path("images"), 4, side=20)
    taken = set()
    for size in SIZES:
        task = opened(source, architecture, size)
        refused = refusal_of(task)
        if not refused:
            with torch.no_grad():
                assert task.model.eval()(torch.zeros(1, 3, size, size)).shape == (1, 3)
            taken.add(size)
            continue
        assert f"task.model.image_size = {size}: '{architecture}' cannot take images of {size} x {size}" in refused
        found = re.search(r"sizes near it that work: ([\d and]+)$", refused)
        assert found, refused
        for near in map(int, found[1].split(" and ")):
            assert opened(source, architecture, near).input_shape == (3, near, near)
    assert 64 in taken


STUDY = """\
[task.model]
source = "timm"
architecture = "{architecture}"
image_size = {size}

[task.data]
source = "image-folder"
root = "images"
"""


def study(architecture: str, size: int, batch: int = 8) -> None:
    text = write_study().read_text()
    _, _, rest = text.partition("[task.split]")
    rest = rest.replace("batch_size = 8\n", f"batch_size = {batch}\n", 1)
    rest = rest.replace('targets = ["fc1"]', 'targets = ["head"]')
    rest = rest.replace('adapter = "lora"\n\n', 'adapter = "lora"\ntargets = ["head"]\n\n')
    head = STUDY.format(architecture=architecture, size=size)
    Path("studies/tiny.toml").write_text(f'name = "tiny"\n{head}\n[task.split]{rest}')


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_every_verb_refuses_a_size_before_a_baseline(verb):
    study("test_vit", 33)
    result = invoke(verb, "tiny")
    assert result.exit_code == 3
    assert "task.model.image_size = 33" in result.stdout + result.stderr
    assert "sizes near it that work: 32 and 48" in result.stdout + result.stderr
    assert not list(Path().rglob("*.safetensors"))
    assert "epoch" not in result.stderr


class FixedView(nn.Module):
    """Reshapes to a fixed number of values, so that images of other sizes give other numbers of rows."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.reshape(-1, 3 * 8 * 8))


@pytest.mark.parametrize("size", [8, 16, 24])
def test_a_model_that_gives_several_rows_for_an_image_cannot_take_it(size, monkeypatch):
    write_images(Path("images"), 4, side=20)
    monkeypatch.setattr(Timm, "build", lambda self, classes: FixedView(classes))
    refused = refusal_of(opened("timm", "test_vit", size))
    assert bool(refused) == (size != 8)
    assert not refused or f"image_size = {size}" in refused


def test_weights_that_give_no_finite_logits_are_refused_by_the_name_of_the_tensor(monkeypatch):
    write_images(Path("images"), 4, side=20)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net[1].running_var.fill_(float("nan"))
    monkeypatch.setattr(Timm, "pretrained", True)
    monkeypatch.setattr(Timm, "load", lambda self, classes: net)
    with pytest.raises(IntegrityError, match=r"damaged: '1\.running_var'"):
        assert opened("timm", "test_vit", 32).input_shape


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_a_size_that_works_is_accepted(verb):
    study("test_vit", 48)
    assert invoke(verb, "tiny").exit_code == 0


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_images_that_batch_norm_cannot_train_on_alone_are_refused_before_a_baseline(verb):
    study("test_resnet", 16, batch=1)  # the last maps have a single pixel
    result = invoke(verb, "tiny")
    assert result.exit_code == 3
    assert "task.baseline.batch_size = 1" in result.stdout + result.stderr
    assert not list(Path().rglob("*.safetensors"))
