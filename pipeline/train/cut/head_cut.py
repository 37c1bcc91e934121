"""The cut of a model whose calls cannot be traced, and whose only trained layer is its last one, the head.

The stem is the model with an identity in place of the head.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.adapt.lanes import LaneLayer, Lanes
from pipeline.compress.layers import copy_sharing_tensors
from pipeline.train.cut.graph import Cut
from pipeline.train.cut.trace import CannotCutError, alike, models_code
from pipeline.train.rows import Stem


def cut_head(model: nn.Module, layers: Mapping[str, LaneLayer], images: Tensor) -> Cut:
    """Cut a model before its head, the only trained layer, whose inputs are tried out on ``images [n, ...]``.

    The layers before it may neither decide by values what to compute, nor mix the images of a batch.
    """
    if len(layers) != 1:
        raise CannotCutError("several layers are trained")
    ((name, layer),) = layers.items()
    trunk = Stem(copy_sharing_tensors(model), f"{type(model).__qualname__} up to {name}")
    trunk.model.set_submodule(name, nn.Identity())
    # Fake tensors have shapes and no values, so that any decision by a value raises.
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with models_code("values decide what it computes"), fake, torch.no_grad():
        trunk(fake.from_tensor(images))
    with torch.no_grad():
        (features,), (fewer,) = trunk(images), trunk(images[:-1])
        if not alike(features[:-1], fewer):
            raise CannotCutError("the output of its frozen layers for an image depends on the other images")
        if not alike(model.get_submodule(name)(features), model(images)):
            raise CannotCutError(f"something comes after its layer '{name}'")

    def shared(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, layer.frozen(x)

    def tail(lanes: Lanes, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = layer(x, y, lanes.layers[name])
        return logits

    return Cut(
        stem=trunk,
        shared=shared,
        tail=tail,
        without_lanes=lambda other: other.get_submodule(name),
        names=(f"input of {name}",),
        state=trunk.model.state_dict(),
    )
