"""What came of it, in a paragraph of plain words for each study."""

from collections.abc import Sequence

from pipeline.report.figures.accuracy import cell_score, shown_part
from pipeline.report.figures.look import readable_bytes
from pipeline.report.markup import paragraph
from pipeline.report.progress import progress
from pipeline.report.recovery import cell_recovery
from pipeline.report.tables import pareto_front
from pipeline.report.words import counted, duration, init_said, listed, percent, rank_said
from pipeline.search.results import CellResult, CombinationResult, Score

MOST = 4
"""Checkpoints that a paragraph names; of more the smallest and the most accurate."""
PARTS = {"val": "validation", "test": "test"}


def summary(results: Sequence[CombinationResult]) -> list[str]:
    """A paragraph for each study."""
    studies: dict[str, list[CombinationResult]] = {}
    for result in results:
        studies.setdefault(result.of, []).append(result)
    return [
        paragraph((f"{study}: " if len(studies) > 1 else "") + _summary(own), "lead") for study, own in studies.items()
    ]


def _summary(results: Sequence[CombinationResult]) -> str:
    part = shown_part(results)
    return " ".join(
        [_original(results, part), *_compressed(results, part), _recovered(results, part), _search(results)]
    )


def _original(results: Sequence[CombinationResult], part: str) -> str:
    first, size = results[0], readable_bytes(results[0].facts["dense_bytes"])
    if first.metric == "agreement":
        return (
            f"The original model takes {size}. No labels were used: agreement is the share of {PARTS[part]} images on "
            f"which a smaller model gives the original's answer."
        )
    if part not in first.baseline:
        return f"The original model takes {size}; it has not been measured yet."
    accuracy = percent(first.baseline[part].accuracy)
    return f"The original model reaches {accuracy} % {PARTS[part]} accuracy in {size}."


def _compressed(results: Sequence[CombinationResult], part: str) -> list[str]:
    said = [
        f"{_share(result.compressed[part], result)} in {readable_bytes(result.facts['compressed_bytes'])}"
        + (f" ({result.name})" if len(results) > 1 else "")
        for result in results
        if part in result.compressed
    ]
    return [f"Compressed, and not trained afterwards, it has {listed(said)}."] if said else []


def _share(score: Score, result: CombinationResult) -> str:
    return f"{percent(score.accuracy)} %" + (" agreement" if result.metric == "agreement" else "")


def _recovered(results: Sequence[CombinationResult], part: str) -> str:
    found = [
        (result, cell, score)
        for result in results
        for cell in result.best_of_ranks().values()
        if (score := cell_score(result, cell, part))
    ]
    if not found:
        return "No trial has completed yet."
    front = [found[place] for place in pareto_front([(_bytes(cell), score.accuracy) for _, cell, score in found])]
    named = front if len(front) <= MOST else [front[0], front[-1]]
    said = [_checkpoint(result, cell, score, part, several=len(results) > 1) for result, cell, score in named]
    beginning = (
        f"Of {counted(len(found), 'checkpoint')} with trained adapters, one of each "
        f"{'combination and ' if len(results) > 1 else ''}size, {len(front)} cannot be beaten in both size and "
        f"{results[0].metric}"
        if len(found) > 1
        else "With a trained adapter it has"
    )
    between = f"; {len(front) - 2} more lie between the smallest and the best" if len(front) > MOST else ""
    return f"{beginning}{':' if len(found) > 1 else ''} {'; '.join(said)}{between}."


def _checkpoint(result: CombinationResult, cell: CellResult, score: Score, part: str, *, several: bool) -> str:
    size = _bytes(cell)
    who = [result.name] if several else []
    if cell.cell.rank:
        kind = "budget" if result.budget_unit else "rank"
        who.append(f"{kind} {rank_said(result, cell.cell.rank)}, init {init_said(cell.cell.init)}")
    share = cell_recovery(result, cell, part)
    won = f", {percent(share, 0)} % of the loss won back" if share is not None else ""
    smaller = f"{result.facts['dense_bytes'] / size:.1f} times smaller"
    return f"{_share(score, result)} in {readable_bytes(size)} ({', '.join([*who, smaller])}{won})"


def _bytes(cell: CellResult) -> int:
    return int(cell.best.user_attrs["bytes"]) if cell.best else 0


def _search(results: Sequence[CombinationResult]) -> str:
    state = progress(results)
    cells = sum(len(result.cells) for result in results)
    took = f"; training them took {duration(state.seconds)}" if state.seconds else ""
    return f"{state.done:,} of {counted(state.budget, 'trial')} in {counted(cells, 'cell')} have ended{took}."
