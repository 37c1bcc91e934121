"""Decoding a file into an RGB image. No image is skipped, no value clipped."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import IntegrityError
from pipeline.wording import printable

UNDECODABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, OverflowError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions of Pillow's decoders on damaged files."""

WHITE = (255, 255, 255, 255)


def decode(path: Path) -> Image.Image:
    """Decode a file, in the mode that it is stored in.

    Raises:
        IntegrityError: The file cannot be decoded, or has more pixels than Pillow's limit; with path and reason.
    """
    try:
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                # Pillow itself only warns here, and refuses from twice this size on.
                raise Image.DecompressionBombError(f"{image.width} x {image.height} px is above {limit} pixels")
            image.load()
            return image.copy()
    except UnidentifiedImageError:
        with path.open("rb") as file:
            head = file.read(24)
        reason = f"is not an image, it begins with {head!r}" if head else "is empty"
        raise IntegrityError(f"{printable(path)}: {reason}; replace or remove the file") from None
    except UNDECODABLE as error:
        raise IntegrityError(f"{printable(path)}: cannot be decoded: {error}; replace or remove the file") from None


def as_rgb(image: Image.Image, where: str) -> Image.Image:
    """Convert an image to 8-bit RGB: 16-bit greys are divided by 257, transparent pixels are drawn over white.

    Raises:
        IntegrityError: The mode, or the range of values, has no unique meaning as a colour.
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
