"""The contract of a compression: a config that replaces the weights of a model's layers by ``CompressedWeight``s.

Shapes: a weight is a matrix ``[out, in]``; that of a convolution is its view ``[out, in / groups * kh * kw]``, and each
group of a grouped convolution is compressed by itself.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.compress.grouped_weight import GroupedWeight, join_groups, once_each
from pipeline.compress.layers import (
    copy_sharing_tensors,
    corrected_bias,
    each_weight_once,
    group_count,
    in_groups,
    matrix_shape,
    replace_bias,
    replace_weight,
    sound_matrix,
    weight_matrix,
)
from pipeline.compress.model_stats import LayerByLayer, ModelStats, no_stats
from pipeline.compress.second_moment import LayerStats as LayerStats
from pipeline.compress.shared_tensors import fitted_methods
from pipeline.compress.weight import CompressedWeight, DenseWeight, unless_larger
from pipeline.config.combination_spec import PLAIN, StorageSpec
from pipeline.config.registry import Method
from pipeline.task.contract import Part

Groups = Sequence[tuple[Tensor, LayerStats | None]]
"""The groups of a layer as ``compress`` takes them: a matrix ``[out, in]``, and statistics if they are needed."""


@dataclass(frozen=True)
class CompressedModel:
    """A model whose target layers compute with the dense forms of compressed weights; frozen, in eval mode."""

    model: nn.Module
    weights: Mapping[str, CompressedWeight]
    reference: nn.Module  # the uncompressed model of the same architecture, to which residuals and statistics refer
    head: Sequence[str] = ()  # the layers that give the logits, as far as they are known
    notes: Sequence[str] = ()  # what a user should know of the result, in sentences
    storage: StorageSpec = PLAIN  # how a file holds it


class Compression(Method):
    """A method that compresses whole models."""

    @property
    def needs_statistics(self) -> bool:
        """Whether ``stats`` must hold the layers' second moments."""
        return False

    @property
    def sized_by_shape(self) -> bool:
        """Whether the size of a compressed weight depends on its shape alone, and not on its values."""
        return True

    @property
    def needs_coding(self) -> bool:
        """Whether codes are chosen for their coded size, which ``coding = "rans"`` alone makes use of."""
        return False

    @property
    def shared_kinds(self) -> Mapping[str, str]:
        """The kinds of packed tensors that all layers with the same key for them share; by default none."""
        return {}

    def sharing_with(self, weight: CompressedWeight) -> "Compression":
        """This method with the tensors that a compressed ``weight`` shares with other layers, if there are any."""
        return self

    def of_layer(self, name: str) -> "Compression":
        """The compression of one layer, where layers differ; by default all have this one."""
        return self

    @abstractmethod
    def compress_model(
        self, model: nn.Module, targets: Sequence[str], stats: ModelStats, train: Part | None = None
    ) -> CompressedModel:
        """Compress the target layers in a copy of ``model``, which shares all other tensors with it.

        Args:
            model: The trained model; it is not changed.
            targets: Names of Linear and Conv2d layers.
            stats: Statistics of the targets' inputs; read only if ``needs_statistics``.
            train: The training part, for methods that train or need gradients.
        """

    def outline(self, model: nn.Module, targets: Sequence[str], train: Part | None = None) -> CompressedModel:
        """A model with weights of the sizes and shapes that ``compress_model`` gives, whatever their values; for plans.

        It needs no statistics, and where possible neither decomposes nor trains. By default it is ``compress_model``
        with the statistics of no image.
        """
        layers = {name: model.get_submodule(name) for name in targets}
        unknown = {name: [no_stats(layer)] * group_count(layer) for name, layer in layers.items()}
        return self.compress_model(model, targets, unknown if self.needs_statistics else {}, train)

    def compress_layer(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> CompressedWeight:
        """Compress another ``matrix [out, in]`` for one layer, for inits that move the base; by default it stays dense.

        ``layer`` is that of ``CompressedModel.reference``; ``stats``, one per group, are read if ``needs_statistics``.
        """
        return DenseWeight(matrix.clone())

    def reshape(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Give a bare architecture the shapes of an exported model's tensors, in place; by default it has them."""

    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        """Read back what ``to_tensors`` gave for a layer of ``shape`` ``(out, in)``; by default a dense weight.

        Raises:
            KeyError, ValueError, IndexError, RuntimeError: The tensors are not those of such a layer.
        """
        return DenseWeight(tensors["dense"].reshape(shape))


class LayerCompression(Compression):
    """A method that compresses one weight matrix, applied here to each target layer of a model.

    A layer whose packed weight would be no smaller stays dense.
    """

    bias: Literal["kept", "corrected"] = "kept"
    """"corrected" adds the mean output error to each layer's bias, ``b += (W - Q) E[x]``, at no cost in bytes; moments
    of inputs are then centred, because no other error is left. A layer without a bias stays as it is."""
    ridge: float = Field(0, ge=0, examples=[0.0, 1.0, 5.0])
    """Added to the eigenvalues of the inputs' second moment, in units of their mean: weighs inputs more equally."""
    prefix: int = Field(0, ge=0)
    """Training images on which each layer's statistics are gathered behind the layers already compressed, one pass
    after another, and its weight is fitted to the uncompressed outputs; 0 takes all from the uncompressed model."""
    later: ClassVar[frozenset[str]] = frozenset({"bias", "ridge", "prefix"})

    @model_validator(mode="after")
    def _ridge_of_statistics(self) -> "LayerCompression":
        if self.ridge and not self.needs_statistics:
            raise ValueError(
                f"ridge = {self.ridge} has no effect, because with these options '{self.name}' reads no statistics of "
                f"the layer's inputs; leave it out"
            )
        return self

    @property
    def needs_statistics(self) -> bool:
        return self.bias == "corrected" or self.prefix > 0

    def of_layer(self, name: str) -> "LayerCompression":
        return self

    @abstractmethod
    def compress(self, weight: Tensor, stats: LayerStats | None) -> CompressedWeight:
        """Compress ``weight [out, in]``; ``stats`` is ``None`` unless ``needs_statistics``.

        For plans it is called with a weight on torch's device ``meta``, which has no values, and without ``stats``. If
        that raises an error of torch or Python, it is called with the values.
        """

    @abstractmethod
    def from_tensors(self, tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> CompressedWeight:
        """Read back what ``CompressedWeight.to_tensors`` gave for a weight of ``shape``."""

    def compress_model(
        self, model: nn.Module, targets: Sequence[str], stats: ModelStats, train: Part | None = None
    ) -> CompressedModel:
        copy = copy_sharing_tensors(model)
        given = stats.behind(copy) if isinstance(stats, LayerByLayer) else stats
        own = {name: self.of_layer(name) for name in targets}
        methods = fitted_methods(own, model, {} if isinstance(stats, LayerByLayer) else stats)
        order = list(targets)
        if isinstance(given, LayerByLayer):  # layers that need no statistics come first, and so in every prefix
            by_call = [name for name in given.order() if name in targets]
            order = [*(name for name in targets if name not in by_call), *by_call]

        def compress(name: str, layer: nn.Module) -> CompressedWeight:
            known = given[name] if methods[name].needs_statistics else ()
            return methods[name].compress_layer(layer, sound_matrix(model, name), known)

        def put(name: str, layer: nn.Module, weight: CompressedWeight) -> None:
            method, dense = methods[name], weight.dense()
            replace_weight(copy, name, dense)
            if method.corrects_bias(layer):
                replace_bias(copy, name, corrected_bias(layer, dense, given[name]))

        made = each_weight_once(model, order, compress, put)
        weights = {name: made[name] for name in targets}
        return CompressedModel(copy, weights, model)

    def fitted(self, layers: Sequence[Groups]) -> "LayerCompression":
        """This method with the tensors that ``layers`` share, fitted to them; itself if they share none.

        With ``prefix`` no statistics are known yet.
        """
        return self

    def corrects_bias(self, layer: nn.Module) -> bool:
        """Whether a layer's bias takes the mean error of its outputs."""
        return self.bias == "corrected" and layer.bias is not None

    def outline(self, model: nn.Module, targets: Sequence[str], train: Part | None = None) -> CompressedModel:
        weights = each_weight_once(model, targets, lambda name, layer: self.of_layer(name)._outline_layer(layer))
        return CompressedModel(copy_sharing_tensors(model), weights, model)

    def _outline_layer(self, layer: nn.Module) -> CompressedWeight:
        """The weight of zeros that has the packed tensors of the layer's compressed one.

        It follows from the shape alone, on torch's device ``meta``; or from the values, if the method reads them.
        """
        matrix = weight_matrix(layer)
        try:
            groups = in_groups(layer, matrix.to("meta"))
            weight = self.compress_groups([(groups[0], None)] * len(groups))
            tensors = unless_larger(weight, matrix).to_tensors()
            zeros = {kind: torch.zeros_like(t, device="cpu") if t.is_meta else t for kind, t in tensors.items()}
            return self.load_weight(zeros, matrix_shape(layer), group_count(layer))
        except (NotImplementedError, RuntimeError, TypeError, AttributeError, ValueError):
            # Values or statistics are read, or zeros are no packed positions.
            return self.compress_layer(layer, matrix, [no_stats(layer)] * len(in_groups(layer, matrix)))

    def compress_layer(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> CompressedWeight:
        groups = self.groups_of(layer, matrix, stats if self.needs_statistics else ())
        return unless_larger(self.compress_groups(groups), matrix)

    def groups_of(self, layer: nn.Module, matrix: Tensor, stats: Sequence[LayerStats]) -> Groups:
        """The groups of a layer whose weight is ``matrix [out, in]``, without statistics if ``stats`` are none."""
        groups = in_groups(layer, matrix)
        if not stats:
            return [(group, None) for group in groups]
        centred = [its.centred() for its in stats] if self.corrects_bias(layer) else stats
        pairs = zip(groups, [its.with_ridge(self.ridge) for its in centred], strict=True)
        return [(its.target(group), its) for group, its in pairs]

    def compress_groups(self, groups: Groups) -> CompressedWeight:
        """The compressed weight of a layer; by default that of each group is its own."""
        return join_groups(once_each(lambda group: self.compress(*group), groups))

    def load_weight(self, tensors: Mapping[str, Tensor], shape: tuple[int, int], groups: int) -> CompressedWeight:
        if tensors.keys() == {"dense"}:
            return super().load_weight(tensors, shape, groups)
        if groups == 1:
            return self.from_tensors(tensors, shape)
        group_shape = (shape[0] // groups, shape[1])
        return GroupedWeight([self.from_tensors(part, group_shape) for part in GroupedWeight.split(tensors, groups)])
