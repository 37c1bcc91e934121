"""Which weights of a file are loaded: keys, prefixes, leftovers, several sets, and what does not fit."""

import logging
import re
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pipeline.config.registry import MODELS
from pipeline.errors import IntegrityError, SpecError

CLASSES = 3
KEYS = ["model", "state_dict", "model_state_dict", "net", "weights", "params", "module", "ema", "generator", "any key"]
WRAPPERS = ["module", "_orig_mod", "model", "net", "backbone", "encoder", "student", "_forward_module", "a.b"]


def source(architecture="test_resnet", library="timm", **options):
    return MODELS.parse({"source": library, "architecture": architecture, **options})


def weights(seed=0, architecture="test_resnet", library="timm", classes=CLASSES, **options):
    torch.manual_seed(seed)
    return source(architecture, library, **options).build(classes).state_dict()


FIRST, SECOND = weights(0), weights(1)
BACKBONE = {name: value for name, value in FIRST.items() if not name.startswith("fc.")}


def prefixed(prefix, state=FIRST):
    return {f"{prefix}{name}": value for name, value in state.items()}


def loaded(content, path="w.pth", classes=CLASSES, model=("test_resnet", "timm"), **options):
    """The state dict of a model that loads ``content`` from a file; ``path`` tells its format."""
    if path.endswith(".safetensors"):
        save_file({name: value.contiguous().clone() for name, value in content.items()}, path)
    else:
        torch.save(content, path)
    return source(*model, checkpoint=path, **options).load(classes).state_dict()


def same(found, wanted):
    return all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in wanted.items())


@given(
    keys=st.lists(st.sampled_from(KEYS), max_size=2),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    inside=st.sampled_from(["", "module.", "_orig_mod.module."]),
    beside=st.booleans(),
)
@settings(max_examples=40)
def test_one_set_loads_under_any_keys_and_prefixes_beside_anything(keys, wrappers, inside, beside):
    prefix = "".join(f"{wrapper}." for wrapper in wrappers)
    content = {f"{prefix}{name}".replace("layer2.", f"layer2.{inside}"): value for name, value in FIRST.items()}
    if beside:
        content |= {"criterion.weight": torch.ones(2), f"{prefix}loss_fn.pos_weight": torch.ones(3)}
    for key in keys:
        optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
        content = {key: content, "epoch": 3, "optimizer": optimizer} if beside else {key: content}
    assert same(loaded(content), FIRST)


@pytest.mark.parametrize("rename", ["none", "order"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "net.backbone."])
@pytest.mark.parametrize("path", ["w.safetensors", "w.pth"])
def test_the_format_and_renaming_by_order_make_no_difference_to_a_prefixed_set(path, prefix, rename):
    assert same(loaded(prefixed(prefix), path, rename=rename), FIRST)


@pytest.mark.parametrize(
    "content",
    [
        {"backbone": BACKBONE, "fc": {"weight": FIRST["fc.weight"], "bias": FIRST["fc.bias"]}},
        {**prefixed("backbone.", BACKBONE), "head.fc.weight": FIRST["fc.weight"], "head.fc.bias": FIRST["fc.bias"]},
        {**prefixed("model.", BACKBONE), "fc.weight": FIRST["fc.weight"], "fc.bias": FIRST["fc.bias"]},
        {(f"module.{name}" if index % 2 else name): value for index, (name, value) in enumerate(FIRST.items())},
        (FIRST, 3),
        [{"epoch": 3}, {"model": FIRST}],
    ],
    ids=["two dicts", "two prefixes", "prefix but for the head", "prefix on some names", "tuple", "list"],
)
def test_a_set_in_several_parts_is_put_together(content):
    assert same(loaded(content), FIRST)


def test_an_averaged_model_loads_without_its_counter():
    model = source().build(CLASSES)
    model.load_state_dict(FIRST)
    assert same(loaded(torch.optim.swa_utils.AveragedModel(model).state_dict()), FIRST)


def test_what_is_left_out_is_said(caplog):
    caplog.set_level(logging.INFO)
    counted = {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1)}
    loaded({"net": {**FIRST, **counted}})
    assert caplog.messages == []
    loaded({"net": {**FIRST, **counted, "loss.weight": torch.ones(2)}, "sgd": {"a": torch.ones(1), "b": torch.ones(1)}})
    assert caplog.messages == ["w.pth: the weights are those under 'net'; left out: 'sgd' (2 entries), 'loss.weight'"]


SETS = {
    "keys": ({"state_dict": FIRST, "state_dict_ema": SECOND}, "state_dict", "state_dict_ema"),
    "inner keys": ({"a": {"net": FIRST}, "b": {"net": prefixed("module.", SECOND)}}, "a.net", "b.net"),
    "prefixes": ({**prefixed("student."), **prefixed("teacher.", SECOND)}, "student", "teacher"),
    "one without": ({**FIRST, **prefixed("ema.", SECOND)}, "", "ema"),
    "wrapped": ({**FIRST, **prefixed("module.", SECOND)}, "", "module"),
}


@pytest.mark.parametrize(("content", "first", "second"), SETS.values(), ids=SETS)
def test_two_sets_that_differ_are_asked_about_and_either_can_be_chosen(content, first, second):
    with pytest.raises(IntegrityError, match=f'2 sets .* task.model.weights_key = "{first}" or "{second}"'):
        loaded(content)
    assert same(loaded(content, weights_key=first), FIRST)
    assert same(loaded(content, weights_key=second), SECOND)


def test_equal_sets_are_not_asked_about_and_an_unknown_key_lists_what_there_is():
    content = {"last": FIRST, "best": dict(FIRST), "epoch": 3}
    assert same(loaded(content), FIRST)
    with pytest.raises(IntegrityError, match=r"nothing under task.model.weights_key = 'ema'; it has 'best', 'last'"):
        loaded(content, weights_key="ema")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_files_from_before_num_batches_tracked_load(library, keeps_metadata):
    state = weights(0, "resnet18", library)
    old = OrderedDict((name, value) for name, value in state.items() if not name.endswith("num_batches_tracked"))
    if keeps_metadata:
        old._metadata = state._metadata
    found = loaded(old, model=("resnet18", library))
    assert same(found, {**old, "bn1.num_batches_tracked": torch.tensor(0)})


@pytest.mark.parametrize("published", [True, False])
def test_the_names_of_torchvisions_published_densenets_load(published, monkeypatch):
    from torchvision.models._api import WeightsEnum

    state = weights(0, "densenet121", "torchvision", 1000 if published else CLASSES)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name): value for name, value in state.items()}
    if published:
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: old)
        assert same(source("densenet121", "torchvision", weights="DEFAULT").load(1000).state_dict(), state)
    else:
        assert same(loaded({"net": prefixed("module.", old)}, model=("densenet121", "torchvision")), state)


@pytest.mark.parametrize("path", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_versioned_state_dict_loads_with_and_without_its_versions(path, prefix):
    state = weights(0, "mnasnet0_5", "torchvision")
    content = state if not prefix else prefixed(prefix, state)
    assert same(loaded(content, path, model=("mnasnet0_5", "torchvision")), state)


def test_an_older_version_with_other_layers_is_refused_by_their_shape():
    state = weights(0, "mnasnet0_5", "torchvision")
    state["layers.0.weight"] = torch.ones(32, 3, 3, 3)
    state._metadata[""]["version"] = 1
    with pytest.raises(IntegrityError, match=r"'layers.0.weight' is \[32, 3, 3, 3\] in the weights"):
        loaded(state, model=("mnasnet0_5", "torchvision"))


def by_kind(change):
    return {name: change(value) if value.is_floating_point() else value for name, value in FIRST.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_load_as_float32(dtype):
    found = loaded(by_kind(lambda value: value.to(dtype)))
    assert same(found, by_kind(lambda value: value.to(dtype).float()))


def test_parameters_load_as_tensors_do():
    assert same(loaded(by_kind(nn.Parameter)), FIRST)


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
        (SETS["keys"][0] | {"x": 1}, "2 sets of weights"),
        (weights(0, "test_vit"), "another architecture: missing"),
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


@pytest.mark.parametrize(("larger", "smaller"), [("resnet34", "resnet18"), ("wide_resnet50_2", "resnet50")])
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


@pytest.mark.parametrize(
    ("model", "side", "other"),
    [
        (("test_vit", "timm"), 64, None),
        (("test_vit", "timm"), None, 64),
        (("test_coatnet", "timm"), 64, None),
        (("swin_tiny_patch4_window7_224", "timm"), 96, None),
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


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"outputs": [0, 1]}, SpecError, "outputs has 2 outputs, and the data has 3 classes"),
        ({"outputs": [0, 1, 5]}, IntegrityError, r"output 5, and w.pth has 3 outputs; give numbers from 0 to 2"),
        ({"outputs": [0, 1, 1]}, ValueError, "names an output twice"),
        ({"outputs": [0, 1, 2], "new_head": True}, ValueError, "remove outputs"),
    ],
)
def test_impossible_outputs_are_refused(options, error, said):
    with pytest.raises(error, match=said):
        loaded(FIRST, **options)


def test_weights_of_a_library_take_outputs_too(monkeypatch):
    from torchvision.models._api import WeightsEnum

    state = weights(0, "squeezenet1_1", "torchvision", 1000)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    model = source("squeezenet1_1", "torchvision", weights="DEFAULT", outputs=[7, 1, 999]).load(3)
    assert torch.equal(model.state_dict()["classifier.1.weight"], state["classifier.1.weight"][[7, 1, 999]])


@pytest.mark.parametrize("path", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_byobnet", "test_convnext"])
@pytest.mark.parametrize("naming", ["numbers", "other words"])
def test_other_names_pair_by_order_in_either_format(path, architecture, naming):
    state = weights(0, architecture)
    renamed = {
        f"entry.{index}" if naming == "numbers" else re.sub("layer|block|stage", "unit", name): value
        for index, (name, value) in enumerate(state.items())
    }
    if naming == "numbers" or renamed.keys() != state.keys():
        assert same(loaded(renamed, path, model=(architecture, "timm"), rename="order"), state)


def test_an_order_that_names_cannot_tell_is_refused():
    content = {re.sub(r"\d", lambda digit: "abcdefghij"[int(digit[0])], name): value for name, value in FIRST.items()}
    assert same(loaded(content, rename="order"), FIRST)
    with pytest.raises(IntegrityError, match=r"keeps no order, and the names do not tell that of 'conv.*' and"):
        loaded(content, "w.safetensors", rename="order")
    content.popitem()
    with pytest.raises(IntegrityError, match=r"do not have the shapes of the model's"):
        loaded(content, "w.safetensors", rename="order")


def test_options_of_later_versions_do_not_change_the_table_of_a_model_without_them():
    table = source().model_dump(mode="json")
    assert not {"weights_key", "outputs"} & table.keys()
    assert source(checkpoint="x", weights_key="ema").model_dump(mode="json")["weights_key"] == "ema"
