import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import IntegrityError
from pipeline.task.data.decode import as_rgb, decode

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def kept(image, tmp_path, suffix="png", **options):
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    return decode(path)


def test_fault_16_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    stored = kept(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path)
    assert stored.mode.startswith("I")
    assert np.array_equal(np.asarray(as_rgb(stored, "it")), np.stack([RAMP] * 3, axis=-1))


def test_fault_16_grey_becomes_three_equal_channels_and_grey_again_without_loss(tmp_path):
    rgb = as_rgb(kept(Image.fromarray(RAMP), tmp_path), "it")
    assert rgb.mode == "RGB"
    assert np.array_equal(np.asarray(rgb.convert("L")), RAMP)


def test_fault_16_transparent_pixels_are_drawn_over_white(tmp_path):
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 255, 51)
    rgb = as_rgb(kept(Image.fromarray(pixels), tmp_path), "it")
    assert np.asarray(rgb)[0].tolist() == [[255] * 3, [0] * 3, [204] * 3]


def test_fault_16_a_palette_gives_its_colours_with_and_without_a_transparent_one(tmp_path):
    colours = Image.fromarray(np.array([[[10, 20, 30], [200, 100, 0]]], dtype=np.uint8)).quantize(2)
    assert np.asarray(as_rgb(kept(colours, tmp_path), "it"))[0].tolist() == [[10, 20, 30], [200, 100, 0]]
    clear = int(np.asarray(colours)[0, 0])
    seen = as_rgb(kept(colours, tmp_path, transparency=clear), "it")
    assert np.asarray(seen)[0].tolist() == [[255, 255, 255], [200, 100, 0]]


def test_fault_16_cmyk_becomes_the_colour_that_it_prints(tmp_path):
    rgb = as_rgb(kept(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path, "jpg", quality=100), "it")
    assert np.abs(np.asarray(rgb).astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_fault_16_every_usual_mode_becomes_rgb(mode):
    assert as_rgb(Image.new(mode, (3, 2)), "it").mode == "RGB"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("F", (2, 2)), "no agreed range"),
        (Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "from 0 to 70000"),
    ],
)
def test_fault_16_pixels_without_a_unique_meaning_are_refused(image, said):
    with pytest.raises(IntegrityError, match=f"here.*{said}"):
        as_rgb(image, "here")


def jpeg():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [(jpeg()[:-200], "truncated"), (b"", "is empty"), (b"<!DOCTYPE html>", "begins with b'<!DOCTYPE html>'")],
    ids=["truncated", "zero bytes", "HTML"],
)
def test_fault_16_a_file_that_is_no_image_is_named_with_the_reason(content, said, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"cat.jpg.*{said}"):
        decode(path)


def test_fault_16_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    Image.new("1", (40, 30)).save(tmp_path / "bomb.png")
    for limit in (1100, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(IntegrityError, match=r"bomb.png.*1200 pixels|bomb.png.*40 x 30 px is above"):
            decode(tmp_path / "bomb.png")
