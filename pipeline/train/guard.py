"""What stops a training early: a signal, or the end of the time that was given."""

import signal
import time
from types import FrameType


class StopTraining(Exception):  # noqa: N818 - not an error: someone asked for it
    """Training ends at once; what had finished is kept.

    Args:
        reason: Why, in words.
        exit_code: What the command returns.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


class Guard:
    """Asked after every batch whether to go on. As a context it turns SIGINT and SIGTERM into a clean stop.

    Args:
        timeout: Seconds that a run may take, from now.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stop: StopTraining | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Guard":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._stop is not None:  # asked twice: end now, mid-batch; the stored study stays whole
            raise KeyboardInterrupt
        self._stop = StopTraining(f"interrupted by {name}", 128 + number)

    def check(self) -> None:
        """Raise ``StopTraining`` if a signal came or the time is over."""
        if self._stop is None and self._deadline is not None and time.monotonic() > self._deadline:
            self._stop = StopTraining("the time given by --timeout is over", 0)
        if self._stop is not None:
            raise self._stop
