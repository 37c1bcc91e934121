"""The pictures, each with how to read it."""

from collections.abc import Mapping, Sequence

from pipeline.report.blocks import Block, Drawing, Heading, Paragraph, Section
from pipeline.report.figures.contract import Figure, NotAskedFor, NothingToDraw, Picture, pictures
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


def pictures_section(drawn: Drawn, below: Mapping[str, Sequence[Block]]) -> Section:
    """All pictures; ``below`` holds the blocks that follow a picture, by the picture's name."""
    blocks: list[Block] = []
    for picture, shown in drawn.items():
        if isinstance(shown, NothingToDraw):
            blocks += [Heading(picture.title), Paragraph(f"No picture: {shown}.", "quiet")]
        else:
            blocks.append(Drawing(picture.name, picture.title, picture.says, shown))
        blocks += below.get(picture.name, [])
    within = {picture.name: picture.title for picture, shown in drawn.items() if not isinstance(shown, NothingToDraw)}
    return Section("pictures", "Pictures", blocks, within)
