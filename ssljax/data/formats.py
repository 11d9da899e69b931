"""From the bytes of an image file to an array [h, w, c] of uint8 or uint16, without a bit lost: PNG, JPEG, BMP, WebP, TIFF, .npy.

What a file is, is told by its first bytes, not by its name. Pillow reads what it keeps whole; images of several channels of 16
bits, of other numbers of channels than 1, 3 and 4, and of several pages are read by tifffile and imagecodecs.
"""

import io
from typing import Any

import numpy as np

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".npy")

NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Channels of an .npy of three axes above which it is rather a stack of grey images, or [c, h, w]: as many as the transforms for
# cells are defined for (`augment.cells.CHANNELS`).
MOST_CHANNELS = 16
# Samples of a TIFF's colour models that are no alpha, by PhotometricInterpretation (TIFF 6.0): white or black is zero, RGB, CMYK,
# YCbCr, L*a*b*.
_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4, 6: 3, 8: 3}
_ALPHA = (1, 2)  # values of the tag ExtraSamples that mean alpha; 0 is anything else


class Broken(Exception):
    """The bytes are not a whole image."""


class Unkept(Broken):
    """The image is whole, but cannot be kept as it is; the message says what it is and what was expected."""


def decode(data: bytes, where: str = "", animated: list[str] | None = None) -> np.ndarray:
    """Decodes an image file.

    Grey images keep one channel, and 16 bits keep 16. Palette, CMYK and other colour models become RGB; an alpha channel is
    dropped, not blended; EXIF orientation is not applied (both as torchvision's folders do). The pages of a TIFF are its channels.

    Args:
      data: the file's bytes.
      where: the file; added to `animated` where it holds several frames, of which the first is read.
      animated: see there.

    Returns:
      uint8 or uint16 [h, w, c].

    Raises:
      Broken: the bytes cannot be decoded; `Unkept` where they can, but hold floats, 32 bits, no pixel, or more axes than an image.
    """
    from PIL import Image

    try:
        if data[: len(NPY)] == NPY:
            pixels = of_array(np.load(io.BytesIO(data), allow_pickle=False))
        else:
            with Image.open(io.BytesIO(data)) as image:
                pixels = _to_array(image, data)
                if animated is not None and image.format != "TIFF" and getattr(image, "n_frames", 1) > 1:
                    animated.append(where)
    except Broken:
        raise
    except Image.UnidentifiedImageError as error:
        if data[:4] not in _TIFF:
            raise Broken("not an image" if data else "empty") from error
        pixels = _read_tiff(data)
    except Exception as error:  # decoders raise whatever their format's parser stumbles over
        raise Broken(str(error)) from error
    if 0 in pixels.shape:
        raise Unkept(f"0 pixels, of shape {pixels.shape}")
    return pixels


def of_array(array: np.ndarray, most: int = MOST_CHANNELS) -> np.ndarray:
    """An array [h, w] or [h, w, c] as an image [h, w, c].

    Args:
      array: uint8 or uint16.
      most: channels above which three axes are taken for something else; 0 where they are known to be [h, w, c].

    Raises:
      Unkept: another shape or type.
    """
    native = array.dtype.newbyteorder("=")
    if native not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise Unkept(f"{array.dtype} pixels; expected uint8 or uint16")
    if array.ndim not in (2, 3):
        raise Unkept(f"shape {array.shape}; expected [h, w] or [h, w, c]")
    # Nobody's images are 4 pixels high and have 17 channels: these are PyTorch's [c, h, w].
    if array.ndim == 3 and array.shape[0] <= 4 and array.shape[2] > MOST_CHANNELS:
        raise Unkept(f"shape {array.shape}; expected channels last, [h, w, c]")
    if array.ndim == 3 and most and array.shape[2] > most:
        raise Unkept(f"shape {array.shape}; expected [h, w, c] with at most {most} channels, or a stack [n, h, w, c]")
    return np.ascontiguousarray(array[..., None] if array.ndim == 2 else array, native)


def _to_array(image: Any, data: bytes) -> np.ndarray:
    if image.format == "TIFF" and not _whole_in_pillow(image):
        return _read_tiff(data)
    if image.format == "PNG" and data[24] == 16 and data[25] != 0:  # IHDR: bit depth, colour type 0 is grey
        return _read_deep_png(data)
    if image.mode.startswith("I;16"):
        return np.asarray(image)[..., None].astype(np.uint16)
    if image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "32-bit"
        raise Unkept(f"{kind} pixels; expected 8 or 16 bits")
    target = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _read_deep_png(data: bytes) -> np.ndarray:
    """16 bits of grey and alpha, colour, or colour and alpha, of which Pillow keeps the upper 8."""
    import imagecodecs

    pixels = imagecodecs.png_decode(data)
    return pixels[..., : 1 if pixels.shape[-1] == 2 else 3]


def _whole_in_pillow(image: Any) -> bool:
    """Whether Pillow keeps all channels and bits of a TIFF."""
    tags = image.tag_v2
    samples, colours = tags.get(277, 1), _COLOURS.get(tags.get(262, 1))  # SamplesPerPixel, PhotometricInterpretation
    if image.n_frames > 1 or samples == 1:
        return image.n_frames == 1
    if colours is None or max(tags.get(258, (1,))) > 8:  # BitsPerSample
        return False
    extra = tags.get(338, ())  # ExtraSamples
    return samples == colours or (samples == colours + 1 and tuple(extra)[:1] in ((one,) for one in _ALPHA))


def _read_tiff(data: bytes) -> np.ndarray:
    """Multi-channel TIFF beyond Pillow: 16-bit colour, 2 channels or more than 4, a page a channel."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series, pages = file.series, len(file.pages)
            page: Any = series[0].keyframe
            axes, pixels = series[0].axes, series[0].asarray()
    except Exception as error:  # as in `decode`
        raise Broken(str(error)) from error
    if len(series) > 1:
        raise Unkept(f"TIFF of {pages} pages that differ in size; expected pages that are channels of one image")
    others = [axis for axis in axes if axis not in "YX"]
    if len(others) > 1 or not {"Y", "X"} <= set(axes):
        shape = "x".join(map(str, pixels.shape))
        raise Unkept(f"TIFF with axes {axes} of {shape}; expected an image, or one axis of channels beside Y and X")
    if pixels.dtype.newbyteorder("=") not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise Unkept(f"{pixels.dtype} pixels; expected 8 or 16 bits")
    if int(page.photometric) not in (0, 1, 2, 6):  # grey, RGB, YCbCr (which imagecodecs turns into RGB)
        colours = getattr(page.photometric, "name", "unknown").lower()
        raise Unkept(f"TIFF of {colours} colours with several pages or 16 bits; expected grey or RGB")
    if others:
        pixels = np.moveaxis(pixels, axes.index(others[0]), -1)
    if others == ["S"]:
        pixels = pixels[..., : pixels.shape[-1] - sum(int(one) in _ALPHA for one in page.extrasamples)]
    return (pixels if pixels.ndim == 3 else pixels[..., None]).astype(pixels.dtype.newbyteorder("="))
