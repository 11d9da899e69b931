"""From encoded images to arrays [h, w, c] of uint8 or uint16: decoding, resizing, stacking, in threads.

Pillow lets go of the interpreter lock while it decodes, so that threads use all cores on large images.
"""

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from ssljax.errors import UserError

T = TypeVar("T")

# Images decoded before a block is handed on: large enough to keep the threads busy, small enough that a
# block of photographs (256 x 500 x 400 x 3 bytes = 150 MB) fits in memory.
BLOCK = 256

# Seconds an image from which on threads pay. Below, waiting for the interpreter lock costs more than it
# gains: 10,000 PNGs of 28x28 took .8 s in one thread and 1.2 s in two.
WORTH_THREADS = 5e-4


class Broken(Exception):
    """The bytes are not a whole image."""


def decode(data: bytes, where: str) -> np.ndarray:
    """Decodes a PNG, JPEG, BMP, WebP or TIFF file.

    Grey images keep one channel, and 16 bits keep 16. Palette, CMYK and other colour models become RGB; an
    alpha channel is dropped, not blended; EXIF orientation is not applied (both as torchvision's folders do).

    Args:
      data: the file's bytes.
      where: the file, for messages.

    Returns:
      uint8 or uint16 [h, w, c].

    Raises:
      Broken: when the bytes cannot be decoded.
      UserError: when the file is sound but cannot be kept as it is (float, 32 bits, several pages).
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = _to_array(image, data, where)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise Broken("not an image") from error
        pixels = _read_tiff(data, where)
    except Exception as error:  # decoders raise whatever their format's parser stumbles over
        raise Broken(str(error)) from error
    if 0 in pixels.shape:
        raise UserError(f"{where}: image of 0 pixels (shape {pixels.shape})")
    return pixels


def _to_array(image: Any, data: bytes, where: str) -> np.ndarray:
    if image.format == "TIFF":
        if image.n_frames > 1:
            raise UserError(f"{where}: TIFF of {image.n_frames} pages; expected one image a file")
        tags = image.tag_v2
        if max(tags.get(258, (1,))) > 8 and tags.get(277, 1) > 1:  # BitsPerSample, SamplesPerPixel
            return _read_tiff(data, where)  # Pillow would cut 16-bit colour to 8 bits
    if image.format == "PNG" and data[24] == 16 and data[25] != 0:  # IHDR: bit depth, colour type 0 is grey
        raise UserError(f"{where}: 16-bit colour PNG would lose 8 bits; save it as TIFF")
    if image.mode.startswith("I;16"):
        return np.asarray(image)[..., None].astype(np.uint16)
    if image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "32-bit"
        raise UserError(f"{where}: {kind} pixels; expected 8 or 16 bits")
    target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _read_tiff(data: bytes, where: str) -> np.ndarray:
    """Multi-channel TIFF beyond Pillow: 16-bit colour, 2 channels or more than 4."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            count, axes, pixels = len(file.pages), page.axes, page.asarray()
    except Exception as error:  # as above
        raise Broken(str(error)) from error
    if count > 1 or axes not in ("YX", "YXS", "SYX"):
        raise UserError(f"{where}: TIFF with axes {axes} and {count} pages; expected one image a file")
    if pixels.dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise UserError(f"{where}: {pixels.dtype} pixels; expected 8 or 16 bits")
    pixels = np.moveaxis(pixels, 0, -1) if axes == "SYX" else pixels
    return pixels.reshape(*pixels.shape[:2], -1).astype(pixels.dtype.newbyteorder("="))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Brings the shorter side to `size` (bilinear, antialiased), then cuts the central square.

    The filter is torchvision's default for images. An image that already is size x size is returned as it
    is.

    Args:
      image: uint8 or uint16 [h, w, c].
      size: side of the result in pixels.

    Returns:
      [size, size, c] of the same dtype.
    """
    from PIL import Image

    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    short = min(height, width)
    new_height, new_width = round(height * size / short), round(width * size / short)
    if image.dtype == np.uint8 and channels in (1, 3):
        source = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
        scaled = np.asarray(source.resize((new_width, new_height), Image.Resampling.BILINEAR))
        scaled = scaled.reshape(new_height, new_width, channels)
    else:  # Pillow resizes other images only channel by channel, as floats
        planes = [
            np.asarray(
                Image.fromarray(image[..., c].astype(np.float32)).resize(
                    (new_width, new_height), Image.Resampling.BILINEAR
                )
            )
            for c in range(channels)
        ]
        scaled = np.rint(np.stack(planes, -1)).astype(image.dtype)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.ascontiguousarray(scaled[top : top + size, left : left + size])


class SameShape:
    """Checks that all images of a set have the shape and type of the first one."""

    def __init__(self) -> None:
        self._first: tuple[tuple[int, ...], np.dtype, str] | None = None

    def check(self, image: np.ndarray, where: str) -> None:
        """Raises a `UserError` that names both images when `image` differs from the first one checked."""
        if self._first is None:
            self._first = (image.shape, image.dtype, where)
        shape, dtype, first = self._first
        if image.shape == shape and image.dtype == dtype:
            return
        given = f"{where} is {_describe(image.shape, image.dtype)}, {first} is {_describe(shape, dtype)}"
        if image.shape[-1] != shape[-1] or image.dtype != dtype:
            raise UserError(f"{given}; all images must have the same channels and bits")
        raise UserError(f"{given}; --resize=SIDE brings all images to one size")


def _describe(shape: tuple[int, ...], dtype: np.dtype) -> str:
    channels = "1 channel" if shape[-1] == 1 else f"{shape[-1]} channels"
    return f"{shape[1]}x{shape[0]} pixels (width x height) with {channels} of {dtype}"


def in_blocks(
    items: Sequence[T], load: Callable[[Sequence[T]], list[np.ndarray | None]]
) -> Iterator[tuple[Sequence[T], list[np.ndarray | None]]]:
    """Runs `load` over `items`, a block at a time and in order, in threads where that is faster.

    Args:
      items: what to load.
      load: from some items to as many images, None for one that is to be left out.

    Yields:
      (items of the block, their images).
    """
    pool: ThreadPoolExecutor | None = None
    workers = min(16, os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK]
            if pool is None:
                began = time.perf_counter()
                images = load(block)
                if time.perf_counter() - began > WORTH_THREADS * len(block):
                    pool = stack.enter_context(ThreadPoolExecutor(workers))
                yield block, images
                continue
            step = -(-len(block) // (4 * workers))
            shares = [block[i : i + step] for i in range(0, len(block), step)]
            yield block, [image for share in pool.map(load, shares) for image in share]
