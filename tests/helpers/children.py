"""Python processes that tests start."""

import os
import signal
import subprocess
import sys
from typing import Any


def start_python(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
    """Start ``python`` with these arguments, with one thread and with SIGINT as in a shell's foreground.

    A process inherits SIGINT as ignored where its parent ignores it, as in ``nohup bash scripts/test.sh &``; a signal
    that the parent handles has its default effect in the child.

    Args:
        arguments: Arguments of the interpreter, such as ``-m``, ``pipeline.cli``, ``run``.
        env: The environment; None passes on that of the tests.
        options: Further arguments of ``subprocess.Popen``.
    """
    environment = {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, *arguments], env=environment, **options)
    finally:
        signal.signal(signal.SIGINT, before)
