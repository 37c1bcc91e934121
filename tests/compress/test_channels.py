import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.compress import channels
from pipeline.compress.channel_shapes import fit_shapes
from pipeline.compress.channels import prune_channels
from pipeline.compress.layers import copy_sharing_tensors, weight_matrix
from pipeline.compress.targets import find_targets
from pipeline.errors import SpecError


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)


def flattened() -> nn.Module:
    """Every channel is four inputs of the layer after it."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.PReLU(6), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )


MODELS = {
    "mlp": (mlp, 4),
    "flattened": (flattened, 16),
    "residual": (lambda: timm.create_model("test_resnet", num_classes=3), 32),
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=3), 32),
    "depthwise": (lambda: timm.create_model("test_efficientnet", num_classes=3), 32),
    "squeezed": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), 32),
    "vit": (vit, 32),
}
EACH_MODEL = pytest.mark.parametrize(("build", "side"), MODELS.values(), ids=MODELS)


def settled(build, side: int) -> tuple[nn.Module, torch.Tensor]:
    """A model of random batch norms, in eval mode, and an image for it."""
    model = build()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval(), torch.randn(1, 3, side, side)


def norms(model: nn.Module, targets: list[str]) -> dict[str, torch.Tensor]:
    return {name: weight_matrix(model.get_submodule(name)).norm(dim=1) for name in targets}


def halved(model: nn.Module, image: torch.Tensor, targets: list[str] | None = None) -> channels.PrunedModel:
    targets = targets or find_targets(model, ["*"])
    return prune_channels(model, targets, image, norms(model, targets), lambda _, units: max(1, units // 2))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def silence(layer: nn.Module, lost: torch.Tensor) -> None:
    """Let some channels of a layer, or of a batch norm, give zeros."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        silent = parameter.detach().clone()
        silent[lost] = 0
        layer.register_parameter(name, nn.Parameter(silent))


def silent(model: nn.Module, pruned: channels.PrunedModel) -> nn.Module:
    """The whole model with zeros for all rows that the pruned one lost, and for what batch norms make of them."""
    dead = copy_sharing_tensors(model)
    for name, rows in pruned.rows.items():
        layer = dead.get_submodule(name)
        silence(layer, ~torch.isin(torch.arange(len(layer.weight)), rows))
    for name, module in dead.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            silence(module, ~torch.isin(module.running_mean, pruned.model.get_submodule(name).running_mean))
    return dead


@EACH_MODEL
def test_channels_that_are_dead_leave_without_changing_an_output(build, side):
    model, image = settled(build, side)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = halved(model, image)
    x = torch.randn(4, *image.shape[1:])
    with torch.no_grad():
        torch.testing.assert_close(pruned.model(x), silent(model, pruned)(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(pruned.model(x), model(x), rtol=1e-2)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert not any(parameter.requires_grad for parameter in pruned.model.parameters())


@EACH_MODEL
def test_every_layer_but_the_classifier_and_the_residual_stream_of_a_transformer_loses_channels(build, side):
    model, image = settled(build, side)
    pruned = halved(model, image)
    targets = find_targets(model, ["*"])
    stream = {name for name in targets if name.endswith(("patch_embed.proj", "attn.proj", "fc2"))}
    assert set(targets) - set(pruned.rows) == {targets[-1], *(stream if build is vit else ())}
    for name, rows in pruned.rows.items():
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(pruned.model.get_submodule(name).weight) == len(rows) < len(model.get_submodule(name).weight)


@EACH_MODEL
def test_a_bare_architecture_takes_the_shapes_of_a_pruned_model_and_computes_the_same(build, side):
    model, image = settled(build, side)
    pruned = halved(model, image).model
    bare = build().eval()
    fit_shapes(bare, pruned.state_dict())
    assert shapes(bare) == shapes(pruned)
    bare.load_state_dict(pruned.state_dict())
    assert [str(module) for module in bare.modules()] == [str(module) for module in pruned.modules()]
    with torch.no_grad():
        torch.testing.assert_close(bare(image), pruned(image))


def test_the_model_that_a_bare_one_shares_its_tensors_with_keeps_its_shapes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    image = torch.randn(1, 3, 8, 8)
    before, out = shapes(model), model(image)
    small = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    bare = copy_sharing_tensors(model)
    fit_shapes(bare, small.state_dict())
    assert shapes(bare) == shapes(small)
    assert shapes(model) == before
    torch.testing.assert_close(model(image), out)


def test_shapes_that_are_the_same_or_larger_or_of_another_kind_change_nothing():
    bare = mlp()
    before = {name: id(tensor) for name, tensor in bare.named_parameters()}
    fit_shapes(
        bare,
        {
            **mlp().state_dict(),
            "1.weight": torch.zeros(3),
            "3.weight": torch.zeros(2, 2, 2),
            "5.weight": torch.zeros(3, 9),
        },
    )
    assert {name: id(tensor) for name, tensor in bare.named_parameters()} == before


def test_the_rows_of_lowest_score_leave_and_the_first_of_equals_stays():
    model, image = settled(mlp, 4)
    scores = {"1": torch.tensor([0.0, 5, 1, 5, 2, 3, 4, 5, 5, 5, 5, 5]), "3": torch.ones(8)}
    pruned = prune_channels(model, ["1", "3"], image, scores, lambda _, units: units - 4)
    assert pruned.rows["1"].tolist() == [1, 3, 6, 7, 8, 9, 10, 11]
    assert pruned.rows["3"].tolist() == [0, 1, 2, 3]
    assert torch.equal(pruned.model[1].weight, model[1].weight[pruned.rows["1"]])
    assert torch.equal(pruned.model[3].weight, model[3].weight[pruned.rows["3"]][:, pruned.rows["1"]])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.inner(x)))


def test_scores_of_layers_that_are_added_are_summed():
    scores = {"stem": torch.tensor([9.0, 0, 3, 3, 1, 1]), "inner": torch.tensor([0.0, 9, 2, 3, 1, 2])}
    pruned = prune_channels(Residual(), list(scores), torch.randn(1, 5), scores, lambda _, units: 3)
    assert {name: rows.tolist() for name, rows in pruned.rows.items()} == {"stem": [0, 1, 3], "inner": [0, 1, 3]}
    assert pruned.model.head.in_features == 3


def test_a_layer_that_is_tied_with_one_that_is_no_target_stays_whole():
    model = Residual()
    assert prune_channels(model, ["stem"], torch.randn(1, 5), {"stem": torch.ones(6)}, lambda _, units: 3).rows == {}
    assert "layer1.0.conv2" not in halved(*settled(*MODELS["residual"]), targets=["layer1.0.conv2"]).rows


def test_a_depthwise_convolution_that_is_no_target_goes_with_the_layer_before_it():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 3, 1), nn.Flatten(), nn.Linear(48, 2)
    )
    pruned = halved(model, torch.randn(1, 3, 6, 6), ["0"])
    assert pruned.rows.keys() == {"0", "1"}
    assert (pruned.model[1].groups, pruned.model[1].in_channels, pruned.model[2].in_channels) == (4, 4, 4)
    assert halved(model, torch.randn(1, 3, 6, 6), ["1"]).rows == {}


def test_attention_loses_whole_heads_by_the_sum_of_their_query_key_and_value():
    model, image = settled(vit, 32)
    name, heads = "blocks.0.attn.qkv", model.blocks[0].attn.num_heads
    score = torch.ones(3, heads, 16)
    score[1, 1] = 0.5
    pruned = prune_channels(model, [name], image, {name: score.flatten()}, lambda _, units: units - 1)
    kept = [row for row in range(144) if row // 16 % 3 != 1]
    assert pruned.rows[name].tolist() == kept
    attention = pruned.model.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.proj.in_features) == (heads - 1, 16, 32)


class Shuffled(nn.Module):
    """Mixes its hidden units in a way that no graph of calls shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(self.first(x).softmax(1))))


def test_a_layer_stays_whole_whose_channels_change_others_when_they_leave_and_the_rest_does_not():
    model = Shuffled()
    nn.init.zeros_(model.head.weight)  # a classifier that starts at zero hides nothing
    assert halved(model, torch.randn(1, 4)).rows.keys() == {"second"}


def test_grouped_convolutions_and_what_feeds_them_stay_whole():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 3)
    )
    assert halved(model, torch.randn(1, 3, 2, 2)).rows.keys() == {"3"}


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(SpecError, match=r"pip install 'restora\[pruning\]'"):
        halved(mlp(), torch.randn(1, 3, 4, 4))


def test_a_model_that_the_package_cannot_follow_is_refused():
    model, image = settled(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=3), 32)
    with pytest.raises(SpecError, match="cannot follow the channels"):
        halved(model, image)
