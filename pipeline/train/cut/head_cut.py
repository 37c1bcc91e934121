"""The cut of a model whose calls cannot be traced, where all that is trained is its last layer: a classifier's head.

Everything before the head stays one piece, run as it is: the model with an identity in the head's place.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.adapt.lanes import LaneLayer, Lanes
from pipeline.compress.layers import shared_copy
from pipeline.train.cut.graph import Cut
from pipeline.train.cut.trace import CannotCutError, alike


class _Trunk(nn.Module):
    """From images to what the head is given."""

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.model = shared_copy(model)
        self.model.set_submodule(head, nn.Identity())
        self.code = f"{type(model).__qualname__} up to {head}"

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.model(images),)


def cut_head(model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> Cut:
    """Cut a model before its head.

    Args:
        model: The compressed model, in eval mode.
        layers: The trained layers, by name.
        images: Three images or more.

    Raises:
        CannotCutError: More than one layer is trained, it is not the last one, or what comes before it looks at values
            to decide what to compute, or at the images beside an image.
    """
    if len(layers) != 1:
        raise CannotCutError("several layers are trained")
    ((name, layer),) = layers.items()
    trunk = _Trunk(model, name)
    _refuse_decisions(trunk, images)
    with torch.no_grad():
        (features,), (fewer,) = trunk(images), trunk(images[:-1])
        if not alike(features[:-1], fewer):
            raise CannotCutError("what its frozen layers give for an image depends on the images beside it")
        if not alike(model.get_submodule(name)(features), model(images)):
            raise CannotCutError(f"something comes after its layer '{name}'")

    def shared(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, layer.frozen(x)

    def tail(lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = layer(x, y, lanes.of(name))
        return logits

    return Cut(
        trunk, shared, tail, lambda other: other.get_submodule(name), (f"input of {name}",), trunk.model.state_dict()
    )


def _refuse_decisions(trunk: nn.Module, images: Tensor) -> None:
    """Run it on tensors that have shapes and no values: whoever asks for a value is found out."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            trunk(mode.from_tensor(images))
    except Exception as error:
        # A model's own code runs here, and may raise anything at all.
        raise CannotCutError("values decide what it computes") from error
