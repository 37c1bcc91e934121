"""What a picture is, and how a file of this folder becomes one: register by decorator, find the files."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

from pipeline.report.figures.labels import words
from pipeline.results.stored_results import CombinationResult

Figure: TypeAlias = Any
"""``plotly.graph_objects.Figure``, which plotly exports lazily, so that no type checker finds it."""
Draw = Callable[[Sequence[CombinationResult]], Figure]
_PICTURES: dict[str, "Picture"] = {}


class NothingToDraw(Exception):  # noqa: N818 - a study that has just begun is no error
    """There is no picture yet; the text says why."""


class NotAskedFor(NothingToDraw):
    """The study file asks for nothing of the kind; the page leaves the picture out."""


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    Args:
        name: That of its function.
        place: Pictures stand on the page in this order.
        title: Its heading, with ``{accuracy}``, ``{rank}`` and so on for what these are called in the studies shown.
        says: How to read it, in a sentence or two; with the same.
        main: Whether it is also kept as a file of its own.
        draw: Draws it, or raises ``NothingToDraw`` or ``NotAskedFor``.
    """

    name: str
    place: int
    title: str
    says: str
    main: bool
    draw: Draw

    def worded(self, results: Sequence[CombinationResult]) -> Self:
        """This picture with title and text in the words of the studies that it shows."""
        own = words(results)
        return replace(self, title=self.title.format(**own), says=self.says.format(**own))


def picture(*, place: int, title: str, says: str, main: bool = False) -> Callable[[Draw], Draw]:
    """Put a function ``(results) -> Figure`` on the page."""

    def add(draw: Draw) -> Draw:
        if draw.__name__ in _PICTURES:
            raise ValueError(f"picture '{draw.__name__}' is registered twice; rename one")
        _PICTURES[draw.__name__] = Picture(draw.__name__, place, title, says, main, draw)
        return draw

    return add


def pictures() -> list[Picture]:
    """All pictures, in the page's order."""
    folder = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(folder).__path__, f"{folder}."):
        importlib.import_module(module.name)
    return sorted(_PICTURES.values(), key=lambda one: (one.place, one.name))
