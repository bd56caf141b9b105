"""Pictures from untrusted bytes as RGB or RGBA arrays, upright; on a background; cropped to a square."""

# Shape legend: H height, W width, S side, ... any batch

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = ("png", "jpg", "jpeg", "webp")
WHITE = (255, 255, 255)
MAX_PIXELS = 1 << 27  # more in one picture is taken for an attack; 512 MiB when unpacked
MAX_ASPECT = 200  # longer strips are taken for a mistake


def decode(
    content: bytes, where: str, *, mode: Literal["RGB", "RGBA"] = "RGB", max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """A PNG, JPEG or WebP file as an array, turned upright as its EXIF data say.

    RGB shows what can be seen through on white. Grey, palette and CMYK pictures are converted, 16 bits cut to 8, and of
    moving pictures the first frame is taken, with a warning.

    Args:
        content: the file.
        where: its name, which opens every error.
        mode: channels of the result.
        max_pixels: the most that the picture may have; its header is believed before anything is unpacked.
    Returns:
        uint8 (H, W, 3) or (H, W, 4).
    Raises:
        UserError: no such file, damaged, too large or too narrow.
    """
    return np.asarray(_open(content, where, mode, max_pixels))


def decode_square(content: bytes, where: str, side: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """As `decode`, then the largest square in the middle, resized to `side`: uint8 (S, S, 3)."""
    if side < 1:
        raise ValueError(f"side: got {side}, need at least 1")
    return np.asarray(_square(_open(content, where, "RGB", max_pixels), side))


def composite(rgba: NDArray[np.uint8], background: ArrayLike = WHITE) -> NDArray[np.uint8]:
    """What is seen of pictures with straight alpha in front of a colour, to the nearest level.

    Args:
        rgba: (..., H, W, 4).
        background: RGB levels that broadcast to (..., H, W, 3).
    Returns:
        (..., H, W, 3).
    """
    alpha = rgba[..., 3:].astype(np.uint16)
    blend = rgba[..., :3] * alpha + np.asarray(background, dtype=np.uint16) * (255 - alpha)  # at most 255 * 255
    return ((blend + 127) // 255).astype(np.uint8)


def _open(content: bytes, where: str, mode: str, max_pixels: int) -> Image.Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is `max_pixels`
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                _check_size(image.width, image.height, where, max_pixels)
                if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photograph and its preview
                    warnings.warn(f"{where}: moves; its first frame is taken", stacklevel=3)
                image.load()
                return _converted(_upright(image), mode)
        except Image.DecompressionBombError as fault:
            raise UserError(f"{where}: too many pixels ({fault}); make it smaller") from fault
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError) as fault:
            # Pillow names the object it reads from.
            reason = re.sub(r" <_io\.\w+ object at 0x\w+>", "", " ".join(str(fault).split())) or type(fault).__name__
            raise UserError(
                f"{where}: cannot be read as PNG, JPEG or WebP ({reason}); save it anew as one of them"
            ) from fault


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ExifTags, Image

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, struct.error):
        return image  # damaged EXIF data tell nothing, and the pixels are whole
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _check_size(width: int, height: int, where: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"{where}: got {width} x {height} pixels; it is empty, take it out")
    if width * height > max_pixels:
        raise UserError(f"{where}: got {width} x {height} pixels, at most {max_pixels} are read; make it smaller")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{where}: got {width} x {height} pixels, narrower than 1:{MAX_ASPECT}; take it out")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """To RGB on white, or RGBA."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey: Pillow would clip them to 255
        levels: NDArray[Any] = np.asarray(image)
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    clear = "A" in image.getbands() or "transparency" in image.info
    if mode == "RGBA" or not clear:
        return image.convert(mode)
    seen = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, WHITE)
    canvas.paste(seen, mask=seen.getchannel("A"))
    return canvas


def _square(image: Image.Image, side: int) -> Image.Image:
    from PIL import Image

    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))
