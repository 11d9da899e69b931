"""Decoding and resizing against Pillow, tifffile and scikit-image on known pixels."""

import io

import numpy as np
import pytest
import skimage.transform
import tifffile
from PIL import Image

from ssljax.data.pixels import BLOCK, Broken, SameShape, decode, in_blocks, resize
from ssljax.errors import UserError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
GREY = COLOUR[..., 0]
DEEP = RANDOM.integers(0, 65536, (5, 7), np.uint16)


def encoded(image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WebP"])
def test_lossless_formats_give_the_pixels_back(form):
    options = {"lossless": True} if form == "WebP" else {}
    np.testing.assert_array_equal(decode(encoded(COLOUR, format=form, **options), "a"), COLOUR)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_grey_keeps_one_channel(form):
    np.testing.assert_array_equal(decode(encoded(GREY, format=form), "a"), GREY[..., None])


def test_jpeg_is_near_the_original():
    ramp = np.add.outer(np.arange(32), 2 * np.arange(32)).astype(np.uint8)
    pixels = decode(encoded(ramp, format="JPEG", quality=95), "a")
    assert pixels.shape == (32, 32, 1)
    assert np.abs(pixels[..., 0].astype(int) - ramp).max() <= 3


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept(form):
    pixels = decode(encoded(DEEP, format=form), "a")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, DEEP[..., None])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "channels, planar", [(1, None), (2, "contig"), (3, "contig"), (3, "separate"), (5, "separate")]
)
def test_sixteen_bit_tiff_of_any_channel_count(channels, planar, order):
    image = RANDOM.integers(0, 65536, (6, 9, channels), np.uint16)
    stored = image[..., 0] if channels == 1 else np.moveaxis(image, -1, 0) if planar == "separate" else image
    options = {"photometric": "rgb" if channels == 3 else "minisblack"}
    if planar:
        options["planarconfig"] = planar
    pixels = decode(tiff(stored, byteorder=order, **options), "a")
    assert pixels.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(pixels, image)


def test_palette_becomes_rgb():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(decode(encoded(image, format="PNG"), "a"), expected)


def test_cmyk_becomes_rgb():
    # No ink is white, full black is black, full cyan takes the red away.
    inks = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)
    pixels = decode(encoded(Image.fromarray(inks, "CMYK"), format="TIFF"), "a")
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [0, 0, 0], [0, 255, 255]]])


def test_alpha_is_dropped_not_blended():
    alpha = RANDOM.integers(0, 256, (5, 7, 1), np.uint8)
    np.testing.assert_array_equal(decode(encoded(np.concatenate([COLOUR, alpha], -1), format="PNG"), "a"), COLOUR)
    two = Image.fromarray(np.concatenate([GREY[..., None], alpha], -1), "LA")
    np.testing.assert_array_equal(decode(encoded(two, format="PNG"), "a"), GREY[..., None])


def test_one_bit_is_black_and_white():
    bits = np.array([[True, False, True]])
    np.testing.assert_array_equal(decode(encoded(bits, format="PNG"), "a")[..., 0], [[255, 0, 255]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        encoded(COLOUR, format="PNG")[:60],
        encoded(GREY, format="JPEG")[:-40],
        b"II*\0broken",
    ],
    ids=["empty", "text", "png cut", "jpeg cut", "tiff cut"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_bytes(data):
    with pytest.raises(Broken):
        decode(data, "a")


def _deep_colour_png():
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 258, 515, 65535))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data, message",
    [
        (_deep_colour_png(), "a.x: 16-bit colour PNG would lose 8 bits"),
        (tiff(np.zeros((3, 4), np.float32)), "a.x: float pixels"),
        (tiff(np.zeros((3, 4), np.uint32)), "a.x: .* pixels; expected 8 or 16 bits"),
        (
            tiff(np.zeros((3, 4, 2), np.float32), photometric="minisblack", planarconfig="contig"),
            "a.x: float32",
        ),
        (tiff(np.zeros((2, 3, 4), np.uint16), photometric="minisblack"), "a.x: TIFF of 2 pages"),
    ],
)
def test_sound_files_that_would_lose_something(data, message):
    with pytest.raises(UserError, match=message):
        decode(data, "a.x")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resize_is_antialiased_bilinear(channels, dtype):
    rows, columns = np.mgrid[:48, :48] / 48
    peak = np.iinfo(dtype).max
    smooth = np.stack([np.sin(3 * rows + c) * np.cos(2 * columns) * 0.5 + 0.5 for c in range(channels)], -1)
    pixels = resize(np.round(smooth * peak).astype(dtype), 16)
    assert pixels.dtype == dtype and pixels.shape == (16, 16, channels)
    # On a smooth image any antialiased reduction by three is close to the mean of each 3x3 block.
    expected = skimage.transform.downscale_local_mean(smooth, (3, 3, 1))
    np.testing.assert_allclose(pixels / peak, expected, atol=0.01)


def test_resize_of_a_checkerboard_averages_it():
    board = np.indices((64, 64)).sum(0).astype(np.uint8)[..., None] % 2 * 255
    middle = resize(board, 16)[2:-2, 2:-2]
    assert np.all(np.abs(middle.astype(int) - 127.5) < 4)


def test_resize_cuts_the_centre():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    np.testing.assert_array_equal(resize(wide, 10), np.full((10, 10, 3), 200))
    np.testing.assert_array_equal(resize(wide.transpose(1, 0, 2), 10), np.full((10, 10, 3), 200))
    same = wide[:, :10]
    assert resize(same, 10) is same


def test_same_shape_names_both_images():
    check = SameShape().check
    check(np.zeros((4, 5, 3), np.uint8), "one.png")
    check(np.zeros((4, 5, 3), np.uint8), "two.png")
    with pytest.raises(UserError, match="three.png is 4x5 .*one.png is 5x4 .*--resize"):
        check(np.zeros((5, 4, 3), np.uint8), "three.png")
    with pytest.raises(UserError, match="1 channel of uint8, .*3 channels.*same channels"):
        check(np.zeros((4, 5, 1), np.uint8), "grey.png")
    with pytest.raises(UserError, match="same channels and bits"):
        check(np.zeros((4, 5, 3), np.uint16), "deep.png")


@pytest.mark.parametrize("seconds", [0.0, 0.002])
def test_blocks_keep_the_order_in_and_out_of_threads(seconds):
    import threading
    import time

    threads = set()

    def load(share):
        threads.add(threading.get_ident())
        time.sleep(seconds * len(share))
        return [None if i % 7 == 3 else np.full((1, 1, 1), i % 251, np.uint8) for i in share]

    count = BLOCK + 50
    found = [
        (item, None if image is None else int(image[0, 0, 0]))
        for block, images in in_blocks(range(count), load)
        for item, image in zip(block, images, strict=True)
    ]
    assert found == [(i, None if i % 7 == 3 else i % 251) for i in range(count)]
    assert (len(threads) > 1) == (seconds > 0)
