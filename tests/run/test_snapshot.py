import pytest
import torch
from torch import nn

from pipeline.adapt.methods.lora import Lora
from pipeline.compress.spectrum import effective_rank
from pipeline.errors import IntegrityError
from pipeline.run.recorded_spectra import adapter_snapshot, courses, weight_snapshot


@pytest.fixture
def model():
    return nn.ModuleDict({"fc": nn.Linear(20, 6), "conv": nn.Conv2d(6, 9, 3, groups=3)})


def test_a_convolution_is_seen_as_its_matrix_of_out_by_in_and_kernel(model):
    snapshot = weight_snapshot(model, ["conv", "fc"])
    assert list(snapshot) == [("W", "conv"), ("W", "fc")]
    assert torch.allclose(snapshot["W", "conv"], torch.linalg.svdvals(model["conv"].weight.double().reshape(9, 18)))


def test_a_snapshot_of_an_adapter_has_its_product_and_the_adapted_weight(model):
    parameters = {"conv.lora_A": torch.randn(2, 18), "conv.lora_B": torch.randn(9, 2), "conv.bias": torch.zeros(9)}
    snapshot = adapter_snapshot(model, Lora(), parameters, 6.0, ["conv", "fc"])
    product = 3 * parameters["conv.lora_B"].double() @ parameters["conv.lora_A"].double()
    adapted = model["conv"].weight.detach().double().reshape(9, 18) + product
    assert list(snapshot) == [("s B A", "conv"), ("Q + s B A", "conv")]
    assert torch.allclose(snapshot["s B A", "conv"], torch.linalg.svdvals(product)[:2])
    assert torch.allclose(snapshot["Q + s B A", "conv"], torch.linalg.svdvals(adapted))


def test_a_weight_that_cannot_be_decomposed_is_named(model):
    nn.init.constant_(model["conv"].weight, torch.nan)
    with pytest.raises(IntegrityError, match="the weight of layer 'conv' cannot be decomposed: it holds NaN"):
        weight_snapshot(model, ["fc", "conv"])


def test_courses_keep_the_largest_shares_and_count_all_in_the_effective_rank():
    before, after = torch.tensor([4.0, 2.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    (course,) = courses([{("W", "fc"): before}, {("W", "fc"): after}], 2)
    assert (course.matrix, course.layer) == ("W", "fc")
    assert course.shares == ((0.5, 0.25), (0.25, 0.25))
    assert course.effective_rank == pytest.approx([effective_rank(before), 4], abs=1e-4)
