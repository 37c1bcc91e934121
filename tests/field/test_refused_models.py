"""Models and descriptions that no task can be made of: logits that are not finite, and facts that no card can hold."""

import pytest
import torch
from own_networks import IMAGES, LABELS, Net, seeded
from torch import Tensor, nn

import pipeline
from pipeline.errors import IntegrityError

PARTS = [(IMAGES, LABELS)] * 3


DAMAGED = {"conv.weight": float("nan"), "hidden.bias": float("nan"), "head.bias": float("inf")}


@pytest.mark.parametrize("metric", ["accuracy", "agreement"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_model_whose_logits_are_not_finite_is_refused_by_the_names_of_its_damaged_tensors(name, metric):
    model = Net().eval()
    tensor = model.state_dict()[name]
    tensor.view(-1)[0] = DAMAGED[name]
    with pytest.raises(IntegrityError, match=rf"NaN or infinite logits .* \(damaged: '{name}'\)"):
        pipeline.Task(model, *PARTS, metric=metric)


def test_classes_that_a_model_masks_are_no_damage():
    class Masked(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), x.new_full((len(x), 2), -torch.inf)], 1)

    with pytest.raises(IntegrityError, match="2 of 6 classes have no training image"):
        pipeline.Task(Masked(), *PARTS)


CHANGING = {
    "noise": lambda x: x + torch.randn_like(x),
    "dropout": lambda x: nn.functional.dropout(x, 0.5),
    "the mean of a batch": lambda x: x - x.mean(0),
    "the deviation of a batch": lambda x: x / (x.std(0, correction=0) + 1e-3),
    "the size of a batch": lambda x: x * len(x),
}


@pytest.mark.parametrize("change", CHANGING.values(), ids=CHANGING)
def test_a_model_that_is_no_function_of_single_images_is_refused(change):
    class Changing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(20 * change(x))

    with pytest.raises(IntegrityError, match=r"gives an image other logits when it is run again"):
        pipeline.Task(seeded(Changing), *PARTS)


def test_a_model_that_keeps_values_between_calls_is_refused():
    class Drifting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            self.mean = 0.5 * self.mean + 0.5 * x.mean().detach()
            return x - 20 * self.mean

    with pytest.raises(IntegrityError, match=r"gives an image other logits when it is run again"):
        pipeline.Task(seeded(Drifting), *PARTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_precision_are_the_same_when_they_are_computed_again(dtype):
    class Mixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to(dtype)

    assert pipeline.Task(seeded(Mixed), *PARTS).description["classes"] == 4


def test_an_image_that_is_not_finite_is_not_blamed_on_the_model():
    with pytest.raises(IntegrityError, match="image 0 of the train part holds NaN"):
        pipeline.Task(Net(), *[(IMAGES / IMAGES.mul(0), LABELS)] * 3)


@pytest.mark.parametrize(
    "description", [None, 3, "text", ["a"], {"a": object()}, {"a": torch.ones(2)}, {1: 2}, {1: 2, "a": 3}]
)
def test_a_description_that_a_card_cannot_hold_is_refused(description):
    with pytest.raises(IntegrityError, match=r"the description .*give text and numbers by name"):
        pipeline.Task(Net(), *PARTS, description=description)
