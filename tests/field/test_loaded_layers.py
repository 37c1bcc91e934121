"""Layers of every kind come back from a checkpoint as they were trained, with every adapter and compression."""

from collections.abc import Iterator

import pytest
import timm
import torch
import torchvision
from exported_models import write
from methods import changed, each_label, mlp
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear
from torch import Tensor, nn

from pipeline import load
from pipeline.adapt.contract import Adapter
from pipeline.adapt.methods.dora import Dora
from pipeline.adapt.methods.full import Full
from pipeline.adapt.methods.lora import Lora
from pipeline.adapt.methods.no_adapter import NoAdapter
from pipeline.adapt.methods.tou import Tou
from pipeline.compress.contract import Compression
from pipeline.compress.methods.int1 import Int1
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.methods.svd import Svd
from pipeline.compress.structured_pruning import StructuredPruning
from pipeline.config.registry import ADAPTERS, COMPRESSIONS
from pipeline.errors import IntegrityError, RestoraError, SpecError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own

LAYERS = {
    "linear": lambda: nn.Linear(6, 8),
    "linear without bias": lambda: nn.Linear(6, 8, bias=False),
    "linear of timm": lambda: Linear(6, 8),
    "one output": lambda: nn.Linear(6, 1),
    "convolution": lambda: nn.Conv2d(6, 8, 3),
    "1 x 1": lambda: nn.Conv2d(6, 8, 1),
    "groups": lambda: nn.Conv2d(6, 8, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 12, 3, groups=6),
    "circular": lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
    "reflect, even kernel": lambda: nn.Conv2d(6, 8, (2, 3), padding=(1, 0), padding_mode="reflect"),
    "replicate, groups": lambda: nn.Conv2d(6, 8, 3, padding=2, padding_mode="replicate", groups=2, bias=False),
    "same, dilated": lambda: nn.Conv2d(6, 8, 3, dilation=2, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(6, 8, (4, 2), padding="same"),
    "valid, strided": lambda: nn.Conv2d(6, 8, (1, 5), stride=(2, 1), padding="valid", bias=False),
    "same of timm": lambda: Conv2dSame(6, 8, 3, stride=2),
    "same of timm, groups": lambda: Conv2dSame(6, 8, 2, stride=2, dilation=2, groups=2, bias=False),
}


OTHERS = [kind for kind in LAYERS if kind != "linear"]


class Net(nn.Module):
    """One layer between two others that stay as they are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = LAYERS[kind]()
        self.channels = -1 if isinstance(self.layer, nn.Linear) else 1
        self.norm = nn.BatchNorm1d(len(self.layer.weight))
        self.head = nn.Linear(len(self.layer.weight), 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.movedim(1, self.channels)).movedim(self.channels, 1)
        return self.head(self.norm(y.relu().flatten(2).mean(2)))


def assert_comes_back(folder, build, methods: tuple[Compression, Adapter], x: Tensor, **options) -> None:
    """The checkpoint gives the outputs of training, merged or not, and the merged tensors fit a bare model."""
    torch.manual_seed(0)
    try:
        trained = write(folder, build(), methods, *x.shape[1:], **options)
    except SpecError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        y = trained(x)
        close = 1e-5 * float(y.abs().max())
        torch.testing.assert_close(load(folder, model=build())(x), y, rtol=0, atol=close)
        merged, bare = load(folder, model=build(), merge=True), build().eval()
        assert [type(module) for module in merged.modules()] == [type(module) for module in bare.modules()]
        if isinstance(methods[0], StructuredPruning):
            assert sum(map(torch.numel, merged.parameters())) < sum(map(torch.numel, bare.parameters()))
        else:
            bare.load_state_dict(merged.state_dict(), strict=True)
            torch.testing.assert_close(bare(x), y, rtol=0, atol=close)
        torch.testing.assert_close(merged(x), y, rtol=0, atol=close)


def adapted_kinds() -> Iterator[tuple[str, Adapter]]:
    """Every kind of layer with each adapter by default; other options with a linear layer and two kinds in turn."""
    yield from ((kind, method()) for method in ADAPTERS for kind in LAYERS)
    for turn, adapter in enumerate(changed(ADAPTERS)):
        yield from ((kind, adapter) for kind in ("linear", *(OTHERS[(2 * turn + k) % len(OTHERS)] for k in (0, 1))))


@pytest.mark.parametrize(("kind", "adapter"), list(adapted_kinds()), ids=each_label)
def test_every_kind_of_layer_comes_back_with_every_adapter(kind, adapter, tmp_path):
    compression = Svd(rank=2) if isinstance(adapter, Tou) else Int1()
    assert_comes_back(
        tmp_path / "c", lambda: Net(kind), (compression, adapter), torch.randn(3, 6, 9, 9), targets=("layer",)
    )


ADAPTED = [Lora(), Lora(scales=True), Dora(), Full(), NoAdapter()]


def compressed_and_adapted() -> Iterator[tuple[Compression, Adapter]]:
    """Each compression by default with all of ``ADAPTED``; other options with two of them in turn."""
    yield from ((method(), adapter) for method in COMPRESSIONS for adapter in ADAPTED)
    for turn, compression in enumerate(changed(COMPRESSIONS)):
        yield from ((compression, ADAPTED[(2 * turn + k) % len(ADAPTED)]) for k in (0, 1))


@pytest.mark.parametrize(("compression", "adapter"), list(compressed_and_adapted()), ids=each_label)
def test_every_compression_comes_back(compression, adapter, tmp_path):
    assert_comes_back(tmp_path / "c", mlp, (compression, adapter), torch.randn(3, 3, 32, 32))


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_classes=3)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=3)


def resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)


def tf_efficientnet() -> nn.Module:
    return timm.create_model("test_efficientnet", num_classes=3, pad_type="same")


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=3)


CALLED = {swin: ("mlp", "head")}
"""Targets of models whose attention reads the weights of its layers instead of calling them; ``tou`` trains all."""
PAIRS = [(Int1(), Lora()), (Int1(), Dora()), (Svd(rank=2), Tou())]
CASES = [
    (build, methods)
    for build in (vit, torchvision_vit, resnet, tf_efficientnet, swin)
    for methods in PAIRS[: 2 if build in CALLED else 3]
]


@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize(
    ("build", "methods"), CASES, ids=[f"{build.__name__}-{methods[1].name}" for build, methods in CASES]
)
def test_whole_models_come_back_and_merge_into_their_own_attention(build, methods, qkv, tmp_path):
    targets = CALLED.get(build, ("*",))
    assert_comes_back(tmp_path / "c", build, methods, torch.randn(3, 3, 32, 32), qkv=qkv, targets=targets)


@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize("build", [mlp, resnet, vit])
def test_a_pruned_model_is_merged_into_the_bare_architecture_with_fewer_channels(build, qkv, tmp_path):
    x = torch.randn(3, 3, 32, 32)
    assert_comes_back(tmp_path / "c", build, (PruneMagnitude(keep=0.5), Lora()), x, qkv=qkv)


class Shared(nn.Module):
    """One layer under two names, and in a list that is no part of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.second, self.unregistered = self.first, [self.first]
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).relu())


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).relu())


def test_a_layer_with_two_names_stays_one_layer(tmp_path):
    assert_comes_back(tmp_path / "c", Shared, (Int1(), Lora()), torch.randn(5, 12))
    for merge in (False, True):
        model = load(tmp_path / "c", model=Shared(), merge=merge)
        assert model.first is model.second is model.unregistered[0]


def test_tied_weights_are_merged_unless_their_adapters_differ(tmp_path):
    assert_comes_back(tmp_path / "c", Tied, (Int1(), Lora()), torch.randn(5, 12), targets=("head",))
    assert_comes_back(tmp_path / "c", Tied, (Int1(), NoAdapter()), torch.randn(5, 12))
    write(tmp_path / "c", Tied(), (Int1(), Lora()), 12)
    with pytest.raises(UsageError, match=r"'second.weight' and 'first.weight' .* trained apart; load it without merge"):
        load(tmp_path / "c", model=Tied(), merge=True)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_encoder_calls_its_adapted_layers(norm_first, tmp_path):
    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True, norm_first=norm_first)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        return nn.Sequential(encoder, nn.Flatten(), nn.Linear(48, 3))

    assert_comes_back(tmp_path / "c", build, (Int1(), Lora()), torch.randn(5, 4, 12))


def test_a_model_that_cannot_take_the_tensors_is_refused_in_a_sentence(tmp_path):
    write(tmp_path / "c", mlp(), (Int1(), Lora()), 3, 32, 32)
    loaded = load(tmp_path / "c", model=mlp())
    with pytest.raises(UsageError, match=r"'2' has an adapter; give a new instance"):
        load(tmp_path / "c", model=loaded)
    with torch.device("meta"), pytest.raises(IntegrityError, match=r"'2' .* on the meta device"):
        load(tmp_path / "c", model=mlp())
    for merge in (False, True):
        with pytest.raises(RestoraError, match="another architecture"):
            load(tmp_path / "c", model=resnet(), merge=merge)
