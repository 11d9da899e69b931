"""FGVC-Aircraft 2013b (`aircraft:DIR`), which tfds does not have, as its archive lays it out: images, and lists of variants.

S. Maji et al., Fine-grained visual classification of aircraft, 2013.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from ssljax.data.folder import identity
from ssljax.data.formats import Broken, decode
from ssljax.data.pixels import SameShape, in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.errors import UserError

FOLDER = "fgvc-aircraft-2013b"  # in the set's archive
# The images' lowest rows say whose photograph it is; the set's README asks to leave them out.
BANNER = 20
_LISTS = {"train": "train", "validation": "val", "test": "test"}


def source(request: Request) -> Source:
    """The 100 variants of a folder DIR with data/images/*.jpg, data/variants.txt and data/images_variant_{train,val,test}.txt.

    DIR may hold `fgvc-aircraft-2013b` instead; it lies in `data_dir`. Classes are the variants in the order of variants.txt.
    Images lose their lowest 20 rows; they differ in size, so they need `image_size`.

    Raises:
      UserError: no folder, a list or an image that is missing or cannot be read, a line without a variant, or an unknown one.
    """
    root = folder_of(request.place, request.data_dir)

    def open_() -> Contents:
        variants = tuple(_lines(root, "variants.txt"))
        numbers = {variant: number for number, variant in enumerate(variants)}
        same, streams = SameShape(), dict[str, Stream]()
        for split, part in _LISTS.items():
            images = _listed(root, f"images_variant_{part}.txt", numbers)
            streams[split] = _stream(images, request.image_size, same)
        return Contents(streams, variants, list)

    return Source(location=f"{root}:aircraft", identity=lambda: identity(root), open=open_)


def folder_of(place: str, data_dir: str) -> str:
    """The folder with `data` in it: DIR, or fgvc-aircraft-2013b in DIR."""
    root = os.path.abspath(os.path.expanduser(os.path.join(data_dir, place)))
    inner = os.path.join(root, FOLDER)
    return inner if os.path.isdir(os.path.join(inner, "data")) else root


def _listed(root: str, name: str, numbers: dict[str, int]) -> list[tuple[str, int]]:
    """Path and class of each image of a list, of lines such as "1025794 A330-200"."""
    found: list[tuple[str, int]] = []
    for line in _lines(root, name):
        image, _, variant = line.partition(" ")
        if variant not in numbers:
            raise UserError(
                f"{root}: '{line}' in data/{name}: '{variant}' is not among the variants of data/variants.txt"
            )
        path = os.path.join(root, "data", "images", f"{image}.jpg")
        if not os.path.isfile(path):
            raise UserError(f"{root}: no data/images/{image}.jpg, which data/{name} lists")
        found.append((path, numbers[variant]))
    return found


def _lines(root: str, name: str) -> list[str]:
    path = os.path.join(root, "data", name)
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}; expected FGVC-Aircraft 2013b's data/{name}") from error
    if not lines:
        raise UserError(f"{path}: empty; expected a line for each of FGVC-Aircraft's {name.partition('.')[0]}")
    return lines


def _stream(files: Sequence[tuple[str, int]], image_size: int, same: SameShape) -> Stream:
    def load(share: Sequence[tuple[str, int]]) -> list[np.ndarray | None]:
        return [_image(path, image_size) for path, _ in share]

    def read() -> Iterator[Block]:
        for block, loaded in in_blocks(files, load):
            images = [image for image in loaded if image is not None]
            for (path, _), image in zip(block, images, strict=True):
                same.check(image, path)
            yield np.stack(images), np.array([label for _, label in block], np.int32)

    return Stream(len(files), True, read)


def _image(path: str, image_size: int) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            pixels = decode(file.read(), path)
    except (Broken, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); take it from the set's archive again") from error
    if len(pixels) <= BANNER:
        raise UserError(f"{path}: {len(pixels)} rows; expected more than the {BANNER} of the banner")
    pixels = pixels[:-BANNER]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    return resize(pixels, image_size) if image_size else pixels
