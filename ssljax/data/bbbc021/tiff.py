"""A field's three files: where they lie, and what makes them unreadable."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssljax.data.bbbc021.metadata import CHANNELS, Field


class Broken(Exception):
    """A field that cannot be used; the message is the reason, for the manifest."""


def index_files(raw: Path) -> dict[tuple[str, str], Path]:
    """Every TIFF below a folder, by the plate's folder that it lies in and its name.

    The published archives unpack to PLATE/ or WEEK/PLATE/, according to how; the plate's folder is what they share.
    """
    found = {}
    for folder, _, names in os.walk(raw, followlinks=True):
        plate = Path(folder).name
        found.update({(plate, name): Path(folder, name) for name in names if name.lower().endswith((".tif", ".tiff"))})
    return found


def paths_of(field: Field, found: dict[tuple[str, str], Path]) -> tuple[Path | None, ...]:
    """The field's files in the order of the channels, None for one that is not there."""
    return tuple(found.get((folder.rpartition("/")[2], name)) for folder, name in zip(field.folders, field.files))


def read_field(field: Field, paths: Sequence[Path | None]) -> NDArray[np.uint16]:
    """The pixels of a field [3, h, w].

    Raises:
      Broken: a channel without file, or one that is truncated, not of 16 bits, not grey, or of another size.
    """
    missing = [f"{channel} ({name})" for channel, name, path in zip(CHANNELS, field.files, paths) if path is None]
    if missing:
        raise Broken(f"no file for {', '.join(missing)}")
    images = [_read(path) for path in paths if path is not None]
    if len({image.shape for image in images}) > 1:
        raise Broken(f"channels differ in size: {', '.join(str(image.shape) for image in images)}")
    return np.stack(images)


def _read(path: Path) -> NDArray[np.uint16]:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of a damaged file is said by us
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            end = max(np.add(page.dataoffsets, page.databytecounts), default=0)
            # Of a compressed strip that is cut short the reader makes zeros, without a word.
            if end > file.filehandle.size:
                raise Broken(f"{path.name}: truncated, {file.filehandle.size} of {end} bytes")
            image = page.asarray()
    except Broken:
        raise
    except Exception as error:  # the reader raises whatever a damaged header leads it into
        raise Broken(f"{path.name}: not a readable TIFF ({error})") from error
    if image.dtype != np.uint16:
        raise Broken(f"{path.name}: {image.dtype}; expected uint16")
    if image.ndim != 2:
        raise Broken(f"{path.name}: shape {image.shape}; expected one grey image")
    return image
