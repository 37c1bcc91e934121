"""From a file to an RGB image: nothing is skipped, nothing clipped."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import IntegrityError

UNDECODABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, OverflowError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow's decoders raise on damaged files."""

WHITE = (255, 255, 255, 255)


def decode(path: Path) -> Image.Image:
    """The decoded image of a file, in the mode that it is stored in.

    Raises:
        IntegrityError: It cannot be decoded, or would take more pixels than Pillow's limit; with path and reason.
    """
    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                # Pillow only warns here, and not before twice this size does it refuse.
                raise Image.DecompressionBombError(f"{image.width} x {image.height} px is above {limit} pixels")
            image.load()
            return image.copy()
    except UnidentifiedImageError:
        raise IntegrityError(f"{path}: {_unidentified(path)}; replace or remove the file") from None
    except UNDECODABLE as error:
        raise IntegrityError(f"{path}: cannot be decoded: {error}; replace or remove the file") from None


def _unidentified(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(24)
    return f"is not an image, it begins with {head!r}" if head else "is empty"


def as_rgb(image: Image.Image, where: str) -> Image.Image:
    """The image as 8-bit RGB: 16-bit greys scaled by 1 / 257, transparent pixels laid over white.

    Args:
        image: In any of Pillow's modes.
        where: What the image is called in messages.

    Raises:
        IntegrityError: A mode or a range of values that has no one meaning as a colour.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise IntegrityError(
                f"{where}: values from {values.min()} to {values.max()} in mode '{image.mode}' are not 16-bit; convert "
                f"the image to 8 or 16 bits"
            )
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, WHITE), clear).convert("RGB")
    try:
        if image.mode == "F":
            raise ValueError("floating-point pixels have no agreed range")
        return image.convert("RGB")
    except ValueError as error:
        raise IntegrityError(f"{where}: mode '{image.mode}' cannot become RGB: {error}; convert the image") from None
