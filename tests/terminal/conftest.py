import io
import sys
from pathlib import Path

import pytest
from rich.console import Console as Screen

# Helpers of the folders beside this one.
sys.path += [str(Path(__file__).parents[1] / name) for name in ("search", "task", "cli")]


@pytest.fixture
def make_screen():
    """Makes terminals that keep what is written to them."""

    def make(width=80, height=24):
        return Screen(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)

    return make
