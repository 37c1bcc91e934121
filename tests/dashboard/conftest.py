import pytest


@pytest.fixture(scope="module", autouse=True)
def dashboard_pictures() -> None:
    """A run draws its pictures here."""
