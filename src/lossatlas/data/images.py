"""Encoded images to bytes of pixels: 8 bits a channel, upright, without alpha."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossatlas.data.cache import say

if TYPE_CHECKING:
    from PIL import Image

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
DEEP = ("I;16", "I;16B", "I;16L", "I")  # 16 bits a pixel, grey


def decode_images(encoded: Sequence[bytes], shape: Sequence[int]) -> np.ndarray:
    """PNG or JPEG bytes to (n, C, H, W) uint8; the size is checked before an image is decoded.

    Grey of 16 bits is divided by 257, so that 65535 becomes 255; EXIF orientation is applied; what is transparent
    is laid on white, which is said once. Colour becomes grey by its luma where C = 1, grey is repeated where C = 3.

    Raises:
        ValueError: another C than 1 or 3, no whole PNG or JPEG image, or one of another size.
    """
    from PIL import Image

    C, H, W = shape
    if C not in MODES:
        raise ValueError(
            f"encoded images are read as 1 (grey) or 3 (colour) channels, data.shape asks for {C}"
        )
    out = np.empty((len(encoded), H, W, C), np.uint8)
    clear = 0
    for row, data in enumerate(encoded):
        try:
            # only these formats: no decoder that runs programs
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                size = image.size
                if size in ((W, H), (H, W)):
                    upright, through = _plain(image, MODES[C])
                    size, clear = upright.size, clear + through
                    if size == (W, H):
                        out[row] = np.asarray(upright).reshape(H, W, C)
        except (OSError, SyntaxError, Image.DecompressionBombError, TypeError) as error:
            raise ValueError(f"row {row} holds no whole PNG or JPEG image") from error
        if size != (W, H):
            raise ValueError(f"images must be {W} x {H}, row {row} is {size[0]} x {size[1]}")
    if clear:
        say(f"{clear} of {len(encoded)} images are partly transparent: laid on white")
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def _plain(image: "Image.Image", mode: str) -> tuple["Image.Image", bool]:
    """The image upright, in `mode`, and whether anything of it was transparent."""
    from PIL import Image, ImageOps

    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in DEEP:
        if "transparency" in image.info:
            raise ValueError("16-bit grey with a transparent level is not read: save it with 8 bits")
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    through = False
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        through = bool((np.asarray(layer)[..., 3] < 255).any())
        white = Image.new("RGBA", layer.size, "white")
        image = (Image.alpha_composite(white, layer) if through else layer).convert("RGB")
    return image.convert(mode), through
