import pytest
import timm
import torch
from torch import nn

from pipeline.adapt.contract import Draw, trainable_counts
from pipeline.adapt.lanes import Lanes, attach
from pipeline.adapt.methods.tou import Tou
from pipeline.compress.attention import with_plain_attention
from pipeline.compress.contract import CompressedModel
from pipeline.compress.factorisation import FactorWeight
from pipeline.compress.layers import copy_sharing_tensors, matrix_shape, replace_weight
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.tou_factors import Tou as TouCompression
from pipeline.compress.targets import find_targets
from pipeline.compress.weight import DenseWeight
from pipeline.config.fields import Range
from pipeline.errors import SpecError


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=6, patch_size=3, embed_dim=12, num_heads=2, depth=2, num_classes=5
    )


def compressed_of(model: nn.Module, targets: list[str], **options: object) -> CompressedModel:
    return TouCompression(rank=2, **options).compress_model(model.eval(), find_targets(model, targets), {})


@pytest.mark.parametrize(("build", "targets"), [(cnn, ["*"]), (vit, ["attention", "mlp"])], ids=["cnn", "vit"])
@pytest.mark.parametrize("frozen", ["none", {"method": "intN", "bits": 8}], ids=["dense", "int8"])
def test_multiplied_back_the_layers_give_the_same_outputs(build, targets, frozen):
    compressed = compressed_of(build().double(), targets, frozen=frozen)
    adapter = Tou(sigma=Range(low=0.1, high=0.1))
    lane = adapter.begin(compressed, {}, Draw(extra={"sigma": 0.1}, seed=3))
    lane = {name: t if adapter.is_frozen(name) else t + 0.1 * torch.randn_like(t) for name, t in lane.items()}
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    unmerged = copy_sharing_tensors(compressed.model)
    attach(unmerged, adapter, Lanes([({name: tensor[None] for name, tensor in lane.items()}, [1.0])]))
    weights, left = adapter.absorb(compressed.weights, lane)
    merged = copy_sharing_tensors(compressed.model)
    merged.load_state_dict(dict(left), strict=False)
    for name, weight in weights.items():
        replace_weight(merged, name, weight.dense())
    assert not any(key.endswith((".first", ".second")) for key in left)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), unmerged(x), rtol=1e-9, atol=1e-9)
        assert (merged(x) - compressed.model(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("ffn", "trained"), [("trained", 24_828_772), ("frozen", 11_511_652)])
def test_a_vit_of_factors_trains_the_published_number_of_parameters(ffn, trained):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", num_classes=100)
    model = with_plain_attention(model.to_empty(device="cpu"), "split")
    weights = {}
    for name in find_targets(model, ["attention", "mlp"]):
        out, inner = matrix_shape(model.get_submodule(name))
        factors = DenseWeight(torch.empty(out, 288)), DenseWeight(torch.empty(288, inner))
        weights[name] = FactorWeight(*factors, torch.empty(0))
    adapter = Tou(ffn=ffn)
    lane = adapter.begin(CompressedModel(model, weights, model), {}, Draw())
    assert sum(trainable_counts(adapter, weights, lane).values()) == trained


def test_noise_is_added_to_both_factors_but_not_to_a_quantised_one():
    adapter = Tou(sigma=Range(low=0.1, high=0.1))
    for frozen, moves in (("none", True), ({"method": "intN", "bits": 8}, False)):
        compressed = compressed_of(cnn(), ["*"], frozen=frozen)
        still, noisy, other = (
            adapter.begin(compressed, {}, Draw(extra={"sigma": sigma}, seed=seed))
            for sigma, seed in ((0.0, 1), (0.1, 1), (0.1, 2))
        )
        noise = noisy["4.second"] - still["4.second"]
        assert noise.std() == pytest.approx(0.1, rel=0.2)
        assert not torch.equal(noisy["4.second"], other["4.second"])
        assert torch.equal(noisy["4.first"], still["4.first"]) != moves


def test_a_model_without_factors_is_refused():
    model = cnn()
    with pytest.raises(SpecError, match="choose compression 'tou' or 'svd'"):
        Tou().begin(Int1().compress_model(model, ["4"], {}), {}, Draw())
