"""Decoding against Pillow, tifffile and imagecodecs on known pixels, and files that are not what they seem."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from ssljax.data.formats import MOST_CHANNELS, Broken, Unkept, decode

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


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("form", ["plain", "imagej", "ome", "lzw", "Pillow"])
def test_pages_of_a_tiff_are_channels(form, dtype, channels):
    pages = RANDOM.integers(0, np.iinfo(dtype).max, (channels, 6, 9), dtype, endpoint=True)
    if form == "Pillow":
        first, *others = map(Image.fromarray, pages)
        data = encoded(first, format="TIFF", save_all=True, append_images=others)
    else:
        options = {
            "plain": {},
            "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
            "ome": {"ome": True, "metadata": {"axes": "CYX"}},
            "lzw": {"compression": "lzw"},
        }[form]
        data = tiff(pages, photometric="minisblack", **options)
    pixels = decode(data, "a")
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, np.moveaxis(pages, 0, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_sample_is_kept_unless_it_is_alpha(dtype):
    image = RANDOM.integers(0, 256, (6, 9, 4)).astype(dtype) * dtype(np.iinfo(dtype).max // 255)
    for extra, kept in [("unspecified", 4), ("unassalpha", 3)]:
        data = tiff(image, photometric="rgb", extrasamples=[extra])
        np.testing.assert_array_equal(decode(data, "a"), image[..., :kept])
    data = tiff(image[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode(data, "a"), image[..., :1])


def test_sixteen_bit_colour_png_keeps_all_bits():
    image = RANDOM.integers(0, 65536, (5, 7, 4), np.uint16)
    for samples, kept in [(2, 1), (3, 3), (4, 3)]:  # grey and alpha, colour, colour and alpha
        data = imagecodecs.png_encode(np.ascontiguousarray(image[..., :samples]))
        pixels = decode(data, "a")
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels, image[..., :kept])
        with pytest.raises(Broken):
            decode(data[:-60], "a")


def test_twelve_bits_in_sixteen_stay_as_they_are():
    image = RANDOM.integers(0, 4096, (6, 9, 3), np.uint16)
    np.testing.assert_array_equal(decode(tiff(image, photometric="rgb", bitspersample=12), "a"), image)  # packed
    np.testing.assert_array_equal(decode(tiff(image, photometric="rgb"), "a"), image)


def test_arrays():
    for array in [DEEP, COLOUR, COLOUR[..., :2], DEEP.astype(">u2"), np.asfortranarray(COLOUR)]:
        file = io.BytesIO()
        np.save(file, array)
        pixels = decode(file.getvalue(), "misnamed.png")
        assert pixels.dtype == array.dtype.newbyteorder("=") and pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, array.reshape(5, 7, -1))
        with pytest.raises(Broken):
            decode(file.getvalue()[:-1], "a")


def test_of_several_frames_the_first_is_read_and_said():
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (50, 100, 150)]
    for form, options in [("PNG", {}), ("WebP", {"lossless": True})]:
        said = []
        pixels = decode(
            encoded(frames[0], format=form, save_all=True, append_images=frames[1:], **options), "a.x", said
        )
        assert said == ["a.x"] and pixels.shape == (4, 6, 3) and np.all(pixels == 50)
    said = []
    decode(encoded(COLOUR, format="PNG"), "b", said)
    decode(tiff(np.zeros((3, 4, 5), np.uint8), photometric="minisblack"), "c", said)  # channels, not frames
    assert not said


def test_one_pixel():
    np.testing.assert_array_equal(decode(tiff(np.full((1, 1), 7, np.uint16)), "a"), np.full((1, 1, 1), 7))
    np.testing.assert_array_equal(decode(encoded(COLOUR[:1, :1], format="PNG"), "a"), COLOUR[:1, :1])


def _pages_of_two_sizes():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(DEEP)
        writer.write(DEEP[:3])
    return file.getvalue()


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (tiff(np.zeros((3, 4), np.float32)), "float pixels; expected 8 or 16 bits"),
        (tiff(np.zeros((3, 4), np.uint32)), ".* pixels; expected 8 or 16 bits"),
        (tiff(np.zeros((3, 4, 2), np.float32), photometric="minisblack", planarconfig="contig"), "float32 pixels"),
        (tiff(np.zeros((2, 3, 4), bool), photometric="minisblack"), "bool pixels"),
        (_pages_of_two_sizes(), "TIFF of 2 pages that differ in size"),
        (
            tiff(np.zeros((2, 3, 6, 9), np.uint16), imagej=True, metadata={"axes": "ZCYX"}),
            "TIFF with axes ZCYX of 2x3x6x9; expected an image, or one axis of channels",
        ),
        (tiff(np.zeros((2, 6, 9, 3), np.uint8), photometric="rgb"), "TIFF with axes .YXS of 2x6x9x3"),
        (tiff(np.zeros((6, 9, 4), np.uint16), photometric="separated"), "separated colours"),
        (_npy(np.zeros((4, 5))), "float64 pixels; expected uint8 or uint16"),
        (_npy(np.zeros((3, 32, 32), np.uint8)), "expected channels last"),
        (_npy(np.zeros((100, 64, 64), np.uint8)), f"at most {MOST_CHANNELS} channels, or a stack"),
        (_npy(np.zeros((2, 4, 5, 1), np.uint8)), r"shape \(2, 4, 5, 1\); expected \[h, w\]"),
        (_npy(np.zeros((0, 5), np.uint8)), "0 pixels"),
    ],
)
def test_sound_files_that_would_lose_something(data, message):
    with pytest.raises(Unkept, match=message):
        decode(data, "a.x")
