import pytest

from pipeline.dashboard import feed


@pytest.fixture(autouse=True)
def no_pictures_on_the_dashboard(monkeypatch):
    """The dashboard's pictures take half the time of a tiny run, and have tests of their own in ``tests/dashboard``."""
    monkeypatch.setattr(feed, "draw_plots", lambda results: {})
