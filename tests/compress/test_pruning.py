import pytest
import torch
from test_channels import MODELS, mlp, settled, shapes
from torch import nn
from torch.nn import functional as F

from pipeline.adapt.methods.no_adapter import NoAdapter
from pipeline.compress.channels import prune_channels
from pipeline.compress.layers import weight_matrix
from pipeline.compress.methods.prune_gradient import PruneGradient
from pipeline.compress.methods.prune_magnitude import PruneMagnitude
from pipeline.compress.sizes import StoredModel, model_macs, model_size
from pipeline.compress.targets import find_targets
from pipeline.errors import IntegrityError, SpecError
from pipeline.export.pack import PackedMethod, pack_model, unpack_model
from pipeline.task.inspection import inspect
from pipeline.task.parts import TensorPart

HALF = [PruneMagnitude(), PruneGradient()]
EACH = pytest.mark.parametrize("compression", HALF, ids=lambda method: method.name)
EACH_MODEL = pytest.mark.parametrize(("build", "side"), MODELS.values(), ids=MODELS)


def images(side: int = 4, count: int = 6) -> TensorPart:
    return TensorPart(torch.randn(count, 3, side, side), torch.arange(count) % 3)


@pytest.mark.parametrize(
    ("keep", "rounding", "channels", "left"),
    [(0.5, "ceil", 7, 4), (0.5, "int", 7, 3), (0.29, "int", 100, 29), (0.07, "ceil", 100, 7), (0.01, "int", 9, 1),
     (1.0, "ceil", 9, 9), (0.40625, "int", 256, 104), (0.40625, "ceil", 128, 52)],
)  # fmt: skip
def test_of_so_many_channels_the_share_stays_and_at_least_one(keep, rounding, channels, left):
    assert PruneMagnitude(keep=keep, rounding=rounding).kept(channels) == left


@pytest.mark.parametrize(("norm", "rows"), [("l1", [0, 2]), ("l2", [0, 1])])
def test_the_rows_of_largest_norm_stay(norm, rows):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))
    model[1].weight.data = torch.tensor([[5.0, 5, 5, 5], [3, 0, 0, 0], [-1, 1, 1, -1.0]])
    compressed = PruneMagnitude(keep=0.6, norm=norm).compress_model(
        model, ["1"], {}, TensorPart(torch.randn(2, 1, 2, 2), torch.arange(2))
    )
    assert torch.equal(compressed.weights["1"].dense(), model[1].weight[rows])


def test_rows_of_an_mlp_leave_with_the_inputs_that_they_were_and_the_published_share_stays():
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    part, targets = TensorPart(torch.randn(2, 784), torch.arange(2)), ["0", "2", "4"]
    compressed = PruneMagnitude(keep=0.40625).compress_model(model, targets, {}, part)
    assert [compressed.weights[name].shape for name in targets] == [(104, 784), (52, 104), (10, 52)]
    size = model_size(model, StoredModel(compressed))
    assert (size.dense_bytes / 4, size.bytes / 4) == (235_146, 87_630)
    assert round(100 * size.bytes / size.dense_bytes, 2) == 37.27
    assert [name for name, layer in size.layers.items() if layer.is_dense] == []
    positions = inspect(model, part.images[:1]).positions
    assert model_macs(model, compressed, positions, {}) == (87_630 - 104 - 52 - 10, 235_146 - 256 - 128 - 10)


@EACH
@EACH_MODEL
def test_a_pruned_model_is_smaller_is_its_own_reference_and_comes_back_from_a_file(compression, build, side):
    model, _ = settled(build, side)
    targets = find_targets(model, ["*"])
    compressed = compression.compress_model(model, targets, {}, images(side))
    for name in targets:
        assert torch.equal(compressed.weights[name].dense(), weight_matrix(compressed.reference.get_submodule(name)))
    size = model_size(model, StoredModel(compressed))
    assert size.bytes < 0.75 * size.dense_bytes
    tensors = pack_model(compressed, NoAdapter(), {})
    assert sum(tensor.nbytes for tensor in tensors.values()) == size.bytes
    loaded = unpack_model(build(), tensors, PackedMethod(compression, targets, NoAdapter(), 1.0))
    assert shapes(loaded) == shapes(compressed.model)
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), compressed.model(x))


@EACH
def test_a_file_of_other_shapes_is_refused(compression):
    compressed = compression.compress_model(mlp(), ["1", "3"], {}, images())
    tensors = pack_model(compressed, NoAdapter(), {})
    for name, broken in {
        "1.weight.dense": torch.zeros(13, 48),
        "3.weight.dense": torch.zeros(24),
        "5.weight": torch.zeros(4, 4),
        "1.bias": torch.zeros(6, 1),
    }.items():
        with pytest.raises(IntegrityError, match="another architecture"):
            unpack_model(mlp(), {**tensors, name: broken}, PackedMethod(compression, ["1", "3"], NoAdapter(), 1.0))


@EACH
def test_everything_kept_is_the_model_itself(compression):
    model, part = mlp(), images()
    compressed = compression.model_copy(update={"keep": 1.0, "lr": 1e-12}).compress_model(model, ["1", "3"], {}, part)
    assert model_size(model, StoredModel(compressed)).ratio == 1
    with torch.no_grad():
        torch.testing.assert_close(compressed.model(part.images), model(part.images))


@EACH
def test_images_are_needed(compression):
    with pytest.raises(SpecError, match="give compress_model the part train="):
        compression.compress_model(mlp(), ["1"], {})


def gradients(model: nn.Module, part: TensorPart, batch_size: int) -> list[torch.Tensor]:
    """Of the first layer's weight, for each batch of the order of seed 0, the model staying as it is."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    found = []
    for chosen in order.split(batch_size):
        loss = F.cross_entropy(model(part.images[chosen]), part.labels[chosen])
        found += torch.autograd.grad(loss, [model[1].weight])
    return found


@pytest.mark.parametrize("score", ["signed", "abs", "taylor"])
def test_the_rows_of_largest_accumulated_gradient_stay(score):
    model, part = mlp(), images(count=8)
    each = gradients(model, part, 4)
    expected = {
        "signed": sum(g.sum(1) for g in each),
        "abs": sum(g.abs().sum(1) for g in each),
        "taylor": sum((g * model[1].weight).square().sum(1) for g in each),
    }[score]
    # A learning rate so low leaves the weights as they are.
    method = PruneGradient(score=score, batch_size=4, lr=1e-12, optimizer="sgd")
    rows = expected.argsort(descending=True)[:6].sort().values
    weight = method.compress_model(model, ["1"], {}, part).weights["1"].dense()
    torch.testing.assert_close(weight, model[1].weight.detach()[rows])


class RecordedPart(TensorPart):
    """Remembers the sizes of the batches that were taken from it; the first is of one image, whose shape is asked."""

    def __init__(self, count: int) -> None:
        super().__init__(torch.randn(count, 3, 4, 4), torch.arange(count) % 3)
        self.sizes: list[int] = []

    def batches(self, batch_size, order=None):
        for batch in super().batches(batch_size, order):
            self.sizes.append(len(batch[1]))
            yield batch


def pruned_after(monkeypatch, **options) -> list[tuple[int, list[int]]]:
    """After how many batches rows were removed, and how many rows of the two layers remained."""
    part, found = RecordedPart(8), []

    def recorded(model, targets, *rest):
        pruned = prune_channels(model, targets, *rest)
        found.append((len(part.sizes) - 1, [len(pruned.model[layer].weight) for layer in (1, 3)]))
        return pruned

    monkeypatch.setattr("pipeline.compress.methods.prune_gradient.prune_channels", recorded)
    PruneGradient(batch_size=2, **options).compress_model(mlp(), ["1", "3"], {}, part)
    return found


def test_rows_are_lost_after_the_training_half_way_or_step_by_step(monkeypatch):
    with monkeypatch.context() as patch:
        assert pruned_after(patch, when="after", epochs=2) == [(8, [6, 4])]
    with monkeypatch.context() as patch:
        assert pruned_after(patch, when="once", epochs=2) == [(4, [6, 4])]
    with monkeypatch.context() as patch:
        assert pruned_after(patch, when="steps", steps=3, epochs=2) == [(2, [10, 7]), (4, [8, 5]), (6, [6, 4])]
    with monkeypatch.context() as patch:  # more steps than batches
        assert pruned_after(patch, when="steps", steps=9)[-1] == (4, [6, 4])


def test_what_is_left_is_trained_on_and_fits_the_data_better():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    part = TensorPart(torch.randn(60, 3, 4, 4, generator=generator) + labels[:, None, None, None], labels)
    losses = {}
    for epochs in (1, 20):
        torch.manual_seed(0)
        method = PruneGradient(when="once", epochs=epochs, lr=1e-2, batch_size=20)
        compressed = method.compress_model(mlp(), ["1", "3"], {}, part)
        with torch.no_grad():
            losses[epochs] = F.cross_entropy(compressed.model(part.images), labels)
        assert torch.equal(compressed.weights["3"].dense(), compressed.reference[3].weight)
    assert losses[20] < losses[1] / 2


def test_the_same_seed_gives_the_same_model_and_the_global_generator_is_left_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.Dropout(), nn.Linear(12, 3))
    part, before = images(), torch.get_rng_state()
    one, again, other = (
        PruneGradient(batch_size=2, lr=1e-2, seed=seed).compress_model(model, ["1"], {}, part) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.weights["1"].dense(), again.weights["1"].dense())
    assert not torch.equal(one.weights["1"].dense(), other.weights["1"].dense())


def test_a_last_batch_of_one_image_joins_the_one_before_it_and_an_only_one_stays():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)).eval()
    five, one = RecordedPart(5), RecordedPart(1)
    PruneGradient(batch_size=4).compress_model(model, ["1"], {}, five)
    PruneGradient().compress_model(mlp(), ["1"], {}, one)
    assert five.sizes[1:] == [5]
    assert one.sizes[1:] == [1]


def test_a_loss_that_is_not_finite_is_said_with_its_epoch_and_what_to_change():
    part = images()
    part.images[0] = torch.inf
    with pytest.raises(IntegrityError, match=r"prune_gradient: the mean loss is nan in epoch 1 .* lower lr = 0\.0001"):
        PruneGradient().compress_model(mlp(), ["1"], {}, part)
