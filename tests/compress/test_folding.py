import pytest
import timm
import torch
from torch import nn

from pipeline.compress.folding import FoldedNorm, fold_batch_norms, folded_norms, kept_norms_note, reshape_folded
from pipeline.errors import IntegrityError, SpecError
from pipeline.task.inspection import layer_names


def settled(model: nn.Module, *shape: int) -> tuple[nn.Module, torch.Tensor]:
    """A frozen model whose norms have seen something, and images for it."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        model.train()(torch.randn(16, *shape) * 2 + 1)
    return model.eval().requires_grad_(False), torch.randn(5, *shape)


def convolutions(bias: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=bias),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.BatchNorm2d(8, affine=False),
        nn.Flatten(),
        nn.Linear(32, 6),
        nn.BatchNorm1d(6),
        nn.Linear(6, 3),
    )


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_model_gives_the_same_logits_without_any_norm(bias):
    model, images = settled(convolutions(bias), 3, 6, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norms(model, images)
    assert folded_norms(folded) == {"1": "0", "4": "3", "7": "6"}
    assert kept_norms_note(folded) is None
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
    assert layer_names(folded) == layer_names(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv2_035"])
def test_norms_that_apply_an_activation_leave_it(name):
    model, images = settled(timm.create_model(name, num_classes=4), 3, 32, 32)
    folded = fold_batch_norms(model, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-3)


def test_a_bare_architecture_takes_the_tensors_of_a_folded_model():
    model, images = settled(convolutions(), 3, 6, 6)
    folded, bare = fold_batch_norms(model, images), convolutions().eval()
    reshape_folded(bare, folded_norms(folded))
    bare.load_state_dict(folded.state_dict())
    assert isinstance(bare[1], FoldedNorm)
    assert torch.equal(bare(images), folded(images))


def test_an_architecture_without_the_norms_is_refused():
    with pytest.raises(IntegrityError, match="of another architecture"):
        reshape_folded(nn.Sequential(nn.Linear(3, 2)), {"bn1": "conv1"})


class Shared(nn.Module):
    """A norm whose layer is read elsewhere, too, one before an activation, and one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.norm3, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        y = y + self.norm1(y)
        y = self.norm3(self.conv2(self.norm2(torch.relu(y))))
        return self.head(y.mean((2, 3)))


def test_norms_that_cannot_be_folded_stay_and_are_named():
    model, images = settled(Shared(), 3, 6, 6)
    folded = fold_batch_norms(model, images)
    assert folded_norms(folded) == {"norm3": "conv2"}
    assert kept_norms_note(folded) == (
        "batch norms that cannot be folded into one layer before them stay: 'norm1' and 'norm2'"
    )
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(self.norm(self.conv(x)))).mean((2, 3)))


class Sequences(nn.Module):
    """A norm over the places of a sequence, behind a layer with as many outputs, or others."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.proj, self.norm, self.head = nn.Linear(4, outputs), nn.BatchNorm1d(12), nn.Linear(12 * outputs, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.proj(x.flatten(1, 2))).flatten(1))


OVER_PLACES = "'norm': it normalises the second axis, and the outputs of layer 'proj' are on the last"
NONE = {
    "no norm": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), "it has none"),
    "called twice": (Twice, "'norm': layer 'conv' before it is called more than once, or shares its weight"),
    "before the layer": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 4), nn.Flatten()),
        "'0': it follows no Linear or Conv2d layer directly",
    ),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()),
        "'1': it normalises by the statistics of each batch",
    ),
    "over other places": (lambda: Sequences(5), OVER_PLACES),
    "over as many places": (lambda: Sequences(12), OVER_PLACES),
}


@pytest.mark.parametrize(("build", "why"), NONE.values(), ids=NONE)
def test_a_model_none_of_whose_norms_can_be_folded_is_refused(build, why):
    model, images = settled(build(), 3, 4, 4)
    with pytest.raises(SpecError, match='batch_norm = "folded", but no batch norm of the model can be') as raised:
        fold_batch_norms(model, images)
    assert why in str(raised.value)
