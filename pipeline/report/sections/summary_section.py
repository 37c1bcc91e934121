"""The head of the page: the progress of unfinished studies, and a summary of each study."""

from collections.abc import Sequence
from itertools import chain

from pipeline.report.blocks import Block, Bullets, Paragraph, Unfinished
from pipeline.report.figures.labels import cell_label
from pipeline.results.combination_result import CellResult, CombinationResult, by_study
from pipeline.results.comparison import cell_recovery, compared_part, unbeaten, winner_accuracy, winner_bytes
from pipeline.results.progress import standing
from pipeline.wording import NO_BREAK, counted, duration, listed, percent, seed_count, size, unbroken

MOST = 5
"""The most checkpoints that are listed: the smallest, the most accurate, and some in equal steps between them."""
PARTS = {"val": "validation", "test": "test"}


def summary(results: Sequence[CombinationResult]) -> list[Block]:
    """Per study: the original model, the loss by compression, the best checkpoint of each size, and the search."""
    studies = by_study(results)
    beginnings = [f"{study}: " if len(studies) > 1 else "" for study in studies]
    return list(chain.from_iterable(map(_summary, studies.values(), beginnings)))


def _summary(results: Sequence[CombinationResult], beginning: str) -> list[Block]:
    part = compared_part(results)
    best = unbeaten(results, part)
    said = [beginning + _original(results[0], part), *_compressed(results, part), _search(results)]
    if not best:
        completed = any(cell.best for result in results for cell in result.cells)
        nothing = "No checkpoint beats compression alone." if completed else "No trial has completed yet."
        return [Paragraph(" ".join([*said, nothing]), "lead")]
    steps = [round(index * (len(best) - 1) / (MOST - 1)) for index in range(MOST)]
    shown = best if len(best) <= MOST else [best[step] for step in steps]
    front = (
        "With trained adapters, the checkpoints that no other model beats in both size and "
        f"{results[0].metric}, smallest first:"
    )
    return [
        Paragraph(" ".join([*said, front]), "lead"),
        Bullets([_checkpoint(result, cell, part) for result, cell in shown]),
    ]


def _original(result: CombinationResult, part: str) -> str:
    takes = size(result.facts["dense_bytes"])
    if result.metric == "agreement":
        return (
            f"The original model takes {takes}. No labels were used: agreement is the share of {PARTS[part]} images "
            f"on which a model gives the original's answer."
        )
    if part not in result.baseline:
        return f"The original model takes {takes}; it is not measured yet."
    said = f"The original model has {_share(result.baseline[part].accuracy)} {PARTS[part]} accuracy in {takes}."
    if result.is_uneven and part in result.largest_class:
        said += f" Always answering the largest class would have {_share(result.largest_class[part].accuracy)}."
    return said


def _share(share: float, digits: int = 2) -> str:
    return f"{percent(share, digits)}{NO_BREAK}%"


def _compressed(results: Sequence[CombinationResult], part: str) -> list[str]:
    measured = [result for result in results if part in result.compressed]
    said = [
        f"{_share(result.compressed[part].accuracy)} in {size(result.facts['compressed_bytes'])}"
        + (f" ({result.name})" if len(results) > 1 else "")
        for result in measured
    ]
    return [f"Compression alone leaves {listed(said)}."] if said else []


def _checkpoint(result: CombinationResult, cell: CellResult, part: str) -> str:
    takes, share = winner_bytes(cell), cell_recovery(result, cell, part)
    recovered = f", {_share(share, 0)} of the loss recovered" if share is not None else ""
    smaller = f"{result.facts['dense_bytes'] / takes:.1f} times smaller"
    who = f"{result.name}, {cell_label(result, cell.cell)}" if cell.cell.rank else result.name
    several = part == "test" and len(cell.tested) > 1
    mean = f" (mean of {seed_count(len(cell.tested), len(cell.failed_seeds))})" if several else ""
    return f"{_share(winner_accuracy(cell, part) or 0.0)}{mean} in {size(takes)}, {smaller}{recovered} ({who})"


def _search(results: Sequence[CombinationResult]) -> str:
    state = standing(results)
    cells = sum(len(result.cells) for result in results)
    took = f"; training them took {unbroken(duration(state.seconds))}" if state.seconds else ""
    return f"{state.done:,} of {counted(state.budget, 'trial')} in {counted(cells, 'cell')} have ended{took}."


def state(results: Sequence[CombinationResult]) -> list[Block]:
    """A box per unfinished study: how far it is, and which cells have not begun.

    The page does not reload itself, because its file changes only when the report is written again.
    """
    studies = by_study(results)
    again = f"This page does not update itself; to write it again: restora report {' '.join(studies)}"
    boxes: list[Block] = []
    for study, members in studies.items():
        now, waiting = standing(members), _waiting(members)
        if now.finished:
            continue
        said = f"The search of {study} has ended, and not every winner is tested yet."
        if now.done < now.budget:
            running = f", {now.running:,} of the others begun" if now.running else ""
            latest = f"; the last one ended on {now.latest:%Y-%m-%d at %H:%M}" if now.latest else ""
            share = f"{now.done:,} of {counted(now.budget, 'trial')} ({_share(now.done / now.budget, 0)})"
            said = f"{study} is not finished: {share} have ended{running}{latest}."
        waits = f"Not begun: {waiting}." if waiting else ""
        boxes.append(Unfinished(f"{said} {again}", now.done, now.budget, waits))
    return boxes


def _waiting(results: Sequence[CombinationResult]) -> str:
    said = []
    for result in results:
        cells = [cell_label(result, cell.cell) for cell in result.cells if not cell.begun]
        if len(cells) == len(result.cells):
            said.append(result.label)
        elif cells:
            said.append(f"{' and '.join(cells)} of {result.label}")
    return "; ".join(said)
