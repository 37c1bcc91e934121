"""The pictures of a report as PNG files, drawn by an installed browser."""

import functools
import logging
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pipeline.paths import write_whole
from pipeline.report.figures.contract import Figure, pictures
from pipeline.report.figures.style import on_white

logger = logging.getLogger(__name__)

WIDTH, FINER = 1000, 2
"""The width of a picture in CSS pixels, and how many pixels of the file one of them has."""
TIMEOUT = 60
"""Seconds that the browser may take for a picture."""


def write_pngs(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write plotly figures as ``<name>.png`` in light colours; those of an earlier report are replaced."""
    if not figures:
        return []
    if find_spec("kaleido") is None:
        logger.warning(
            "no PNG files: kaleido is not installed; next: pip install kaleido, and install Chromium or Chrome"
        )
        return []
    from kaleido import write_fig_from_object_sync
    from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        wanted = [
            {
                "fig": on_white(figure),
                "path": str(Path(temporary) / f"{name}.png"),
                "opts": {"format": "png", "width": WIDTH, "height": figure.layout.height, "scale": FINER},
            }
            for name, figure in figures.items()
        ]
        try:
            # Without mathjax=False the browser would ask the network for it.
            failed = write_fig_from_object_sync(wanted, kopts={"mathjax": False, "timeout": TIMEOUT})
        except ChromeNotFoundError:
            logger.warning(
                "no PNG files: no browser was found; install Chromium or Chrome (on Debian: apt-get "
                "install chromium), or set BROWSER_PATH to one"
            )
            return []
        except (BrowserClosedError, BrowserFailedError) as error:
            logger.warning(f"no PNG files: the browser failed: {error}")
            return []
        for fault in failed:
            logger.warning(f"a picture could not be written as PNG: {fault}")
        for stale in {f"{one.name}.png" for one in pictures()}:
            (folder / stale).unlink(missing_ok=True)
        drawn = sorted(Path(temporary).iterdir())
        for path in drawn:
            write_whole(folder / path.name, functools.partial(shutil.copyfile, path))
        return [folder / path.name for path in drawn]
