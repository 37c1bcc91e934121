import pytest
import torch
from PIL import Image
from tiny_data import COLOURS
from torch import nn

from pipeline.config.registry import MODELS
from pipeline.config.study_file import parse_spec
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.prepare import rebuild

TABLES = [
    {"source": "mlp", "widths": [64, 8, 3], "dropout": 0.5},
    {"source": "mlp", "widths": [192, 8, 4, 3], "mean": [0.5, 0.4, 0.3], "std": [0.2]},
    {"source": "timm", "architecture": "resnet18", "image_size": 32},
    {"source": "timm", "architecture": "vit_tiny_patch16_224", "image_size": 32, "mean": [0.5, 0.4, 0.3]},
    {"source": "torchvision", "architecture": "resnet18", "image_size": 32, "std": [0.5, 0.4, 0.3]},
    {"source": "torchvision", "architecture": "vit_b_32", "image_size": 32},
]


def test_every_model_source_has_a_table_here():
    assert {table["source"] for table in TABLES} == {source.name for source in MODELS}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table['source']} {table.get('architecture', '')}")
def test_every_model_takes_its_preprocessed_image_and_is_built_again_from_its_description(table):
    source = MODELS.parse(table)
    model = source.load(3).eval()
    preprocessing = source.preprocessing(model)
    image = preprocessing(Image.new("RGB", (20, 30), COLOURS["red"]))
    assert image.dtype == torch.float32
    assert list(image.shape) == preprocessing.facts["input"]
    assert model(image[None]).shape == (1, 3)
    assert not source.pretrained
    again = rebuild({"model": source.model_dump(mode="json"), "classes": 3})
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(image[None]), model(image[None]))


def test_mean_and_std_are_applied_per_channel():
    source = MODELS.parse({"source": "mlp", "widths": [12, 2], "mean": [0.5, 0.0, 0.2], "std": [0.5, 1.0, 2.0]})
    image = source.preprocessing(source.build(2))(Image.new("RGB", (2, 2), (255, 51, 51)))
    assert image[:, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_an_mlp_names_its_layers_and_drops_out_after_each_hidden_relu():
    model = MODELS.parse({"source": "mlp", "widths": [4, 3, 3, 2], "dropout": 0.1}).build(2)
    assert [name for name, _ in model.named_children()] == [
        "flatten", "fc1", "relu1", "dropout1", "fc2", "relu2", "dropout2", "fc3",
    ]  # fmt: skip
    assert isinstance(model.dropout1, nn.Dropout)
    assert model.dropout1.p == 0.1


def test_fault_10_an_mlp_that_does_not_end_with_the_classes_names_both():
    with pytest.raises(SpecError, match="ends with 10, and the data has 3 classes"):
        MODELS.parse({"source": "mlp", "widths": [4, 10]}).build(3)


def study(model):
    return {
        "name": "s",
        "task": {"model": model, "data": "mnist-subset"},
        "combination": [],
        "search": {},
    }


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"source": "timm", "architecture": "resnet19"}, "timm has no such model; did you mean 'resnet"),
        ({"source": "timm", "architecture": "resnet18.nope"}, r"Invalid pretrained tag \(nope\).*resnet18.a1_in1k"),
        ({"source": "timm", "architecture": "resnet18", "hub": True, "checkpoint": "x"}, "remove one"),
        ({"source": "torchvision", "architecture": "resnet17"}, "no such classifier; did you mean 'resnet"),
        ({"source": "torchvision", "architecture": "resnet18", "weights": "DEFALT"}, "did you mean 'DEFAULT'"),
        ({"source": "torchvision", "architecture": "resnet18", "weights": "DEFAULT", "checkpoint": "x"}, "remove one"),
        ({"source": "mlp", "widths": [784]}, "task.model.widths"),
        ({"source": "mlp", "widths": [785, 10]}, r"785, which is neither side \* side"),
        ({"source": "mlp", "widths": [784, 10], "mean": [0.1, 0.2]}, "mean has 2 values for 1 channels"),
        ({"source": "mlp", "widths": [784, 10], "std": [0.0]}, "greater than 0"),
        ({"source": "mlp", "widths": [784, 10], "dropout": 1.0}, "less than 1"),
    ],
)
def test_fault_19_an_impossible_model_is_an_error_of_the_study_file(model, said):
    with pytest.raises(SpecError, match=said):
        parse_spec(study(model), "study.toml")


@pytest.mark.parametrize(
    "table",
    [
        {"source": "timm", "architecture": "resnet18", "hub": True},
        {"source": "torchvision", "architecture": "resnet18", "weights": "DEFAULT"},
    ],
    ids=["timm", "torchvision"],
)
def test_fault_11_weights_that_cannot_be_downloaded_name_where_they_were_looked_for(table, tmp_path, monkeypatch):
    import huggingface_hub.constants

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(IntegrityError, match=r"'resnet18' are not there: looked for .* give task.model.checkpoint"):
        MODELS.parse(table).load(1000)


def test_weights_of_the_hub_with_another_head_are_refused_before_they_are_fetched():
    source = MODELS.parse({"source": "timm", "architecture": "resnet18", "hub": True})
    with pytest.raises(SpecError, match=r"1000 classes, the data has 3; .*new_head = true"):
        source.load(3)
