"""Singular values over the training of the baseline and of the winners."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import IntegrityError
from pipeline.paths import baseline_spectra, winner_spectra
from pipeline.report.figures.animation import draw_courses
from pipeline.report.figures.contract import PICTURES, Figure, NotAskedFor, NothingToDraw, Picture
from pipeline.report.figures.labels import cell_label
from pipeline.results.combination_result import CellResult, CombinationResult
from pipeline.results.spectra_file import Course, read_spectra
from pipeline.store.stored_study import trial_key


@PICTURES.register("spectra")
class Spectra(Picture):
    """Shares of singular values, one frame per epoch, and the effective rank over epochs."""

    order = 60
    title = "Spectra"
    reading = (
        "Singular values of the layers that the study file names, as shares of their sum, largest first, and the "
        "effective rank exp(-Σ p ln p) of all shares (Roy and Vetterli, 2007). Epoch 0 is the start; a training that "
        "has ended stays at its last epoch. The menu selects the trial that is shown."
    )

    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        asked = [result for result in results if result.facts.get("spectra")]
        if not asked:
            raise NotAskedFor("the study file names no layers under [spectra]")
        said: list[str] = []
        baselines = {_weights(result): _baseline(result, said) for result in asked}
        cells = [(result, cell) for result in asked for cell in result.cells if cell.best]
        # The best winner is what the menu shows first.
        cells.sort(key=lambda pair: -(pair[1].winner.value or 0.0))
        recorded = {_name(result, cell): _winner(result, cell, said) for result, cell in cells}
        shared = next(iter(baselines.values())) if len(baselines) == 1 else ()
        own = {_name(result, cell): () if shared else baselines[_weights(result)] for result, cell in cells}
        choices = {name: (*own[name], *courses) for name, courses in recorded.items() if courses}
        if not shared and not choices:
            raise NothingToDraw("; ".join(["no spectrum is recorded yet", *said]))
        trained = {
            "the baseline" if len(baselines) == 1 else f"the baseline of {result.of}": baselines[_weights(result)]
            for result in asked
            if result.facts["task"].get("baseline")
        }
        missing = [name for name, courses in {**trained, **recorded}.items() if not courses]
        return draw_courses(shared, choices, f"Not recorded: {'; '.join(missing)}" if missing else "")


def _name(result: CombinationResult, cell: CellResult) -> str:
    return f"{result.label}, {cell_label(result, cell.cell)}"


def _weights(result: CombinationResult) -> str | None:
    weights: str | None = result.facts["hashes"].get("weights")
    return weights


def _baseline(result: CombinationResult, said: list[str]) -> tuple[Course, ...]:
    weights = _weights(result)
    return _read(baseline_spectra(weights), weights, said) if weights else ()


def _winner(result: CombinationResult, cell: CellResult, said: list[str]) -> tuple[Course, ...]:
    path = winner_spectra(result.facts["study"], result.name, cell.cell.rank, cell.cell.init)
    return _read(path, trial_key(result.facts["id"], cell.winner.number), said)


def _read(path: Path, of: str, said: list[str]) -> tuple[Course, ...]:
    try:
        found = read_spectra(path, of)
    except IntegrityError as error:
        said.append(str(error))
        return ()
    return found.courses if found else ()
