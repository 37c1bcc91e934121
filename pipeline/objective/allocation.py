"""A budget of the whole adapter, spread over the layers: each has a rank of its own, or no adapter at all.

Legend: ``s_1 >= s_2 >= ...`` the singular values of what a layer lost, ``(W - Q) C^1/2``. Every way of spreading puts
the ranks of all layers in one order that no budget changes, and gives the longest beginning of it that fits. So a
larger budget never takes a rank from a layer, and what is left of one is less than what comes next would cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby

import torch
from torch import Tensor

from pipeline.adapt.contract import Adapter, blank, stored_model, trainable_counts
from pipeline.compress.contract import CompressedModel, LayerStats
from pipeline.compress.layer_statistics import Statistics
from pipeline.compress.layers import naming, weight_matrix
from pipeline.errors import SpecError
from pipeline.objective.allocations.contract import Allocation, Cost, Layer


def spread(layers: Mapping[str, Layer], allocation: Allocation, budget: int, spent: int = 0) -> dict[str, int]:
    """The rank of each layer for a budget; a layer that gets none is left out.

    Args:
        layers: The layers by name.
        allocation: The order in which layers get their ranks.
        budget: In the unit of the layers' costs.
        spent: What of it other layers take.

    Raises:
        SpecError: It is too small for any rank, or larger than all layers at full rank; or no layer lost anything.
    """
    ranks, steps = dict[str, int](), list(_steps(layers, allocation))
    if not steps:
        raise SpecError(
            f"search.allocation spreads by {allocation.name}, but compression took nothing from the layers that share "
            f'the budget ({", ".join(layers)}); spread by "gain", or compress them more'
        )
    bounds = list(accumulate((cost for _, cost in steps), initial=spent))[1:]
    _refuse_beyond(budget, bounds[0], spent + _full({name: layer.cost for name, layer in layers.items()}))
    for (names, _), bound in zip(steps, bounds, strict=True):
        if bound > budget:
            break
        for name in names:
            ranks[name] = ranks.get(name, 0) + 1
    return {name: ranks[name] for name in layers if name in ranks}


def refuse_budgets(budgets: Sequence[int], costs: Mapping[str, Cost], fixed: Mapping[str, int]) -> None:
    """Refuse budgets that no spectrum could make fit.

    Args:
        budgets: The budgets.
        costs: Of each layer.
        fixed: Ranks of the layers that have one of their own.

    Raises:
        SpecError: One is below the cheapest rank of any free layer, or above all of them at full rank, beside what the
            fixed ones take; or no layer is free.
    """
    free = {name: cost for name, cost in costs.items() if name not in fixed}
    if not free:
        raise SpecError(
            "search.allocation spreads a budget over targets without a rank of their own, and every target has one; "
            "leave search.allocation out, or a rank"
        )
    spent = spent_by(costs, fixed)
    for budget in budgets:
        _refuse_beyond(budget, spent + min(cost.first for cost in free.values()), spent + _full(free))


def spent_by(costs: Mapping[str, Cost], ranks: Mapping[str, int]) -> int:
    """What some layers take at these ranks, each clipped to what it can take."""
    return sum(costs[name].of(min(rank, costs[name].most)) for name, rank in ranks.items())


def _full(costs: Mapping[str, Cost]) -> int:
    return sum(cost.of(cost.most) for cost in costs.values())


def _refuse_beyond(budget: int, lowest: int, highest: int) -> None:
    if not lowest <= budget <= highest:
        wrong = "too small for a first rank" if budget < lowest else "more than all layers take at full rank"
        raise SpecError(
            f"search.ranks holds the budget {budget}, which is {wrong}; with this search.allocation allowed: {lowest} "
            f"to {highest}"
        )


def _steps(layers: Mapping[str, Layer], allocation: Allocation) -> Iterator[tuple[list[str], int]]:
    """Layers that get one more rank together, and what that costs, in the order in which they get it."""
    ordered = sorted(
        (key, place, rank, name)
        for place, (name, layer) in enumerate(layers.items())
        for rank, key in enumerate(allocation.keys(layer), 1)
    )
    for _, group in groupby(ordered, key=lambda step: step[:3] if allocation.one_by_one else step[:1]):
        own = [(name, rank) for _, _, rank, name in group]
        yield [name for name, _ in own], sum(layers[name].cost.step(rank) for name, rank in own)


def spectrum(matrix: Tensor, stats: Sequence[LayerStats]) -> Tensor:
    """Singular values of ``matrix C^1/2``, float64, falling; their squares are energies of the layer's outputs.

    Args:
        matrix: ``[out, in]``.
        stats: Of the layer's inputs, one for each group of its rows.
    """
    groups = matrix.double().reshape(len(stats), -1, matrix.shape[1])
    # Any root of C will do: the squares are eigenvalues of M C M^T.
    weighted = [own @ torch.linalg.cholesky(each.damped()) for own, each in zip(groups, stats, strict=True)]
    values: Tensor = torch.linalg.svdvals(torch.cat(weighted))
    return values


def layers_of(
    adapter: Adapter, compressed: CompressedModel, statistics: Statistics, allocation: Allocation
) -> dict[str, Layer]:
    """What is known of each target layer; where compression lost nothing at all, spectra are those of the weights.

    Args:
        adapter: What is trained.
        compressed: The compressed model.
        statistics: Of the layers of its reference.
        allocation: What a budget counts, and how it is spread.
    """
    own, names, lossy = costs(adapter, compressed, allocation.unit), list(compressed.weights), is_lossy(compressed)
    stats = statistics.of(names)
    sensitivity = statistics.sensitivity(names) if allocation.uses_gradients else dict.fromkeys(names, 1.0)
    layers = {}
    for name, weight in compressed.weights.items():
        W = weight_matrix(compressed.reference.get_submodule(name)).double()
        with naming(name):
            values = spectrum(W - weight.dense() if lossy else W, stats[name])
        layers[name] = Layer(own[name], values, sensitivity[name])
    return layers


def is_lossy(compressed: CompressedModel) -> bool:
    """Whether compression changed any weight."""
    return any(
        not torch.equal(weight_matrix(compressed.reference.get_submodule(name)), weight.dense())
        for name, weight in compressed.weights.items()
    )


def costs(adapter: Adapter, compressed: CompressedModel, unit: str) -> dict[str, Cost]:
    """What the ranks of each layer cost, from what the adapter stores or trains at a few of them.

    Raises:
        SpecError: The layers share something, so that no rank has a cost of its own.
    """
    most = {name: min(weight.shape) for name, weight in compressed.weights.items()}
    at = [_at_rank(adapter, compressed, {name: min(rank, most[name]) for name in most}, unit) for rank in (1, 2, 3)]
    own = {name: Cost(at[0].get(name, 0), at[1].get(name, 0) - at[0].get(name, 0), most[name]) for name in most}
    free = any(cost.first < 1 or (cost.more < 1 and cost.most > 1) for cost in own.values())
    if free or sum(at[2].values()) != sum(cost.of(min(3, cost.most)) for cost in own.values()):
        raise SpecError(
            f"search.allocation needs an adapter whose every rank has a cost of its own, which '{adapter.name}' has "
            f"not; leave it out, or choose another adapter"
        )
    return own


def _at_rank(adapter: Adapter, compressed: CompressedModel, ranks: Mapping[str, int], unit: str) -> dict[str, int]:
    begun = blank(adapter, compressed, ranks)
    if unit == "bytes":
        return {name: bits // 8 for name, bits in stored_model(adapter, compressed, begun).adapter_bits.items()}
    numbers = dict[str, int]()
    for key, count in trainable_counts(adapter, begun).items():
        layer = key.rpartition(".")[0]
        numbers[layer] = numbers.get(layer, 0) + count
    return numbers
