import importlib.util
import shutil

import pytest
from PIL import Image

from pipeline.report.figures.contract import PICTURES
from pipeline.report.png import FINER, WIDTH, write_pngs

BROWSER = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))), reason="NOT TESTED: PNGs; no browser is here"
)


@pytest.fixture
def figures(finished):
    return {name: PICTURES[name]().draw(finished) for name in ("accuracy_by_rank", "recovery")}


@BROWSER
def test_pictures_are_written_in_light_colours_in_the_place_of_earlier_ones(figures, said, tmp_path):
    folder = tmp_path / "png"
    folder.mkdir()
    (folder / "heat_map.png").write_bytes(b"of an earlier report")
    (folder / "holiday.png").write_bytes(b"of someone else")
    written = write_pngs(figures, folder)
    assert said == []
    assert sorted(path.name for path in folder.iterdir()) == ["accuracy_by_rank.png", "holiday.png", "recovery.png"]
    assert written == [folder / "accuracy_by_rank.png", folder / "recovery.png"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    image = Image.open(folder / "accuracy_by_rank.png")
    assert image.size == (WIDTH * FINER, figures["accuracy_by_rank"].layout.height * FINER)
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_without_kaleido_one_line_says_how_to_get_it(figures, said, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("pipeline.report.png.find_spec", lambda name: None)
    write_pngs(figures, tmp_path / "png")
    assert said == ["no PNG files: kaleido is not installed; next: pip install kaleido, and install Chromium or Chrome"]
    assert not (tmp_path / "png").exists()


def test_without_a_browser_one_line_says_how_to_get_it(figures, said, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    write_pngs(figures, tmp_path / "png")
    (line,) = said
    assert "no browser was found" in line
    assert "apt-get install chromium" in line
    assert not (tmp_path / "png").exists()


def test_a_browser_that_dies_is_named_and_the_report_goes_on(figures, said, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    write_pngs(figures, tmp_path / "png")
    assert len(said) == 1
    assert "the browser failed" in said[0]


def test_no_picture_starts_no_browser(said, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    assert write_pngs({}, tmp_path / "png") == []
    assert said == []
