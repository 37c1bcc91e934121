"""Outputs, shared tensors, attention, extra state and single layers of models of one's own."""

import pytest
import torch
import torchvision
from own_networks import IMAGES, LABELS, Net, given, objective_of, round_trip, seeded, trained
from torch import Tensor, nn

import pipeline
from pipeline.config.registry import MODELS
from pipeline.errors import IntegrityError, UsageError
from pipeline.task.inspection import main_logits


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Rows(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.reshape(-1, 8))


class Mixed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0, keepdim=True)


class Wide(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, None, None]


class Pair(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class Numbers(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


class Squeezed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class Binary(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


class Fussy(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("pixel_values")


OUTPUTS = {
    "several rows for an image": (Rows, r"returns 48 rows of logits for 2 images of shape \[3, 8, 8\]"),
    "one row for all images": (Mixed, r"returns 1 rows of logits for 2 images"),
    "a map for each class": (Wide, r"returns torch.float32 \[2, 4, 1, 1\] for 2 images"),
    "a pair": (Pair, r"returns tuple for 2 images; it must return logits"),
    "no axis of images for one image": (Squeezed, r"returns torch.float32 \[4\] for 1 image; .*squeeze\(\)"),
    "one logit": (Binary, r"returns one logit per image; give a model with one per class"),
    "classes": (Numbers, r"returns torch.int64 \[2\]"),
    "an error of its own": (Fussy, r"cannot take images of the train part, torch.float32 \[3, 8, 8\]: KeyError"),
}


@pytest.mark.parametrize(("build", "words"), OUTPUTS.values(), ids=OUTPUTS)
def test_other_outputs_than_one_row_of_logits_an_image_are_refused_in_a_sentence(build, words):
    with pytest.raises(IntegrityError, match=words):
        given(build())


def bytes_once(model: nn.Module) -> int:
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


class Twice(Net):
    """The convolution and the hidden layer have a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.ModuleDict({"first": self.conv, "second": self.hidden, "norm": self.norm})

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body["first"](x)).relu()
        return self.head(self.body["second"](x.mean((2, 3))).relu())


class Tied(Net):
    """Two layers share a weight, and their biases differ."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)
        self.other.weight = self.hidden.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(self.features(x)).relu())


class Looped(Net):
    """One layer is called twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(x)).relu())


@pytest.mark.parametrize("adapter", ["lora", "dora", "full", "head", "none"])
@pytest.mark.parametrize("targets", [["*"], ["head"], ["hidden"], ["hidden", "head"]], ids=str)
@pytest.mark.parametrize("build", [Twice, Tied, Looped])
def test_what_a_model_holds_under_two_names_is_counted_and_stored_once(build, targets, adapter):
    once = bytes_once(build())
    card = round_trip(build, targets, adapter)
    assert card["size"]["dense_bytes"] == once
    kept_apart = build is Tied and (adapter == "full" or targets != ["*"])
    assert card["size"]["tensor_bytes"] <= once + 8 * 8 * 4 * kept_apart + 300


def test_a_layer_is_a_target_by_any_of_its_names():
    assert objective_of(Twice(), ["body.first"]).targets == ["conv"]
    assert objective_of(Twice(), ["body.*"]).targets == ["conv", "hidden"]
    assert any("'body.first.weight' is 'conv.weight'" in note for note in given(Twice()).inspection.notes)


def test_a_tie_that_training_kept_is_kept_by_merging_and_a_lost_one_is_said():
    round_trip(Tied, ["head"])
    merged = pipeline.load("saved", model=Tied(), merge=True)
    assert merged.other.weight is merged.hidden.weight
    round_trip(Tied, ["hidden"])
    with pytest.raises(UsageError, match=r"'other.weight' and 'hidden.weight' to be one tensor"):
        pipeline.load("saved", model=Tied(), merge=True)


class Listed(Net):
    """Calls its layers from a plain list and a plain table, beside their names."""

    def __init__(self) -> None:
        super().__init__()
        self.order, self.table, self.pair = [self.hidden], {"head": self.head}, (self.conv,)

    def forward(self, x: Tensor) -> Tensor:
        (conv,), (hidden,) = self.pair, self.order
        return self.table["head"](hidden(conv(x).relu().mean((2, 3))).relu())


class Unlisted(Net):
    """Has a layer in a plain list only."""

    def __init__(self) -> None:
        super().__init__()
        self.more = [nn.Linear(4, 4)]

    def forward(self, x: Tensor) -> Tensor:
        return self.more[0](super().forward(x))


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_layers_that_a_model_calls_from_plain_lists_are_adapted(adapter):
    round_trip(Listed, adapter=adapter)
    loaded = pipeline.load("saved", model=Listed())
    assert loaded.order[0] is loaded.hidden
    assert loaded.pair[0] is loaded.conv
    assert loaded.table["head"] is loaded.head


def test_layers_that_only_a_plain_list_holds_are_refused():
    with pytest.raises(IntegrityError, match=r"'more' of the model holds layers in a Python list"):
        given(Unlisted())


@pytest.mark.parametrize("layer", [lambda: nn.Linear(64, 4), lambda: nn.Conv2d(1, 4, 8)], ids=["Linear", "Conv2d"])
def test_a_model_that_is_a_single_layer_is_compressed_saved_loaded_and_merged(layer):
    torch.manual_seed(0)
    model = layer()
    if isinstance(model, nn.Conv2d):
        with pytest.raises(IntegrityError, match=r"\[2, 4, 1, 1\]"):
            pipeline.Task(model, **dict.fromkeys(("train", "val", "test"), (torch.randn(8, 1, 8, 8), LABELS[:8])))
        return
    part = (IMAGES[:, 0].flatten(1), LABELS)
    objective = objective_of(model, task=pipeline.Task(model, train=part, val=part, test=part))
    trial = trained(objective)
    assert objective.targets == ["layer"]
    pipeline.save(objective, trial, "saved")
    bare = layer()
    merged = pipeline.load("saved", model=bare, merge=True)
    assert merged is bare
    torch.testing.assert_close(merged(part[0]), pipeline.load("saved", model=layer())(part[0]))


class Vit(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, **options)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 4)
        self.first = 1 if options.get("batch_first") else 0

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        tokens = tokens if self.first else tokens.transpose(0, 1)
        return self.head(self.encoder(tokens).mean(self.first))


@pytest.mark.parametrize("targets", [["*"], ["mlp"], ["attention"], ["*.linear1"], ["head"]], ids=str)
@pytest.mark.parametrize("options", [{"batch_first": True}, {}, {"batch_first": True, "norm_first": True}], ids=str)
def test_an_encoder_layer_calls_its_layers_and_computes_what_it_computed(options, targets, capfd):
    round_trip(lambda: Vit(**options), targets)
    assert not capfd.readouterr().err
    found = objective_of(seeded(lambda: Vit(**options)), ["mlp"], compression="none")
    assert found.targets == [f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    rewritten, own = found.combination.model, seeded(lambda: Vit(**options)).eval()
    torch.testing.assert_close(rewritten(IMAGES), own(IMAGES), rtol=1e-4, atol=1e-5)


class Counting(nn.Module):
    """Keeps how often it was used, which is no tensor."""

    def __init__(self, kept: object) -> None:
        super().__init__()
        self.kept = kept

    def get_extra_state(self) -> object:
        return self.kept

    def set_extra_state(self, state: object) -> None:
        self.kept = state

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept if isinstance(self.kept, float | Tensor) else x


class Extra(Net):
    def __init__(self, kept: object = None) -> None:
        super().__init__()
        self.extra = Counting(kept)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.extra(self.features(x)))


@pytest.mark.parametrize("kept", [2.0, torch.tensor(3.0), {"calls": [1, 2]}, None], ids=str)
def test_extra_state_is_in_the_checkpoint(kept):
    def bare() -> nn.Module:
        return Extra(torch.zeros(()) if isinstance(kept, Tensor) else None)

    round_trip(lambda: Extra(kept), bare=bare)
    assert pipeline.load("saved", model=bare()).extra.kept == kept


def test_extra_state_that_no_checkpoint_can_hold_is_refused_by_its_name():
    with pytest.raises(IntegrityError, match=r"'extra._extra_state' of the model's state is a set"):
        given(Extra({1, 2}))


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_auxiliary_heads_are_no_part_of_a_torchvision_model(name):
    source = {"source": "torchvision", "architecture": name}
    model = MODELS.parse(source).build(4)
    assert not [key for key in model.state_dict() if key.startswith(("aux", "Aux"))]
    assert not model.transform_input
    published = MODELS.parse({**source, "weights": "DEFAULT"}).build(4)
    assert published.transform_input  # as torchvision sets it with its weights


def test_the_published_weights_of_inception_give_torchvisions_own_outputs(monkeypatch):
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(transform_input=True, init_weights=False).eval()
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *a, **k: theirs.state_dict())
    spec = MODELS.parse({"source": "torchvision", "architecture": "inception_v3", "weights": "DEFAULT"})
    ours, images = spec.load(1000).eval(), torch.randn(1, 3, 80, 80)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_the_main_logits_are_trained_where_a_model_adds_others_in_train_mode():
    model = torchvision.models.GoogLeNet(num_classes=4, init_weights=False).train()
    images = torch.randn(2, 3, 64, 64)
    assert main_logits(model(images)).shape == (2, 4)
    assert main_logits((LABELS.float(), images)) is not images
    with pytest.raises(IntegrityError, match="returns dict in train mode"):
        main_logits({"logits": images})
