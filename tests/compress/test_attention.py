import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn

from pipeline.compress.attention import PlainAttention, SplitQkv, with_plain_attention
from pipeline.compress.targets import find_targets
from pipeline.errors import SpecError
from pipeline.task.inspection import inspect, layer_names


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)


def torchvision_vit() -> nn.Module:
    shape = {"image_size": 32, "patch_size": 16, "hidden_dim": 16, "mlp_dim": 32}
    return torchvision.models.VisionTransformer(**shape, num_layers=2, num_heads=2, num_classes=3)


def swin() -> nn.Module:
    shape = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": (2, 1), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", **shape, num_classes=3)


def beit() -> nn.Module:
    """Its attention reads the weight of ``qkv`` itself, and adds a bias of its own."""
    shape = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 2}
    return timm.create_model("beit_base_patch16_224", **shape, num_classes=3)


def ready(build: type[nn.Module]) -> nn.Module:
    """The model with every parameter drawn anew: some heads and biases begin at zero."""
    model = build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


MODELS = {"vit": vit, "torchvision's vit": torchvision_vit, "swin": swin, "beit": beit}


@torch.no_grad()
@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_an_arranged_model_gives_the_same_outputs_as_it_is_copied_traced_and_loaded(build, qkv):
    model, images = ready(build), torch.randn(3, 3, 32, 32)
    plain, expected = with_plain_attention(model, qkv), model(images)
    torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(copy.deepcopy(plain)(images), expected, rtol=1e-4, atol=1e-4)
    bare = with_plain_attention(build(), qkv)
    bare.load_state_dict(plain.state_dict())
    torch.testing.assert_close(bare.eval()(images), expected, rtol=1e-4, atol=1e-4)
    assert with_plain_attention(plain, qkv) is plain
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())
    if build is not swin:  # its masks are made by sizes
        traced = fx.Tracer().trace(plain, {"attn_mask": None, "is_causal": False} if build is vit else None)
        torch.testing.assert_close(fx.GraphModule(plain, traced)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_an_arranged_model_holds_its_weights_once_and_leaves_the_model_as_it_was(build):
    model = build().train()
    before = list(model.state_dict())
    plain = with_plain_attention(model, "split")
    memory = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert {tensor.untyped_storage().data_ptr() for tensor in plain.state_dict().values()} == memory
    assert list(model.state_dict()) == before
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in plain.modules())


def test_names_say_which_projection_a_layer_is():
    block = "encoder.layers.encoder_layer_0.self_attention"
    assert find_targets(with_plain_attention(torchvision_vit()), [f"{block}.*"]) == [
        f"{block}.in_proj",
        f"{block}.out_proj",
    ]
    split = find_targets(with_plain_attention(torchvision_vit(), "split"), [f"{block}.*"])
    assert split == [*(f"{block}.in_proj.{each}" for each in "qkv"), f"{block}.out_proj"]
    own = find_targets(with_plain_attention(vit(), "split"), ["blocks.0.attn.*"])
    assert own == [*(f"blocks.0.attn.qkv.{each}" for each in "qkv"), "blocks.0.attn.proj"]


def test_a_split_layers_parts_are_query_key_and_value():
    model, x = ready(vit), torch.randn(2, 5, 48)
    attention, split = model.blocks[0].attn, with_plain_attention(model, "split").blocks[0].attn
    silent = copy.deepcopy(split)
    nn.init.zeros_(silent.qkv.v.weight)
    nn.init.zeros_(silent.qkv.v.bias)
    assert torch.equal(silent(x), attention.proj.bias.expand(2, 5, 48))
    uniform = copy.deepcopy(split)
    nn.init.zeros_(uniform.qkv.q.weight)
    nn.init.zeros_(uniform.qkv.q.bias)
    mean = split.proj(split.qkv.v(x).mean(1, keepdim=True).expand(2, 5, 48))
    torch.testing.assert_close(uniform(x), mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_every_projection_is_called_and_so_can_be_adapted_but_where_a_model_reads_its_weight(qkv):
    for build in (vit, torchvision_vit, swin):
        plain = with_plain_attention(build(), qkv).eval()
        assert all(inspect(plain, torch.randn(1, 3, 32, 32)).positions.values())
    plain = with_plain_attention(beit(), qkv).eval()
    positions = inspect(plain, torch.randn(1, 3, 32, 32)).positions
    assert [name for name, count in positions.items() if not count] == [name for name in positions if "qkv" in name]


@pytest.mark.parametrize("build", [lambda: timm.create_model("test_resnet"), lambda: nn.Sequential(nn.Linear(3, 9))])
@pytest.mark.parametrize("qkv", ["fused", "split"])
def test_a_model_without_attention_is_returned_as_it_is(build, qkv):
    model = build()
    assert with_plain_attention(model, qkv) is model


def test_a_shared_module_is_replaced_once_and_stays_shared():
    tied = vit()
    tied.blocks[1].attn = tied.blocks[0].attn
    split = with_plain_attention(tied, "split")
    assert split.blocks[1].attn.qkv is split.blocks[0].attn.qkv
    assert isinstance(split.blocks[0].attn.qkv, SplitQkv)


class Asked(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, dtype=torch.float64, **options)


def tokens(count: int, *, batch_first: bool = True) -> Tensor:
    return torch.randn(*((4, count) if batch_first else (count, 4)), 12, dtype=torch.float64)


FUTURE = torch.ones(5, 5).triu(1).bool()
PADDED = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2, [False, True] * 2 + [False]])
CALLS = {
    "without weights": {"need_weights": False},
    "with weights": {},
    "with the weights of each head": {"average_attn_weights": False},
    "masked": {"attn_mask": FUTURE, "need_weights": False},
    "masked, with weights": {"attn_mask": FUTURE},
    "masked by numbers": {"attn_mask": torch.randn(5, 5, dtype=torch.float64), "need_weights": False},
    "masked by head": {"attn_mask": torch.randn(12, 5, 5, dtype=torch.float64)},
    "padded": {"key_padding_mask": PADDED, "need_weights": False},
    "masked and padded": {"attn_mask": FUTURE, "key_padding_mask": PADDED},
    "causal": {"attn_mask": FUTURE, "is_causal": True, "need_weights": False},
}
FORMS = {
    "batch first": {"batch_first": True},
    "tokens first": {},
    "without biases": {"batch_first": True, "bias": False},
}


@torch.no_grad()
@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_plain_attention_answers_as_torchs_own_does(call, options, qkv):
    model = Asked(**options)
    plain = with_plain_attention(model, qkv).attention
    assert isinstance(plain, PlainAttention)
    x, *others = (tokens(5, batch_first=options.get("batch_first", False)) for _ in range(3))
    for given in ((x, x, x), (x, *others)):
        expected, weights = model.attention(*given, **call)
        out, own = plain(*given, **call)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
        assert (own is None) == (weights is None)
        if weights is not None:
            torch.testing.assert_close(own, weights, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"batch_first": True}, {}], ids=["batch first", "tokens first"])
def test_plain_attention_takes_one_image_and_keys_of_another_number(options):
    model, x, memory = Asked(**options), torch.randn(5, 12).double(), torch.randn(7, 12).double()
    for given in ((x, x, x), (x, memory, memory)):
        torch.testing.assert_close(
            with_plain_attention(model).attention(*given), model.attention(*given), rtol=1e-9, atol=1e-9
        )


def test_dropout_acts_in_training_alone():
    plain, x = with_plain_attention(Asked(batch_first=True, dropout=0.5)).attention, tokens(5)
    for need_weights in (False, True):
        for training in (False, True):
            plain.train(training)
            (one, _), (other, _) = (plain(x, x, x, need_weights=need_weights) for _ in range(2))
            assert torch.equal(one, other) is not training


def test_a_causal_call_without_a_mask_is_refused_as_torch_does():
    x = tokens(5)
    for attention in (Asked(batch_first=True).attention, with_plain_attention(Asked(batch_first=True)).attention):
        with pytest.raises(RuntimeError, match="is_causal"):
            attention(x, x, x, is_causal=True)


LEFT = {
    "keys of another width": lambda: Asked(kdim=7, vdim=5),
    "biases for keys": lambda: Asked(add_bias_kv=True),
    "a zero token": lambda: Asked(add_zero_attn=True),
}


@pytest.mark.parametrize("build", LEFT.values(), ids=LEFT)
def test_attention_that_plain_layers_cannot_replace_is_left_and_its_layers_are_refused_by_name(build):
    model = build()
    assert with_plain_attention(model, "split") is model
    assert not [name for name in layer_names(model) if "att" in name]
    with pytest.raises(SpecError, match=r"att\w*\.out_proj', read by the attention layer that contains it"):
        find_targets(model, ["*.out_proj"])


class Own(nn.Module):
    def __init__(self, qkv: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj = qkv, nn.Linear(12, 12)


UNEQUAL = {
    "queries share keys": (nn.Linear(12, 12 + 2 * 6), "'0.qkv' has 24 outputs, and no layer beside it takes a third"),
    "four parts": (nn.Linear(12, 48), "'0.qkv' has 48 outputs"),
    "a convolution": (nn.Conv2d(12, 36, 1), "'0.qkv' is a Conv2d, not a Linear"),
}


@pytest.mark.parametrize(("qkv", "said"), UNEQUAL.values(), ids=UNEQUAL)
def test_a_layer_that_is_not_three_equal_parts_is_not_split_but_refused_by_name(qkv, said):
    model = nn.Sequential(Own(qkv))
    with pytest.raises(SpecError, match=f"{said}.*leave qkv fused"):
        with_plain_attention(model, "split")
    assert with_plain_attention(model, "fused") is model
