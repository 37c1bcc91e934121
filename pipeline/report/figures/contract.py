"""What a picture is. A file of this folder adds one by registering a class."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from pipeline.config.registry import Method, Registry
from pipeline.report.blocks import Block
from pipeline.report.figures.labels import words
from pipeline.results.combination_result import CombinationResult

Figure: TypeAlias = Any
"""``plotly.graph_objects.Figure``, which plotly exports lazily, so that no type checker finds it."""


class NothingToDraw(Exception):  # noqa: N818 - a study that has just begun is no error
    """There is no picture yet; the text says why."""


class NotAskedFor(NothingToDraw):
    """The study file asks for nothing of the kind; the page leaves the picture out."""


class Picture(Method):
    """A picture of the page, registered under the name of its anchor and of its PNG file."""

    order: ClassVar[int]
    """Pictures stand on the page in this order."""
    title: ClassVar[str]
    """Its heading. ``{accuracy}`` and ``{rank}`` stand for the words that the studies shown use for these."""
    reading: ClassVar[str]
    """How to read it, in a sentence or two; with the same placeholders."""
    main: ClassVar[bool] = False
    """Whether a report also writes it as a PNG file."""
    on_dashboard: ClassVar[bool] = False
    """Whether optuna-dashboard shows it while a study runs."""

    @abstractmethod
    def draw(self, results: Sequence[CombinationResult]) -> Figure:
        """The plotly figure of some combinations.

        Raises:
            NothingToDraw: The combinations have nothing to show yet.
            NotAskedFor: No study asks for this picture.
        """

    def below(self, results: Sequence[CombinationResult]) -> Sequence[Block]:
        """What the page shows below the picture."""
        return ()

    def worded(self, results: Sequence[CombinationResult]) -> tuple[str, str]:
        """Title and reading in the words of the studies that are shown."""
        own = words(results)
        return self.title.format(**own), self.reading.format(**own)


PICTURES = Registry[Picture]("picture", "picture", "pipeline.report.figures")


def pictures() -> list[Picture]:
    """All pictures, in the page's order."""
    return sorted((picture() for picture in PICTURES), key=lambda picture: (picture.order, picture.name))
