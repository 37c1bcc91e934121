"""What a run tells those who follow it: the live table of the console, and what the dashboard shows."""

from typing import Literal

from pipeline.results.progress import Progress

Moment = Literal["begun", "searched", "tested", "ended", "stopped"]
"""A step that a run has reached.

``begun``: the stored studies of all combinations exist. ``searched``: the search of one combination is over.
``tested``: the winners of one combination are tested. ``ended``: those of all are. ``stopped``: the run stops early.
"""


class Events:
    """Receives the events of a run; each method does nothing unless it is overridden."""

    def progressed(self, combination: str, progress: Progress) -> None:
        """Called before the first wave of a combination, and before and after every epoch of a wave.

        Args:
            combination: Its name.
            progress: How far each of its cells is.
        """

    def reached(self, moment: Moment) -> None:
        """Called when the run reaches a step."""


class AllOf(Events):
    """Passes every event to several receivers, in order."""

    def __init__(self, *receivers: Events) -> None:
        self._receivers = receivers

    def progressed(self, combination: str, progress: Progress) -> None:
        for receiver in self._receivers:
            receiver.progressed(combination, progress)

    def reached(self, moment: Moment) -> None:
        for receiver in self._receivers:
            receiver.reached(moment)
