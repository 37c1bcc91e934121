"""Early stopping: a signal, or the end of the time that was given, ends the work at the next batch."""

import signal
import threading
import time
from types import FrameType

_active: list["Guard"] = []
"""The guards that ``check_stop`` asks, the outermost first. Cohorts train in threads, so they are the process's."""


class StopTraining(Exception):  # noqa: N818 - not an error: someone asked for it
    """Training stops at once, for a ``reason`` in words; finished trials are kept, and the command ends with a code."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason, self.exit_code = reason, exit_code


class Guard:
    """As a context it turns SIGINT, SIGTERM and the end of the time into a stop at the next ``check_stop``.

    A second signal raises ``KeyboardInterrupt`` immediately, in the middle of a batch. Outside the main thread, where
    Python takes no signals, only the time counts: ``timeout`` seconds from now, or no limit.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._stop: StopTraining | None = None
        self._handlers_before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Guard":
        _active.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers_before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _active.remove(self)
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._stop is not None:
            raise KeyboardInterrupt
        self._stop = StopTraining(f"interrupted by {signal.Signals(number).name}", 128 + number)

    def check(self) -> None:
        """Raise ``StopTraining`` if a signal came or the time is over."""
        if self._stop is None and self._deadline is not None and time.monotonic() > self._deadline:
            self._stop = StopTraining("the time given by --timeout is over", 0)
        if self._stop is not None:
            raise self._stop


def check_stop() -> None:
    """Raise ``StopTraining`` if an active guard says so; called before every batch. Without a guard it does nothing."""
    for guard in tuple(_active):
        guard.check()
