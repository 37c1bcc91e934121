"""Guards of tests: what ``check_stop`` asks before every batch."""

from collections.abc import Callable

from pipeline.guard import Guard, StopTraining


class CheckedBy(Guard):
    """A guard that calls a function instead of looking at signals and the time."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()
        self.function = function

    def check(self) -> None:
        self.function()


class StopAfter(Guard):
    """Stops a training before its ``batches + 1``-th batch."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StopTraining("the test said so", 0)
