import pytest
import torch
from moments import random_stats
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from pipeline.compress import layer_statistics
from pipeline.compress.contract import LayerStats
from pipeline.compress.input_vectors import input_vectors, some_input_vectors
from pipeline.compress.layer_statistics import Statistics, gather_sensitivity, gather_statistics
from pipeline.compress.layers import in_groups, weight_matrix
from pipeline.task.parts import TensorPart

CONVOLUTIONS = {
    "plain": nn.Conv2d(2, 20, 3),
    "strided and padded": nn.Conv2d(2, 20, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(2, 20, 3, dilation=2),
    "padding same": nn.Conv2d(2, 20, (4, 2), padding="same"),
    "reflected": nn.Conv2d(2, 20, 3, padding=1, padding_mode="reflect"),
    "grouped": nn.Conv2d(4, 40, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(3, 30, 3, groups=3, stride=2, dilation=2),
    "timm's same": Conv2dSame(2, 20, 3, stride=2),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_the_moment_of_a_convolutions_inputs_gives_the_moment_of_its_outputs(layer):
    # E[y y^T] = W C W^T, and with more outputs than inputs no other symmetric C does.
    model = nn.Sequential(layer).double()
    layer.bias.data.zero_()
    images = torch.randn(5, layer.in_channels, 8, 9, dtype=torch.float64)
    stats = gather_statistics(model, ["0"], images.split(2))["0"]
    y = model(images).detach().transpose(0, 1).flatten(1)
    assert len(stats) == layer.groups
    for W, its, own in zip(in_groups(layer, weight_matrix(layer)), stats, y.chunk(layer.groups), strict=True):
        assert torch.linalg.matrix_rank(W) == W.shape[1]
        torch.testing.assert_close(W @ its.second_moment @ W.T, own @ own.T / own.shape[1])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("layer", [*CONVOLUTIONS.values(), nn.Linear(9, 2)], ids=[*CONVOLUTIONS, "linear"])
def test_some_input_vectors_are_among_all_of_them_and_the_same_places_for_other_inputs(layer):
    images = torch.randn(5, getattr(layer, "in_channels", 2), 8, 9)
    every = input_vectors(layer, images)
    few, all_of_them = (some_input_vectors(layer, images, most, 3) for most in (7, 10**6))
    assert few.shape == (every.shape[0], 7, every.shape[2])
    assert all_of_them.shape == every.shape
    for group, its in zip(every, few, strict=True):
        assert all(bool((group == vector).all(1).any()) for vector in its)
    torch.testing.assert_close(some_input_vectors(layer, 2 * images, 7, 3), 2 * few)
    torch.testing.assert_close(all_of_them.double().sum(1), every.double().sum(1))


def test_the_moment_of_a_linear_layers_inputs_is_uncentred_and_a_mean_over_all_tokens():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    images = torch.randn(7, 5, 4) + 1
    with torch.no_grad():
        X = torch.relu(model[0](images)).double().reshape(-1, 6)
    stats = gather_statistics(model, ["2"], images.split(3))
    assert list(stats) == ["2"]
    torch.testing.assert_close(stats["2"][0].second_moment, X.T @ X / 35)


def test_a_model_is_watched_no_longer_once_gathering_has_failed(monkeypatch):
    seen = []
    monkeypatch.setattr(layer_statistics, "input_vectors", lambda _, x: seen.append(len(x)) or x[None])
    model = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        gather_statistics(model, ["0"], [torch.randn(2, 4), torch.randn(2, 5)])
    model(torch.randn(3, 4))
    assert seen == [2]


def test_a_damped_moment_has_an_inverse_where_inputs_are_dead():
    images = torch.randn(50, 6)
    images[:, :4] = 0
    model = nn.Sequential(nn.Linear(6, 2))
    for batch in (images, torch.zeros(3, 6)):
        stats = gather_statistics(model, ["0"], [batch])["0"][0]
        assert torch.linalg.cholesky(stats.damped()).isfinite().all()
        torch.testing.assert_close(stats.damped(), stats.second_moment, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dead", [0, 3, 8], ids=["", "some dead", "all dead"])
def test_both_roots_are_symmetric_and_come_from_one_decomposition_of_the_damped_moment(dead, monkeypatch):
    stats = random_stats(8, dead=dead)
    C, identity = stats.damped(), torch.eye(8, dtype=torch.float64)
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(matrix) or eigh(matrix))
    root, inverse_root = stats.times_root(identity), stats.times_inverse_root(identity)
    torch.testing.assert_close(root, root.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(root @ root, C, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(root @ inverse_root, identity, rtol=0, atol=1e-6)
    assert bool((stats.eigen[0] > 0).all())
    assert len(calls) == 1


def test_an_eigenvalue_that_rounds_below_zero_is_held_at_the_ridge():
    stats = LayerStats(torch.diag(torch.tensor([1.0, -1e-3, 0.5], dtype=torch.float64)))
    assert stats.eigen[0][0] == stats.ridge > 0
    assert stats.times_inverse_root(torch.eye(3)).isfinite().all()


class Asked(TensorPart):
    """A part that notes what it was asked for."""

    def batches(self, batch_size, order=None):
        self.orders = [*getattr(self, "orders", []), order]
        return super().batches(batch_size, order)


def test_statistics_are_gathered_once_from_the_training_part_at_the_first_question():
    part = Asked(torch.randn(40, 4), torch.arange(40) % 2)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    statistics = Statistics(model, part)
    assert not hasattr(part, "orders")
    first = statistics.of(["0"])["0"]
    assert statistics.of(["0"])["0"] is first
    assert len(part.orders) == 1
    assert set(statistics.of(["0", "1"])) == {"0", "1"}
    assert len(part.orders) == 2
    assert sorted(part.orders[0].tolist()) == list(range(40))
    X = part.images.double()
    torch.testing.assert_close(first[0].second_moment, X.T @ X / 40)


def sensitivity_of(model, images, labels, name):
    """By the definition, one image at a time; ``model`` is a sequence of layers."""
    total, place = 0.0, int(name) + 1
    for image, label in zip(images, labels, strict=True):
        y = model[:place](image[None]).requires_grad_()
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(model[place:](y), label[None]), y)
        total += float(g.square().sum())
    return total / (2 * len(images) * len(model.get_submodule(name).weight))


def test_a_sensitivity_is_half_the_mean_squared_gradient_of_an_output():
    first, second, head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 2), nn.Linear(8, 5)
    in_place = nn.ReLU(inplace=True)
    model = nn.Sequential(first, in_place, second, in_place, nn.Flatten(), head).double().requires_grad_(False)
    images, labels = torch.randn(7, 1, 5, 5, dtype=torch.float64), torch.arange(7) % 5
    plain = nn.Sequential(*[nn.ReLU() if isinstance(each, nn.ReLU) else each for each in model])
    found = gather_sensitivity(model, ["0", "2", "5"], [(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert found == pytest.approx({name: sensitivity_of(plain, images, labels, name) for name in found})
    assert not model(images).requires_grad, "the model is watched no longer"
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_a_sensitivity_times_the_squared_error_of_outputs_is_what_the_loss_grows_by():
    # Labels drawn from the model's own answers: then the Fisher information is the curvature of the loss.
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().requires_grad_(False)
    images = torch.randn(40_000, 6, dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=model(images)).sample()
    sensitivity = gather_sensitivity(model, ["0"], [(images, labels)])["0"]

    def grown(scale):
        d = scale * torch.randn(len(images), 8, dtype=torch.float64)
        hook = model[0].register_forward_hook(lambda _layer, _inputs, y: y + d)
        off = nn.functional.cross_entropy(model(images), labels)
        hook.remove()
        return float(off - nn.functional.cross_entropy(model(images), labels)), float(d.square().sum(1).mean())

    growth, error = grown(0.3)
    assert growth == pytest.approx(sensitivity * error, rel=0.3)


def test_sensitivities_are_gathered_once_from_the_same_images_of_the_training_part():
    part = Asked(torch.randn(40, 4), torch.arange(40) % 2)
    statistics = Statistics(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).requires_grad_(False), part)
    statistics.of(["0"])
    first = statistics.sensitivity(["0", "1"])
    assert statistics.sensitivity(["1"])["1"] == first["1"] > 0
    assert [order.tolist() for order in part.orders] == [part.orders[0].tolist()] * 2
