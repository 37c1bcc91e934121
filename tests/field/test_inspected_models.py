"""Models as people have them: wrapped, compiled, lazy, with computed weights, with heads in unusual places."""

import pytest
import timm.utils
import torch
import torchvision
from own_networks import IMAGES, Net, given, objective_of, round_trip, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from pipeline.adapt.contract import Draw
from pipeline.errors import RestoraError, SpecError
from pipeline.task.inspection import inspect


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def inner_compiled() -> nn.Module:
    net = Net()
    net.hidden = torch.compile(net.hidden)
    return net


def parallel_features() -> nn.Module:
    net = Net()
    net.conv = nn.DataParallel(net.conv)
    return net


WRAPPED = {
    "DataParallel": lambda: nn.DataParallel(Net()),
    "an average of weights": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "torch.compile": lambda: torch.compile(Net()),
    "a compiled DataParallel": lambda: torch.compile(nn.DataParallel(Net())),
    "timm's moving average": lambda: timm.utils.ModelEmaV3(Net()),
    "timm's earlier moving average": lambda: timm.utils.ModelEmaV2(Net()),
    "DataParallel within": parallel_features,
    "torch.compile within": inner_compiled,
}


@pytest.mark.parametrize("build", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_looked_through_and_the_checkpoint_fits_the_bare_model(build):
    round_trip(build, ["conv", "head"], bare=Net)
    round_trip(build, ["conv", "head"])


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


UNUSABLE = {
    "TorchScript": (lambda: torch.jit.script(Net()), r"TorchScript"),
    "a traced model": (lambda: torch.jit.trace(Net(), IMAGES[:1]), r"TorchScript"),
    "TorchScript within": (lambda: nn.Sequential(torch.jit.script(Net())), r"'0' of the model is TorchScript"),
    "a lazy layer": (lazy, r"'1' of the model is a LazyLinear that has no weights yet"),
    "no module": (lambda: Net().state_dict(), r"is a OrderedDict; give an nn.Module"),
    "quantized layers": (quantized, r"_packed_params.* which a checkpoint cannot hold"),
    "no values": (on_meta, r"meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("build", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_models_whose_layers_cannot_be_replaced_are_refused_by_name(build, words):
    with pytest.raises(RestoraError, match=words):
        given(build())


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def hooked(module: nn.Module) -> None:
    module.register_forward_hook(lambda layer, inputs, output: output * 2)


def scaled_by_a_hook(module: nn.Module) -> None:
    raw = nn.Parameter(module.weight.detach().clone())
    del module.weight
    module.register_parameter("raw", raw)
    module.register_forward_pre_hook(lambda layer, inputs: setattr(layer, "weight", layer.raw * 0.5))


def own_forward(module: nn.Module) -> None:
    module.forward = lambda x: F.linear(x, module.weight * 2, module.bias)


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own parametrization": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", Halved()),
    "own parametrization of a bias": lambda m: nn.utils.parametrize.register_parametrization(m, "bias", Halved()),
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "pruned by magnitude": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "pruned by structure": lambda m: prune.ln_structured(m, "weight", 0.5, n=2, dim=0),
    "a hook": hooked,
    "a weight made by a hook": scaled_by_a_hook,
    "a forward of its own": own_forward,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("called", [False, True], ids=["new", "called before"])
@pytest.mark.parametrize("change", COMPUTED.values(), ids=COMPUTED)
def test_layers_whose_weight_is_computed_are_no_targets_and_in_nobodys_way(change, called):
    def build() -> nn.Module:
        net = seeded(Net)
        change(net.hidden)
        if called:
            net(IMAGES)
        return net

    if change is not own_forward:  # a function of another layer cannot be copied with its layer
        round_trip(build, ["*"])
    assert objective_of(build(), ["*"]).targets == ["conv", "head"]
    with pytest.raises(SpecError, match=r"targets: 'hidden' matches 'hidden', a \w*Linear .*"):
        objective_of(build(), ["hidden"])
    assert any("'hidden' stays as it is: a" in note for note in given(build()).inspection.notes)


class Early(Net):
    """The classifier is defined first and called last."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.classifier, self.conv, self.hidden = nn.Linear(8, 4), nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class Pooled(nn.Module):
    """A convolution gives the logits of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.conv = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(inplace=True)), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(x).relu()).mean((2, 3))


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.head(self.features(x)) + self.other(self.features(x))) / 2


class Scaled(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(super().forward(x), (4,)).clamp(-3, 3).log_softmax(1)


class NoGradients(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class FrozenFeatures(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.features(x)
        return self.head(x)


HEADS = {
    "the last layer": (Net, ["head"]),
    "defined first": (Early, ["classifier"]),
    "a convolution before the pooling": (Pooled, ["classifier.0"]),
    "two heads": (TwoHeads, ["head", "other"]),
    "logits that are scaled": (Scaled, ["head"]),
    "a model that forbids gradients": (NoGradients, ["head"]),
    "features without gradients": (FrozenFeatures, ["head"]),
}


@pytest.mark.parametrize(("build", "names"), HEADS.values(), ids=HEADS)
def test_the_head_is_what_gives_the_logits(build, names):
    assert objective_of(build(), ["head"]).targets == names
    probing = objective_of(build(), ["head"], "head", "none").combination
    trained = probing.adapter.begin(probing.compressed, {}, Draw())
    assert {key.rpartition(".")[0] for key in trained} == set(names)
    dense = ["*", {"match": "head", "dense": True}]
    assert not set(objective_of(build(), dense).targets) & set(names)


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("timm/convnext_atto", {}, "head.fc"),
        ("timm/deit_tiny_distilled_patch16_224", {"img_size": 32}, "head head_dist"),
        ("timm/vit_tiny_patch16_224", {"img_size": 32}, "head"),
        ("timm/test_resnet", {}, "fc"),
        ("torchvision/squeezenet1_1", {}, "classifier.1"),
        ("torchvision/mobilenet_v3_small", {}, "classifier.3"),
        ("torchvision/densenet121", {}, "classifier"),
    ],
)
def test_the_heads_of_known_architectures_are_found(name, options, head):
    library, name = name.split("/")
    if library == "timm":
        model = timm.create_model(name, num_classes=4, **options)
    else:
        model = torchvision.models.get_model(name, num_classes=4)
    assert inspect(model.eval(), torch.randn(2, 3, 32, 32)).head == tuple(head.split())


def test_a_head_whose_weight_is_computed_is_named():
    model = Net()
    parametrizations.weight_norm(model.head)
    with pytest.raises(SpecError, match=r"'head' is 'head', a ParametrizedLinear whose weight is computed"):
        objective_of(model, ["head"])
