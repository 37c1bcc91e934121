"""`restora dashboard` in a process of its own."""

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from children import start_python


class Served(NamedTuple):
    """The address that it said, without a path, and its process."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[Served]:
    """Serves the database of a folder on a free port, as long as the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_python(
        "-m", "pipeline.cli", "dashboard", "--port", str(port), *words, stderr=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        said = ""
        while not said.endswith("Ctrl-C stops it\n"):
            line = process.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        yield Served(re.search(r"http://\S+(?=/dashboard)", said)[0], process)
    finally:
        process.kill()
        process.communicate(timeout=30)
