"""The pictures, each with how to read it."""

from collections.abc import Mapping, Sequence

from pipeline.report.blocks import Block, Drawing, Heading, Paragraph, Section
from pipeline.report.figures.contract import Figure, NotAskedFor, NothingToDraw, Picture, pictures
from pipeline.results.stored_results import CombinationResult

Drawn = Mapping[Picture, Figure | NothingToDraw]


def draw(results: Sequence[CombinationResult]) -> Drawn:
    """Every picture as a figure, or the reason why there is none. Pictures that no study asks for are left out."""
    drawn: dict[Picture, Figure | NothingToDraw] = {}
    for picture in pictures():
        try:
            drawn[picture] = picture.draw(results)
        except NotAskedFor:
            continue
        except NothingToDraw as reason:
            drawn[picture] = reason
    return drawn


def pictures_section(results: Sequence[CombinationResult], drawn: Drawn) -> Section:
    """All pictures, and what each shows below itself."""
    blocks: list[Block] = []
    within: dict[str, str] = {}
    for picture, shown in drawn.items():
        title, reading = picture.worded(results)
        if isinstance(shown, NothingToDraw):
            blocks += [Heading(title), Paragraph(f"No picture: {shown}.", "quiet")]
        else:
            blocks.append(Drawing(picture.name, title, reading, shown))
            within[picture.name] = title
        blocks += picture.below(results)
    return Section("pictures", "Pictures", blocks, within)
