"""Archives of numpy arrays as checkpoints: with the names of the model, and as Google published ViT and BiT."""

import numpy as np
import pytest
import timm
import torch
from checkpoints import CLASSES, same, source, weights
from jax_files import bit_arrays, vit_arrays
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

from pipeline.errors import IntegrityError
from pipeline.task.models.timm import Timm

STATE = weights(0)
LISTED = tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 31)
NEWER = pytest.mark.skipif(not LISTED, reason="timm reads stacked blocks at the top of a file since 1.0.31 or before")


def loaded(arrays, architecture="test_resnet", classes=CLASSES, savez=np.savez, **options):
    savez("w.npz", **arrays)
    return source(architecture, checkpoint="w.npz", **options).load(classes).state_dict()


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed], ids=lambda savez: savez.__name__)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_arrays_under_the_names_of_the_model_load(savez, prefix):
    assert same(loaded({f"{prefix}{name}": value.numpy() for name, value in STATE.items()}, savez=savez), STATE)


def test_arrays_of_objects_are_refused_and_nothing_runs():
    with pytest.raises(IntegrityError, match=r"w\.npz is damaged or no checkpoint: .*allow_pickle"):
        loaded({"model": np.array({"a": 1}, object)})


def vit(classes=CLASSES):
    torch.manual_seed(1)
    model = source("test_vit").build(classes)
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("stacked", "prefix"),
    [
        (False, ""),
        (False, "opt/target/"),
        pytest.param(True, "", marks=NEWER),
        (True, "params/"),
        (True, "params/img/"),
    ],
)
def test_the_published_arrays_of_a_vision_transformer_load(stacked, prefix):
    model = vit()
    assert same(loaded(vit_arrays(model, stacked=stacked, prefix=prefix), "test_vit"), model.state_dict())


def test_published_arrays_of_other_classes_offer_what_other_checkpoints_do():
    model = vit(5)
    arrays, state = vit_arrays(model), model.state_dict()
    with pytest.raises(IntegrityError, match=r"'head\.\w+' has 5 classes, and the data has 3; .*new_head = true"):
        loaded(arrays, "test_vit")
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    assert same(loaded(arrays, "test_vit", new_head=True), body)
    chosen = {name: value[[4, 0, 2]] for name, value in state.items() if name not in body}
    assert same(loaded(arrays, "test_vit", outputs=[4, 0, 2]), {**body, **chosen})
    assert source("test_vit", checkpoint="w.npz").pretrained_classes() == 5


def test_published_arrays_without_a_head_need_a_new_one():
    arrays = {name: value for name, value in vit_arrays(vit()).items() if not name.startswith("head/")}
    with pytest.raises(IntegrityError, match=r"w\.npz holds no head: 'head.bias' is missing"):
        loaded(arrays, "test_vit")
    loaded(arrays, "test_vit", new_head=True)


@pytest.mark.parametrize(
    "more", ["pre_logits/kernel", "Transformer/encoderblock_9/LayerNorm_0/scale"], ids=["representation", "deeper"]
)
def test_arrays_that_the_loader_of_timm_does_not_read_are_refused(more):
    with pytest.raises(IntegrityError, match=f"another architecture: missing none, unexpected '{more}'"):
        loaded({**vit_arrays(vit()), more: np.ones((2, 2), np.float32)}, "test_vit")


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit2", "mixer_s32_224"])
def test_published_arrays_of_another_architecture_are_refused(architecture):
    with pytest.raises(IntegrityError, match="another architecture"):
        loaded(vit_arrays(vit()), architecture)


def test_the_published_arrays_of_bit_load_and_those_of_a_deeper_one_do_not(monkeypatch):
    def build(classes, layers=(1, 1, 2, 1)):
        torch.manual_seed(classes)
        return ResNetV2(layers, (64, 64, 64, 64), classes, stem_type="", conv_layer=StdConv2d, bottle_ratio=0.5)

    monkeypatch.setattr(Timm, "build", lambda self, classes: build(classes))
    torch.manual_seed(9)
    model = build(CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    assert same(loaded(bit_arrays(model), "resnetv2_50x1_bit"), model.state_dict())
    with pytest.raises(IntegrityError, match=r"another architecture: missing none, unexpected 'resnet/block3/unit03"):
        loaded(bit_arrays(build(CLASSES, (1, 1, 3, 1))), "resnetv2_50x1_bit")
