"""What a combination requires of the model and of its own options, before anything is compressed."""

from collections.abc import Mapping, Sequence

from torch import nn

from pipeline.adapt.contract import Adapter
from pipeline.compress.attention import SplitQkv
from pipeline.compress.contract import CompressedModel
from pipeline.compress.layer_statistics import refuse_reestimation
from pipeline.compress.layers import matrix_shape, weight_matrix
from pipeline.compress.weight import DenseWeight
from pipeline.config.combination_spec import PLAIN, CombinationSpec
from pipeline.config.search_spec import SearchSpec
from pipeline.errors import SpecError
from pipeline.objective.allocation import costs, refuse_budgets
from pipeline.task.parts import Part


def refuse_misfits(spec: CombinationSpec, model: nn.Module, train: Part) -> None:
    """Raise ``SpecError`` for options that contradict each other, or that the model has nothing for.

    Args:
        spec: The combination.
        model: The uncompressed model as the combination takes it, with its query, key and value projections split.
        train: The training part.
    """
    if spec.qkv == "split" and not any(isinstance(module, SplitQkv) for module in model.modules()):
        raise SpecError('qkv = "split", but the model has no fused query, key and value projection; leave it "fused"')
    if (spec.storage or PLAIN).small == "float16" and spec.adapter.scales_weights:
        raise SpecError(
            f"storage.small = \"float16\", but adapter '{spec.adapter.name}' multiplies scales that are rounded "
            f'already; give it scales = false, or small = "float32"'
        )
    if spec.batch_norm == "reestimated":
        refuse_reestimation(model, train)


def refuse_ranks(
    search: SearchSpec,
    adapter: Adapter,
    model: nn.Module,
    targets: Sequence[str],
    fixed: Mapping[str, int],
) -> None:
    """Raise ``SpecError`` for ranks, or budgets with an allocation, that no target can take.

    ``fixed`` has the ranks of the targets that have one of their own.
    """
    if search.allocation is not None:
        dense = {target: DenseWeight(weight_matrix(model.get_submodule(target))) for target in targets}
        by_layer = costs(adapter, CompressedModel(model, dense, model), search.allocation.unit)
        refuse_budgets(search.ranks, by_layer, fixed)
        return
    free = [target for target in targets if target not in fixed] or targets
    highest = max(min(matrix_shape(model.get_submodule(target))) for target in free)
    above = [rank for rank in search.ranks if rank > highest]
    if above:
        raise SpecError(
            f"search.ranks = {above} is above what any target"
            f"{' without a rank of its own' if fixed else ''} can take; allowed: 1 to {highest}"
        )
