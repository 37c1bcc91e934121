from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stems import small_steps

from pipeline.train.cache.feature_cache import FeatureCache


@pytest.fixture
def make_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FeatureCache]:
    """Makes caches in one folder, which are built in small batches, each of them noted."""
    small_steps(monkeypatch.setattr)

    def make(**settings: object) -> FeatureCache:
        return FeatureCache(**{"folder": tmp_path / "features", **settings})

    return make
