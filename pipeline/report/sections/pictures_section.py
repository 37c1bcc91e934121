"""The pictures, each with how to read it."""

from collections.abc import Mapping, Sequence

from pipeline.report.figures.contract import Figure, NotAskedFor, NothingToDraw, Picture, pictures
from pipeline.report.markup import Section, figure, heading, paragraph
from pipeline.results.stored_results import CombinationResult

Drawn = Mapping[Picture, Figure | NothingToDraw]


def draw(results: Sequence[CombinationResult]) -> Drawn:
    """Every picture, or why there is none; those that no study asks for are left out."""
    drawn: dict[Picture, Figure | NothingToDraw] = {}
    for picture in pictures():
        try:
            drawn[picture.worded(results)] = picture.draw(results)
        except NotAskedFor:
            continue
        except NothingToDraw as reason:
            drawn[picture.worded(results)] = reason
    return drawn


def pictures_section(drawn: Drawn, below: Mapping[str, Sequence[str]]) -> Section:
    """All pictures; ``below`` has what follows one, by its name."""
    body = [
        piece
        for picture, shown in drawn.items()
        for piece in (
            heading(picture.title) + paragraph(f"No picture: {shown}.", "quiet")
            if isinstance(shown, NothingToDraw)
            else figure(shown, picture.name, picture.title, picture.says),
            *below.get(picture.name, ()),
        )
    ]
    within = {picture.name: picture.title for picture, shown in drawn.items() if not isinstance(shown, NothingToDraw)}
    return Section("pictures", "Pictures", body, within)
