"""Which weights of a file are loaded: keys, prefixes, leftovers, several sets, and names of earlier versions."""

import logging
import re
from collections import OrderedDict

import pytest
import torch
from checkpoints import CLASSES, loaded, same, source, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import IntegrityError

KEYS = ["model", "state_dict", "model_state_dict", "net", "weights", "params", "module", "ema", "generator", "any key"]
WRAPPERS = ["module", "_orig_mod", "model", "net", "backbone", "encoder", "student", "_forward_module", "a.b"]
FIRST, SECOND = weights(0), weights(1)
BACKBONE = {name: value for name, value in FIRST.items() if not name.startswith("fc.")}


def prefixed(prefix, state=FIRST):
    return {f"{prefix}{name}": value for name, value in state.items()}


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
def test_a_set_in_several_parts_is_put_together(content, caplog):
    caplog.set_level(logging.INFO)
    assert same(loaded(content), FIRST)
    assert "left out" not in caplog.text


@pytest.mark.parametrize("model", [("test_resnet", "timm"), ("mnasnet0_5", "torchvision")], ids=str)
@pytest.mark.parametrize(
    "wrapper", [torch.optim.swa_utils.AveragedModel, torch.nn.DataParallel, torch.compile], ids=lambda one: one.__name__
)
def test_the_state_of_a_wrapped_model_loads_with_its_versions(wrapper, model):
    inner = source(*model).build(CLASSES)
    assert same(loaded(wrapper(inner).state_dict(), model=model), inner.state_dict())


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f2"])
def test_arrays_of_numpy_load_in_any_byte_order(kind):
    arrays = {name: value.numpy() for name, value in FIRST.items()}
    arrays |= {name: value.astype(kind) for name, value in arrays.items() if value.dtype.kind == "f"}
    for value in arrays.values():
        value.flags.writeable = False
    found = loaded({"model": arrays})
    assert all((found[name].numpy() == value).all() for name, value in arrays.items())


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
    assert same(loaded(content, weights_key=f"{second}."), SECOND)


def test_sets_of_two_precisions_are_asked_about():
    content = {"fp32": FIRST, "fp16": {name: value.half() for name, value in FIRST.items()}}
    with pytest.raises(IntegrityError, match=r'2 sets .* = "fp32" or "fp16"'):
        loaded(content)
    assert same(loaded(content, weights_key="fp32"), FIRST)


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


@pytest.mark.parametrize("path", ["w.safetensors", "w.pth"])
def test_one_of_two_sets_under_other_names_pairs_by_order(path):
    content = {
        f"{key}.{name.replace('layer', 'unit')}": value
        for key, state in (("net", FIRST), ("ema", SECOND))
        for name, value in state.items()
    }
    assert same(loaded(content, path, rename="order", weights_key="net"), FIRST)
    assert same(loaded(content, path, rename="order", weights_key="ema"), SECOND)


@pytest.mark.parametrize("path", ["w.safetensors", "w.pth"])
def test_weights_of_other_classes_pair_by_order_in_either_format(path):
    state = weights(0, classes=7)
    content = {name.replace("layer", "unit"): value for name, value in state.items()}
    with pytest.raises(IntegrityError, match=r"'fc.weight' has 7 classes, and the data has 3"):
        loaded(content, path, rename="order")
    body = {name: value for name, value in state.items() if name in BACKBONE}
    assert same(loaded(content, path, rename="order", new_head=True), body)
    chosen = {name: value[[6, 0, 3]] for name, value in state.items() if name not in BACKBONE}
    assert same(loaded(content, path, rename="order", outputs=[6, 0, 3]), {**body, **chosen})
