"""Plain fine-tuning, of everything or of the classifier alone: the honest rivals of every adapter."""

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, Draw, Start
from pipeline.compress.contract import CompressedModel
from pipeline.config.registry import ADAPTERS


def own_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter of a model by name, each once."""
    return {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}


@ADAPTERS.register("full")
class Full(Adapter):
    """Every parameter is trained. Compressed layers are dense again, and the size says so; pruned ones stay small."""

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        return own_parameters(compressed.model)
