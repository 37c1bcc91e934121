"""A model that gives the outputs of some of its modules beside its logits, for losses that compare them."""

import functools
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.config.table import nearest
from pipeline.errors import SpecError
from pipeline.train.rows import Inputs
from pipeline.wording import few


class BlockOutputs:
    """Computes ``(logits, output of each block)``; of a block that is called several times, the last output.

    Several threads may compute at once. ``model`` keeps the hooks, so give a copy of a model that others use.

    Raises:
        SpecError: The model has no module of such a name.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model, self._names, self._held = model, names, threading.local()
        modules = dict(model.named_modules())
        for name in names:
            if not name or name not in modules:
                raise SpecError(
                    f"search.loss.features names '{name}', and the model has no such module"
                    f"{nearest(name, filter(None, modules))}"
                )
            modules[name].register_forward_hook(functools.partial(self._hold, name))

    def _hold(self, name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        self._held.outputs[name] = output

    def __call__(self, images: Tensor) -> Inputs:
        self._held.outputs = {}
        logits = self._model(images)
        outputs = self._held.__dict__.pop("outputs")
        if uncalled := [name for name in self._names if name not in outputs]:
            raise SpecError(f"search.loss.features names {few(uncalled)}, which the model's forward does not call")
        return (logits, *(outputs[name] for name in self._names))

    @torch.no_grad()
    def shapes(self, images: Tensor) -> list[torch.Size]:
        """The shape of each block's output.

        Raises:
            SpecError: A block is not called, or gives something else than one tensor with a row per image.
        """
        _, *outputs = self(images)
        for name, output in zip(self._names, outputs, strict=True):
            if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != images.shape[:1]:
                raise SpecError(
                    f"search.loss.features names '{name}', whose output is not one tensor with a row per image; choose "
                    f"a block whose output is"
                )
        return [output.shape for output in outputs]


def refuse_other_shapes(names: Sequence[str], teacher: BlockOutputs, student: BlockOutputs, images: Tensor) -> None:
    """Refuse blocks whose outputs in the compressed model have another shape than in the uncompressed one."""
    for name, wanted, found in zip(names, teacher.shapes(images), student.shapes(images), strict=True):
        if wanted != found:
            raise SpecError(
                f"search.loss.features names '{name}', whose output is {list(wanted[1:])} in the uncompressed model "
                f"and {list(found[1:])} in the compressed one; choose blocks that keep their shape"
            )
