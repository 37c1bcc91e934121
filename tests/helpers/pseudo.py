"""A command in a pseudo-terminal of its own."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from children import start_python


def run_in_terminal(
    *words: str,
    width: int = 80,
    height: int = 24,
    when: Callable[[str, subprocess.Popen[bytes]], None] | None = None,
    **settings: str,
) -> tuple[int, str]:
    """Run ``restora`` in a pseudo-terminal; returns its exit code and all that it wrote.

    Args:
        words: Of the command.
        width: Characters of a line.
        height: Lines.
        settings: Of the environment.
        when: Called with what was written so far, whenever something was.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = start_python(
        "-m", "pipeline.cli", *words, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, "TERM": "xterm-256color", **settings},
    )  # fmt: skip
    os.close(theirs)
    written, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if when is not None:
                when(written.decode(errors="replace"), process)
    os.close(ours)
    return process.wait(timeout=10), written.decode()
