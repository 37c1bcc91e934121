"""Structured pruning of models whose code knows a width: it works, or names the layers that it leaves whole."""

import pytest
import torch
import torchvision
from tiny_studies import adapted, make_objective, make_spec
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm

from pipeline import Task
from pipeline.errors import SpecError
from pipeline.objective.outline import Outline
from pipeline.run.objectives import refuse_misfits
from pipeline.space import Values

IMAGES, LABELS = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4


COMPUTE = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": weight_norm,
    "masks": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


class Width(nn.Module):
    """Two convolutions and a classifier, with something between the convolutions that knows a width."""

    def __init__(self, kind: str, width: int = 16, joined: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        half = width // 2
        joined = joined or {"split": half, "slices": half, "glu": half, "pad": width + 4}.get(kind, width)
        self.kind, self.width = kind, width
        self.c1, self.c2, self.fc = nn.Conv2d(3, width, 3), nn.Conv2d(joined, 8, 3), nn.Linear(8, 4)
        match kind:
            case "buffer":
                self.register_buffer("shift", torch.linspace(-1, 1, width).view(-1, 1, 1))
            case "parameter":
                self.gain = nn.Parameter(torch.rand(width, 1, 1))
            case "group norm":
                self.norm = nn.GroupNorm(4, width)
            case "layer norm":
                self.norm = nn.LayerNorm([width, 10, 10])
            case "groups":
                self.grouped = nn.Conv2d(width, width, 1, groups=4)
            case "weight norm" | "old weight norm" | "masks":
                self.computed = COMPUTE[kind](nn.Conv2d(width, width, 1))

    def between(self, x: Tensor) -> Tensor:
        first, n = x[:, : self.width // 2], len(x)
        match self.kind:
            case "nothing":
                return x
            case "view":
                return x.view(n, self.width, -1).view(n, self.width, 10, 10)
            case "view of all":
                return x.reshape(-1, self.width * 100).view(-1, self.width, 10, 10)
            case "buffer":
                return x + self.shift
            case "parameter":
                return x * self.gain
            case "group norm" | "layer norm":
                return self.norm(x)
            case "groups":
                return self.grouped(x)
            case "weight norm" | "old weight norm" | "masks":
                return self.computed(x)
            case "shuffle":
                return x.view(n, 2, self.width // 2, 10, 10).transpose(1, 2).reshape(n, self.width, 10, 10)
            case "chunk":
                a, b = x.chunk(2, 1)
                return a * b.sigmoid()
            case "split":
                a, b = x.split(self.width // 2, 1)
                return a * b.sigmoid()
            case "slices":
                return first * x[:, self.width // 2 :].tanh()
            case "thirds":
                a, b, c = x.chunk(3, 1)
                return a * b.sigmoid() + c
            case "glu":
                return F.glu(x, 1)
            case "softmax":
                return x.softmax(1)
            case "flip":
                return x.flip(1)
            case "roll":
                return x.roll(3, 1)
            case "own mean":
                return x - x.mean(1, keepdim=True)
            case "pad":
                return F.pad(x, (0, 0, 0, 0, 0, self.c2.in_channels - self.width))
            case "concatenation":
                return torch.cat([x, x.relu()], 1)
            case kind:
                raise ValueError(kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c2(self.between(self.c1(x).relu())).relu().mean((2, 3)))


LOSES = {
    "nothing": {}, "chunk": {"joined": 8}, "thirds": {"width": 12, "joined": 4}, "concatenation": {"joined": 32},
}  # fmt: skip
"""What lets the first convolution lose channels."""
KEEPS = {
    "view": "code", "view of all": "code", "buffer": "buffer", "parameter": "parameter", "group norm": "'norm'",
    "layer norm": "'norm'", "groups": "'grouped'", "shuffle": "code", "softmax": "code", "flip": "code",
    "roll": "code", "own mean": "code", "split": "code", "slices": "code", "glu": "in an order", "pad": "code",
    "weight norm": "'computed', whose weight is computed", "old weight norm": "'computed'", "masks": "'computed'",
}  # fmt: skip
"""What keeps the first convolution whole, and a word of the reason."""
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
METHODS = pytest.mark.parametrize(
    "method", [{"method": "prune_magnitude"}, {"method": "prune_gradient", "batch_size": 8}], ids=["norms", "gradients"]
)
SHARES = pytest.mark.parametrize("keep", [0.5, 0.01])


def objective_of(model: nn.Module, method: dict, keep: float, targets=("c1", "c2", "fc")):
    spec = make_spec(combination={"compression": {**method, "keep": keep}, "targets": list(targets)}, batch_size=[8])
    task = Task(model, **dict.fromkeys(("train", "val", "test"), (IMAGES, LABELS)))
    return make_objective(spec, task)


def note_of(objective) -> str:
    (note,) = objective.combination.compressed.notes
    return note


@METHODS
@SHARES
@pytest.mark.parametrize(("kind", "shape"), LOSES.items(), ids=LOSES)
def test_channels_that_are_split_and_joined_leave_together(kind, shape, method, keep):
    model = Width(kind, **shape)
    objective = objective_of(model, method, keep)
    weights = objective.combination.compressed.weights
    joined = shape.get("joined", 16)
    ties = max(1, model.width // joined)
    units = model.width // ties
    assert weights["c1"].shape[0] == ties * max(1, round(keep * units))
    assert objective.combination.compressed_size.ratio > 1.2
    assert "of 2 layers, and all of fc" in note_of(objective)


@METHODS
@pytest.mark.parametrize(("kind", "word"), KEEPS.items(), ids=KEEPS)
def test_a_layer_whose_width_something_holds_stays_whole_and_is_named_with_the_reason(kind, word, method, caplog):
    objective = objective_of(Width(kind), method, 0.5)
    with caplog.at_level("INFO", "pipeline"):
        combination = objective.combination
        combination.compression.outline(combination.model, combination.targets, combination.task.train)
    weights = combination.compressed.weights
    assert (weights["c1"].shape[0], weights["c2"].shape[0]) == (16, 4)
    said = next(line for line in caplog.messages if "keeps all output channels of" in line)
    assert word in next(part for part in said.split("; ") if "'c1'" in part)
    assert "(50 %) of 1 layer, and all of c1" in note_of(objective)


@METHODS
@pytest.mark.parametrize("kind", KEEPS)
def test_a_model_that_can_lose_nothing_is_refused_by_layer_before_any_training(kind, method):
    objective = objective_of(Width(kind), method, 0.5, ["c1", "fc"])
    outline = Outline(objective.combination.task, objective.combination.spec, objective.combination.search)
    for combination in (outline, objective.combination):
        with pytest.raises(SpecError, match=r"combination .* can remove no output channel .*'c1'.*'fc'") as refused:
            refuse_misfits([combination])
        assert "choose other targets, another keep, or another compression" in str(refused.value)


@pytest.mark.parametrize(("keep", "rounding"), [(0.5, "ceil"), (0.99, "ceil"), (0.01, "int")])
def test_a_layer_of_one_channel_keeps_it(keep, rounding):
    method = {"method": "prune_magnitude", "rounding": rounding}
    objective = objective_of(Width("nothing", width=1), method, keep, ["c1", "c2"])
    if keep == 0.99:  # 7.92 of 8 channels round up
        with pytest.raises(SpecError, match=r"'c1': the share to keep of 1 rounds up to all; 'c2': the share .* of 8"):
            refuse_misfits([objective.combination])
    else:
        assert all(min(weight.shape) > 0 for weight in objective.combination.compressed.weights.values())


def test_everything_kept_is_no_error_and_needs_no_note():
    compressed = objective_of(Width("nothing"), {"method": "prune_magnitude"}, 1.0).combination.compressed
    assert (compressed.notes, compressed.weights["c1"].shape[0]) == ((), 16)


@METHODS
@SHARES
@pytest.mark.parametrize("kind", ["chunk", "thirds", "buffer", "group norm", "shuffle"])
def test_a_pruned_checkpoint_loads_into_the_bare_architecture_and_repeats_its_trial(kind, method, keep, tmp_path):
    shape = LOSES.get(kind, {})
    objective = objective_of(Width(kind, **shape), method, keep)
    lane = objective.lane(Values(1, "svd", 4.0, "adam", 1e-2, 8))
    objective.train_epoch([lane])
    whole = adapted(objective, lane.parameters, 4.0)
    from pipeline.export.pack import PackedMethod, pack_model, unpack_model

    combination = objective.combination
    tensors = pack_model(combination.compressed, combination.adapter, lane.parameters)
    packed = PackedMethod(combination.compression, combination.targets, combination.adapter, 4.0)
    loaded = unpack_model(Width(kind, **shape), tensors, packed)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGES), whole(IMAGES), rtol=1e-4, atol=1e-5)


def test_channels_that_cannot_be_followed_are_named_by_the_layers_before():
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    objective = objective_of(model, {"method": "prune_magnitude"}, 0.5, ["*"])
    with pytest.raises(SpecError, match=r"cannot follow the channels of this model after .*stage4\.1\.branch2\.6"):
        _ = objective.combination.compressed


@pytest.mark.filterwarnings("ignore:Maximum recursive depth")
def test_a_model_with_many_reshapes_loses_channels_in_seconds():
    blocks = {"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "window_size": [2, 2], "num_classes": 4}
    model = torchvision.models.SwinTransformer([4, 4], **blocks)
    compressed = objective_of(model, {"method": "prune_magnitude"}, 0.5, ["*"]).combination.compressed
    assert compressed.weights["features.5.1.mlp.0"].shape == (64, 32)
    assert compressed.weights["features.4.reduction"].shape == (32, 64)
