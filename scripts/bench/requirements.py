"""What a benchmark needs before it starts: packages of an extra, and files. Scripts end with one line that says so."""

import importlib.util
from pathlib import Path

INSTALL = "pip install -e '.[bench]'"


def require_package(module: str, package: str) -> None:
    """End the script if a package of the extra ``bench`` is not installed.

    Args:
        module: The top module that it installs.
        package: Its name in the package registry.

    Raises:
        SystemExit: The package is not installed; the message names the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise SystemExit(f"error: the package {package} is not installed; install it with: {INSTALL}")


def require_path(path: Path, what: str, advice: str) -> None:
    """End the script if a file or folder is not there.

    Args:
        path: Where it is looked for.
        what: What it is, in words.
        advice: How to get it.

    Raises:
        SystemExit: Nothing is at the path; the message says what was looked for, where, and how to get it.
    """
    if not path.exists():
        raise SystemExit(f"error: {what} not found: looked for {path.absolute()}; {advice}")
