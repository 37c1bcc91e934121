"""How winners are compared: with each other, with the original model, and with the compressed-only model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.numbers import pareto_front
from pipeline.results.combination_result import CellResult, CombinationResult, Score, by_study, mean_accuracy


def compared_part(results: Sequence[CombinationResult]) -> str:
    """The part of the data by which winners are compared: ``test`` if all are tested, otherwise ``val``."""
    winners = [cell for result in results for cell in result.cells if cell.best]
    return "test" if winners and all(cell.test for cell in winners) else "val"


def winner_accuracy(cell: CellResult, part: str) -> float | None:
    """The accuracy by which a cell's winner is compared: on ``test`` the mean over seeds, on ``val`` the search's.

    It is from 0 to 1, and None if the cell has no winner, or it is not tested yet.
    """
    if part == "test":
        return mean_accuracy(tested.test for tested in cell.tested) if cell.tested else None
    return cell.tally.best


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one part of the data, by seed, and under how many further seeds training failed."""

    by_seed: tuple[Score, ...]
    failed: int = 0

    @property
    def images(self) -> int:
        return self.by_seed[0].images

    @property
    def mean(self) -> float:
        return mean_accuracy(self.by_seed)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest accuracy over the seeds."""
        accuracies = [score.accuracy for score in self.by_seed]
        return min(accuracies), max(accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of one test at the mean: the variation from the choice of test images."""
        return Score(round(self.mean * self.images), self.images).interval


def winner_scores(result: CombinationResult, cell: CellResult, part: str) -> Scores | None:
    """The scores of a cell's winner on a part, or None. On ``val`` it is the one score that the search found."""
    if part == "test":
        return Scores(tuple(tested.test for tested in cell.tested), len(cell.failed_seeds)) if cell.tested else None
    if cell.best is None or cell.best.value is None or "val" not in result.baseline:
        return None
    images = result.baseline["val"].images
    return Scores((Score(round(cell.best.value * images), images),))


def lost(original: Score, compressed: Score) -> bool:
    """Whether compression lost more than chance explains: its accuracy is below the original's 95 % interval."""
    return compressed.accuracy < original.interval[0]


def recovery(original: Score, compressed: Score, recovered: float) -> float | None:
    """``(recovered - compressed) / (original - compressed)``: 0 if nothing was restored, 1 if everything was.

    It is None if compression lost no more than chance explains, so that there is nothing to restore.
    """
    if not lost(original, compressed):
        return None
    return (recovered - compressed.accuracy) / (original.accuracy - compressed.accuracy)


def cell_recovery(result: CombinationResult, cell: CellResult, part: str) -> float | None:
    """The recovery of a cell's winner on ``val`` or ``test``; None also if something is not measured yet."""
    accuracy = winner_accuracy(cell, part)
    if accuracy is None or part not in result.baseline or part not in result.compressed:
        return None
    return recovery(result.baseline[part], result.compressed[part], accuracy)


def unbeaten(results: Sequence[CombinationResult], part: str) -> list[tuple[CombinationResult, CellResult]]:
    """The checkpoints of a study that no other model beats in both size and accuracy, by ascending size.

    The compressed-only models compete too. Combinations of different studies are not comparable.
    """
    checkpoints = [(result, cell) for result in results for cell in result.best_of_ranks().values()]
    points = [(winner_bytes(cell), winner_accuracy(cell, part) or 0.0) for _, cell in checkpoints]
    compressed = [result for result in results if part in result.compressed]
    points += [(result.facts["compressed_bytes"], result.compressed[part].accuracy) for result in compressed]
    return [checkpoints[index] for index in pareto_front(points) if index < len(checkpoints)]


def winner_bytes(cell: CellResult) -> int:
    """Bytes of the packed model with the winner's adapter; 0 if there is no winner."""
    return int(cell.best.user_attrs["bytes"]) if cell.best else 0


@dataclass(frozen=True)
class ComparedModel:
    """A row of the tables that compare models.

    Args:
        kind: ``original``, ``largest class`` (a model that always answers it), ``compressed only`` or ``checkpoint``.
        test: Its score on the test part under the study's own seed.
        recovery: The recovery of a checkpoint on the part by which winners are compared.
        unbeaten: Whether it is a checkpoint that no other model of its study beats in both size and accuracy.
    """

    result: CombinationResult
    kind: str
    val: float | None
    test: Score | None
    bytes: int | None
    cell: CellResult | None = None
    recovery: float | None = None
    unbeaten: bool = False

    @property
    def of_study(self) -> bool:
        """Whether all combinations of its study share it."""
        return self.kind in ("original", "largest class")

    @property
    def ratio(self) -> float | None:
        """How many times smaller than the original it is."""
        return self.result.facts["dense_bytes"] / self.bytes if self.bytes else None


def compared_models(results: Sequence[CombinationResult]) -> Iterator[ComparedModel]:
    """Per study the original model, then per combination the compressed-only model and the checkpoint of each rank.

    The second of a study whose classes are uneven is a model that always answers the largest class.
    """
    for members in by_study(results).values():
        part = compared_part(members)
        front = [cell for _, cell in unbeaten(members, part)]
        measured = next((one for one in members if one.baseline.keys() >= {"val", "test"}), members[0])
        yield _reference(measured, "original")
        if measured.is_uneven:
            yield _reference(measured, "largest class")
        for result in members:
            yield _reference(result, "compressed only")
            checkpoints = result.best_of_ranks()
            for cell in result.cells:
                if checkpoints.get(cell.cell.rank) is cell:
                    yield ComparedModel(
                        result,
                        "checkpoint",
                        cell.winner.value,
                        cell.test,
                        winner_bytes(cell),
                        cell,
                        cell_recovery(result, cell, part),
                        any(cell is other for other in front),
                    )


def _reference(result: CombinationResult, kind: str) -> ComparedModel:
    scores, size = {
        "original": (result.baseline, result.facts.get("dense_bytes")),
        "largest class": (result.largest_class, None),
        "compressed only": (result.compressed, result.facts.get("compressed_bytes")),
    }[kind]
    val = scores["val"].accuracy if "val" in scores else None
    return ComparedModel(result, kind, val, scores.get("test"), size)
