"""Plain fine-tuning of all parameters, as an upper bound for the other adapters."""

from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.adapt.contract import Adapter, Draw
from pipeline.adapt.inits.contract import Start
from pipeline.compress.contract import CompressedModel
from pipeline.config.registry import ADAPTERS


def model_parameters(model: nn.Module) -> dict[str, Tensor]:
    """All real parameters of a model by name, on the CPU; of layers that share one each is trained with its own."""
    return {
        f"{name}.{key}" if name else key: tensor.detach().cpu()
        for name, module in model.named_modules()
        for key, tensor in module.named_parameters(recurse=False, remove_duplicate=False)
        if tensor.is_floating_point()
    }


@ADAPTERS.register("full")
class Full(Adapter):
    """Trains every parameter, which makes compressed layers dense: the upper bound, and free after pruning."""

    def begin(self, compressed: CompressedModel, starts: Mapping[str, Start], draw: Draw) -> dict[str, Tensor]:
        return model_parameters(compressed.model)
