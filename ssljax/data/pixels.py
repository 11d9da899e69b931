"""What is done with decoded images [h, w, c] of uint8 or uint16: resizing, comparing, reading many of them in threads.

Pillow lets go of the interpreter lock while it decodes, so that threads use all cores on large images.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from ssljax.errors import UserError

T = TypeVar("T")

# Images decoded before a block is handed on: large enough to keep the threads busy, small enough that a
# block of photographs (256 x 500 x 400 x 3 bytes = 150 MB) fits in memory.
BLOCK = 256
BYTES = 2**29  # of a block's images, however large they are (our choice)
FIRST = 8  # images of the first block, whose size is not known

# Seconds an image from which on threads pay. Below, waiting for the interpreter lock costs more than it
# gains: 10,000 PNGs of 28x28 took .8 s in one thread and 1.2 s in two.
WORTH_THREADS = 5e-4


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
        given = f"{where} is {describe(image.shape, image.dtype)}, {first} is {describe(shape, dtype)}"
        if image.shape[-1] != shape[-1] or image.dtype != dtype:
            grey = dtype == image.dtype and min(image.shape[-1], shape[-1]) == 1
            hint = f" (--channels={max(image.shape[-1], shape[-1])} repeats the channel of grey ones)" if grey else ""
            raise UserError(f"{given}; all images must have the same channels and bits{hint}")
        raise UserError(f"{given}; --resize=SIDE brings all images to one size")


def describe(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """The shape [h, w, c] and type of an image in words."""
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
    start, size = 0, FIRST
    with contextlib.ExitStack() as stack:
        while start < len(items):
            block = items[start : start + size]
            start += len(block)
            if pool is None:
                began = time.perf_counter()
                images = load(block)
                slow = time.perf_counter() - began > WORTH_THREADS * len(block)
                if slow and start > FIRST:  # the first block pays for what is imported
                    pool = stack.enter_context(ThreadPoolExecutor(workers))
            else:
                step = -(-len(block) // (4 * workers))
                shares = [block[i : i + step] for i in range(0, len(block), step)]
                images = [image for share in pool.map(load, shares) for image in share]
            largest = max((image.nbytes for image in images if image is not None), default=0)
            size = max(1, min(BLOCK, BYTES // max(1, largest)))
            yield block, images
