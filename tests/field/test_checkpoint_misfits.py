"""Weights that do not fit: another kind, architecture, number of channels or classes, or image size."""

import pytest
import timm
import torch
import torchvision
from checkpoints import CLASSES, loaded, same, source, weights
from torch import nn
from torch.nn.utils import prune

from pipeline.errors import IntegrityError, SpecError

FIRST = weights(0)
BODY = {name: value for name, value in FIRST.items() if name != "fc.weight"}
BACKBONE = {name: value for name, value in FIRST.items() if not name.startswith("fc.")}


def by_kind(change):
    return {name: change(value) if value.is_floating_point() else value for name, value in FIRST.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_load_as_float32(dtype):
    found = loaded(by_kind(lambda value: value.to(dtype)))
    assert same(found, by_kind(lambda value: value.to(dtype).float()))


def test_parameters_load_as_tensors_do():
    assert same(loaded(by_kind(nn.Parameter)), FIRST)


def pruned():
    model = source().build(CLASSES)
    prune.l1_unstructured(model.conv1[0], "weight", 0.5)
    return model.state_dict()


def parametrized():
    model = source().build(CLASSES)
    nn.utils.parametrizations.weight_norm(model.fc)
    return model.state_dict()


def changed(name, value):
    return {**FIRST, name: value}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed("fc.weight", FIRST["fc.weight"].to(torch.int8)), "'fc.weight' holds torch.int8 values"),
        (changed("fc.bias", torch.tensor([1.0, float("nan"), 0])), "'fc.bias' holds NaN or infinite values"),
        (changed("fc.bias", FIRST["fc.bias"].to("meta")), "torch cannot load these weights"),
        (dict(list(FIRST.items())[:30]), "a part of the weights: missing '.* and 51 more"),
        ({name: value for name, value in FIRST.items() if "running" not in name}, "a part of the weights"),
        (BACKBONE, r"holds no head: 'fc.bias' is missing; .*new_head = true"),
        (weights(0, "test_vit"), "another architecture: missing"),
        (pruned(), r"'conv1.0.weight' is computed from 'conv1.0.weight_orig'; give plain weights"),
        (parametrized(), r"'fc.weight' is computed from 'fc.parametrizations.weight.original0'"),
        (
            {**BODY, "fc._packed_params.codes": torch.ones(3)},
            r"from 'fc._packed_params.*before a quantisation",
        ),
        ({**BODY, "fc.base_layer.weight": torch.ones(3)}, r"computed from 'fc.base_layer.weight'.*merge_and_unload"),
        ({**BODY, "fc.weight.codes": torch.ones(3)}, r"'fc.weight' is computed from 'fc.weight.codes'.*merge=True"),
        ({**FIRST, "gate": torch.ones(1)}, "another architecture: missing none, unexpected 'gate'"),
        (
            {**FIRST, "layer1.9.weight": torch.ones(1)},
            "another architecture: missing none, unexpected 'layer1.9.weight'",
        ),
    ],
)
def test_what_is_wrong_with_the_weights_is_named(content, said):
    with pytest.raises(IntegrityError, match=said):
        loaded(content)


@pytest.mark.parametrize(("larger", "smaller"), [("resnet34", "resnet18"), ("squeezenet1_0", "squeezenet1_1")])
def test_a_larger_model_of_the_same_names_is_another_architecture(larger, smaller):
    with torch.device("meta"):
        state = weights(0, larger, "torchvision")
    torch.save({name: torch.zeros(value.shape) for name, value in state.items()}, "w.pth")
    with pytest.raises(IntegrityError, match="name the architecture"):
        source(smaller, "torchvision", checkpoint="w.pth").load(CLASSES)


@pytest.mark.parametrize(
    ("model", "name"), [(("test_resnet", "timm"), "conv1.0.weight"), (("resnet18", "torchvision"), "conv1.weight"),
                        (("test_vit", "timm"), "patch_embed.proj.weight")],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_other_channels_are_named_as_such(model, name, channels):
    state = weights(0, *model)
    state[name] = state[name][:, :1].repeat(1, channels, 1, 1)
    with pytest.raises(IntegrityError, match=rf"images with {channels} channel\(s\), .* 3 \(RGB\): '{name}'"):
        loaded(state, model=model)


NEWER = pytest.mark.skipif(not timm.is_model("test_coatnet"), reason="timm is older than its test_coatnet")


@pytest.mark.parametrize(
    ("model", "side", "other"),
    [
        (("test_vit", "timm"), 64, None),
        (("test_vit", "timm"), None, 64),
        pytest.param(("test_coatnet", "timm"), 64, None, marks=NEWER),
    ],
)
def test_weights_of_another_image_size_are_named_as_such(model, side, other):
    state = weights(0, *model, **({"image_size": side} if side else {}))
    options = {"image_size": other} if other else {}
    with pytest.raises(IntegrityError, match=r"another image size: .* set task.model.image_size"):
        loaded(state, model=model, **options)
    assert same(loaded(state, model=model, **({"image_size": side} if side else {})), state)


HEADS = [("test_resnet", "timm"), ("test_vit", "timm"), ("squeezenet1_1", "torchvision"), ("resnet18", "torchvision")]


@pytest.mark.parametrize("model", HEADS, ids=str)
def test_weights_of_other_classes_offer_a_new_head_chosen_outputs_and_agreement(model):
    state, head = weights(0, *model, classes=5), {"fc.", "head.", "classifier.1."}
    body = {name: value for name, value in state.items() if not name.startswith(tuple(head))}
    ways = r"'.*' has 5 classes, and the data has 3; .*new_head = true.*task.model.outputs = .*\"agreement\""
    with pytest.raises(IntegrityError, match=ways):
        loaded(state, model=model)
    assert same(loaded(state, model=model, new_head=True), body)
    assert same(loaded(body, model=model, new_head=True), body)
    chosen = {name: value[[4, 0, 2]] for name, value in state.items() if name not in body}
    assert same(loaded(state, model=model, outputs=[4, 0, 2]), {**body, **chosen})
    assert source(*model, checkpoint="w.pth").pretrained_classes() == 5
    assert source(*model, checkpoint="w.pth", outputs=[1, 3]).pretrained_classes() == 2


OTHER_HEADS = {
    "behind dropout": {"fc.1.weight": "fc.weight", "fc.1.bias": "fc.bias"},
    "of another name": {"classifier.weight": "fc.weight", "classifier.bias": "fc.bias"},
    "in a module of its own": {"fc.linear.weight": "fc.weight", "fc.linear.bias": "fc.bias"},
}


@pytest.mark.parametrize("path", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("names", OTHER_HEADS.values(), ids=OTHER_HEADS)
def test_a_head_under_other_names_is_named_paired_by_order_or_replaced(names, path):
    content = {**BACKBONE, **{new: FIRST[old] for new, old in names.items()}}
    beside = next(iter(names)).partition(".")[0]
    with pytest.raises(IntegrityError, match=rf"no head: .*holds '{beside}' \(2 entries\).*rename = \"order\""):
        loaded(content, path)
    assert same(loaded(content, path, rename="order"), FIRST)
    assert same(loaded(content, path, new_head=True), BACKBONE)


@pytest.mark.parametrize("rename", ["none", "order"])
def test_a_head_of_other_layers_is_replaced_by_a_new_one(rename):
    projector = {"fc.0.weight": torch.ones(8, 96), "fc.1.weight": torch.ones(8), "fc.3.weight": torch.ones(3, 8)}
    content = {f"module.encoder.{name}": value for name, value in {**BACKBONE, **projector}.items()}
    with pytest.raises(IntegrityError, match=r"holds no head: .*'fc' \(3 entries\)"):
        loaded(content, rename=rename)
    assert same(loaded(content, rename=rename, new_head=True), BACKBONE)


def test_a_head_that_lacks_a_part_is_replaced_as_a_whole():
    content = {name: value + 1 for name, value in FIRST.items() if name != "fc.bias"}
    with pytest.raises(IntegrityError, match=r"holds no head: 'fc.bias' is missing"):
        loaded(content)
    found = loaded(content, new_head=True)
    assert same(found, {name: value for name, value in content.items() if name in BACKBONE})
    assert not torch.equal(found["fc.weight"], content["fc.weight"])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"outputs": []}, ValueError, "outputs"),
        ({"outputs": [0, 1]}, SpecError, "outputs has 2 outputs, and the data has 3 classes"),
        ({"outputs": [0, 1, 5]}, IntegrityError, r"output 5, and w.pth has 3 outputs; give numbers from 0 to 2"),
        ({"outputs": [0, 1, 1]}, ValueError, "names an output twice"),
        ({"outputs": [0, 1, 2], "new_head": True}, ValueError, "remove outputs"),
        ({"checkpoint": None, "outputs": [0, 1, 2]}, ValueError, "the model has no weights; remove outputs"),
        ({"checkpoint": None, "weights_key": "ema"}, ValueError, "remove weights_key"),
        ({"checkpoint": "https://example.org/w.pth"}, ValueError, "is no local file; download it"),
    ],
)
def test_impossible_options_are_refused(options, error, said):
    torch.save(FIRST, "w.pth")
    with pytest.raises(error, match=said):
        source(**{"checkpoint": "w.pth", **options}).load(CLASSES)


def test_weights_of_a_library_take_outputs_too(monkeypatch):
    from torchvision.models._api import WeightsEnum

    state = weights(0, "squeezenet1_1", "torchvision", 1000)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    model = source("squeezenet1_1", "torchvision", weights="DEFAULT", outputs=[7, 1, 999]).load(3)
    assert torch.equal(model.state_dict()["classifier.1.weight"], state["classifier.1.weight"][[7, 1, 999]])


@pytest.mark.parametrize(
    ("architecture", "auxiliary", "has_auxiliary"),
    [("googlenet", "aux", True), ("googlenet", "aux", False), ("inception_v3", "AuxLogits", True)],
)
def test_auxiliary_classifiers_are_left_out_whatever_their_classes(architecture, auxiliary, has_auxiliary, monkeypatch):
    monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, **_: tensor.data.zero_())  # the real one is slow
    model = (architecture, "torchvision")
    state = torchvision.models.get_model(architecture, init_weights=False, num_classes=5).state_dict()
    main = {name: value for name, value in state.items() if not name.startswith(auxiliary)}
    content = state if has_auxiliary else main
    assert same(loaded(content, classes=5, model=model), main)
    with pytest.raises(IntegrityError, match=r"'fc.weight' has 5 classes, and the data has 3"):
        source(*model, checkpoint="w.pth").load(CLASSES)
    assert source(*model, checkpoint="w.pth").pretrained_classes() == 5
    own = {name: value[:CLASSES] if name.startswith("fc.") else value for name, value in content.items()}
    assert same(loaded(own, model=model), {name: own[name] for name in main})
