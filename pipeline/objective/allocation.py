"""Spreading a budget of the whole adapter over the layers: each layer gets a rank of its own, or no adapter.

An allocation puts the ranks of all layers in one order, which does not depend on the budget. A budget pays for the
longest start of that order that it can afford. So a larger budget never takes a rank from a layer, and the unspent rest
is less than the next step would cost. A budget that cannot afford the first step pays for first ranks instead, the
cheapest first, so that shapes alone tell which budgets can be spread.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from pipeline.adapt.contract import Adapter, blank, stored_model, trainable_counts
from pipeline.compress.contract import CompressedModel, LayerStats
from pipeline.compress.layer_statistics import Statistics
from pipeline.compress.layers import layer_in_errors, weight_matrix
from pipeline.compress.spectrum import singular_values
from pipeline.errors import SpecError
from pipeline.objective.allocations.contract import Allocation, Cost, Layer


def spread(
    layers: Mapping[str, Layer], allocation: Allocation, budget: int, fixed: Mapping[str, int]
) -> dict[str, int]:
    """The rank of each layer for a budget, which pays for the fixed ranks too; layers that get none are left out.

    A ``SpecError`` says that the budget is out of range, or that compression took nothing from any layer.
    """
    ranks = {name: min(rank, layers[name].cost.most) for name, rank in fixed.items()}
    spent = sum(layers[name].cost.of(rank) for name, rank in ranks.items())
    free = {name: layer for name, layer in layers.items() if name not in fixed}
    steps = list(_steps(free, allocation))
    if not steps:
        raise SpecError(
            f"search.allocation spreads by {allocation.name}, but compression took nothing from the layers that share "
            f'the budget ({", ".join(free)}); spread by "gain", or compress them more'
        )
    firsts = sorted((layer.cost.first, name) for name, layer in free.items())
    _refuse_beyond(budget, spent + firsts[0][0], spent + _full(layer.cost for layer in free.values()))
    if spent + steps[0][1] > budget:
        steps = [([name], cost) for cost, name in firsts]
    for names, cost in steps:
        spent += cost
        if spent > budget:
            break
        for name in names:
            ranks[name] = ranks.get(name, 0) + 1
    return {name: ranks[name] for name in layers if name in ranks}


def refuse_budgets(budgets: Sequence[int], costs: Mapping[str, Cost], fixed: Mapping[str, int]) -> None:
    """Refuse budgets that are out of range whatever the spectra are, and any budget if every layer has a fixed rank."""
    free = [cost for name, cost in costs.items() if name not in fixed]
    if not free:
        raise SpecError(
            "search.allocation spreads a budget over the targets without a fixed rank, but every target has one; "
            "remove search.allocation, or the rank of a target"
        )
    spent = sum(costs[name].of(min(rank, costs[name].most)) for name, rank in fixed.items())
    for budget in budgets:
        _refuse_beyond(budget, spent + min(cost.first for cost in free), spent + _full(free))


def _full(costs: Iterable[Cost]) -> int:
    return sum(cost.of(cost.most) for cost in costs)


def _refuse_beyond(budget: int, lowest: int, highest: int) -> None:
    if not lowest <= budget <= highest:
        wrong = "too small for a first rank" if budget < lowest else "more than all layers take at full rank"
        raise SpecError(
            f"search.ranks holds the budget {budget}, which is {wrong}; with this search.allocation allowed: {lowest} "
            f"to {highest}"
        )


def _steps(layers: Mapping[str, Layer], allocation: Allocation) -> Iterator[tuple[list[str], int]]:
    """The steps in their order: the layers that get one more rank at the same time, and the cost of that."""
    ordered = sorted(
        (key, i, rank, name)
        for i, (name, layer) in enumerate(layers.items())
        for rank, key in enumerate(allocation.keys(layer), 1)
    )
    for _, group in groupby(ordered, key=lambda step: step[:3] if allocation.one_by_one else step[:1]):
        ranks = [(name, rank) for _, _, rank, name in group]
        yield [name for name, _ in ranks], sum(layers[name].cost.step(rank) for name, rank in ranks)


def spectrum(matrix: Tensor, stats: Sequence[LayerStats]) -> Tensor:
    """Singular values of ``matrix C^1/2``: float64, descending; their squares are energies of the layer's outputs.

    The matrix is ``[out, in]``; ``C`` is that of the layer's inputs, with one entry of ``stats`` per group of rows.
    """
    groups = matrix.double().reshape(len(stats), -1, matrix.shape[1])
    return singular_values(torch.cat([inputs.times_root(rows) for rows, inputs in zip(groups, stats, strict=True)]))


def layers_of(
    adapter: Adapter, compressed: CompressedModel, statistics: Statistics, allocation: Allocation
) -> dict[str, Layer]:
    """Cost, spectrum and sensitivity of each target layer; the statistics are those of the uncompressed model.

    The spectra are those of what compression took. If it took nothing from any layer, they are those of the weights.
    """
    layer_costs, lossy = costs(adapter, compressed, allocation.unit), is_lossy(compressed)
    names = list(compressed.weights)
    stats = statistics.of(names)
    sensitivity = statistics.sensitivity(names) if allocation.uses_gradients else dict.fromkeys(names, 1.0)
    layers = {}
    for name, weight in compressed.weights.items():
        W = weight_matrix(compressed.reference.get_submodule(name)).double()
        with layer_in_errors(name):
            values = spectrum(W - weight.dense() if lossy else W, stats[name])
        layers[name] = Layer(layer_costs[name], values, sensitivity[name])
    return layers


def is_lossy(compressed: CompressedModel) -> bool:
    """Whether compression changed any weight."""
    return any(
        not torch.equal(weight_matrix(compressed.reference.get_submodule(name)), weight.dense())
        for name, weight in compressed.weights.items()
    )


def costs(adapter: Adapter, compressed: CompressedModel, unit: str) -> dict[str, Cost]:
    """The cost of each layer's ranks, from what the adapter stores or trains at ranks 1, 2 and 3."""
    most = {name: min(weight.shape) for name, weight in compressed.weights.items()}
    at = [_at_rank(adapter, compressed, {name: min(rank, most[name]) for name in most}, unit) for rank in (1, 2, 3)]
    by_layer = {name: Cost(at[0].get(name, 0), at[1].get(name, 0) - at[0].get(name, 0), most[name]) for name in most}
    free = any(cost.first < 1 or (cost.more < 1 and cost.most > 1) for cost in by_layer.values())
    if free or sum(at[2].values()) != sum(cost.of(min(3, cost.most)) for cost in by_layer.values()):
        raise SpecError(
            f"search.allocation needs an adapter in which every rank of a layer has a cost of its own; adapter "
            f"'{adapter.name}' is not one; remove search.allocation, or choose another adapter"
        )
    return by_layer


def _at_rank(adapter: Adapter, compressed: CompressedModel, ranks: Mapping[str, int], unit: str) -> dict[str, int]:
    begun = blank(adapter, compressed, ranks)
    if unit == "bytes":
        return {name: bits // 8 for name, bits in stored_model(adapter, compressed, begun).adapter_bits.items()}
    parameters = Counter[str]()
    for key, count in trainable_counts(adapter, compressed.weights, begun).items():
        parameters[key.rpartition(".")[0]] += count
    return parameters
