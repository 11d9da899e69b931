"""Folders of odd files: broken, empty, of 1 pixel, CMYK, deep, animated, misnamed; stacks; and a file for each channel."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssljax import augment, data
from ssljax.data.listed import pattern
from ssljax.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture
def load(tmp_path):
    """A function that loads the folder `set` of `tmp_path`."""
    return lambda **options: data.load(f"folder:{tmp_path}/set", cache_dir=str(tmp_path / "cache"), **options)


def together(dataset):
    return np.concatenate([part.images for part in dataset.splits.values()])


def same_images(given, expected):
    assert given.dtype == expected.dtype
    assert sorted(image.tobytes() for image in given) == sorted(image.tobytes() for image in expected)


def test_a_folder_of_odd_files(tmp_path, load, caplog):
    """Six sound pictures as everything that a colour picture of 8 bits may be, and all that may be wrong with a file."""
    root = tmp_path / "set"
    root.mkdir()
    pixels = RANDOM.integers(0, 256, (6, 4, 5, 3), np.uint8)
    pixels[5] = [0, 255, 255]
    whole = [Image.fromarray(image) for image in pixels]
    whole[0].save(root / "plain.png")
    whole[1].save(root / "misnamed.jpg", format="PNG")
    whole[2].save(root / "animated.webp", lossless=True, save_all=True, append_images=whole[:2])
    whole[3].convert("RGBA").save(root / "clear.bmp", format="PNG")
    np.save(root / "array.npy", pixels[4])
    Image.fromarray(np.full((4, 5, 4), [255, 0, 0, 0], np.uint8), "CMYK").save(root / "inks.tif")
    (root / "empty.png").touch()
    (root / "text.png").write_text("no image")
    whole[0].save(root / "cut.png")
    (root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:50])
    tifffile.imwrite(root / "float.tif", np.zeros((4, 5, 3), np.float32), photometric="rgb")
    np.save(root / "features.npy", np.zeros((100, 64)))
    with caplog.at_level(logging.WARNING):
        found = load()
    same_images(together(found), pixels)
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: 5 of 11 images cannot be read and are left out: cut.png, empty.png, features.npy (float64 pixels; expected "
        "uint8 or uint16), float.tif (float32 pixels; expected 8 or 16 bits), text.png",
        f"{root}: of 1 files with several frames the first is read: animated.webp",
    ]


def test_one_pixel_and_sixteen_bits_beside_others(tmp_path, load):
    (tmp_path / "set").mkdir()
    for i in range(5):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / "set" / f"{i}.png")
    Image.fromarray(np.full((1, 1, 3), 99, np.uint8)).save(tmp_path / "set" / "dot.png")
    with pytest.raises(UserError, match=r"dot.png is 1x1 pixels .*0.png is 4x4 .*--resize=SIDE"):
        load()
    same_images(together(load(image_size=4))[:, 0, 0, 0], np.array([0, 1, 2, 3, 4, 99], np.uint8))
    tifffile.imwrite(tmp_path / "set" / "dot.png", np.zeros((4, 4, 3), np.uint16), photometric="rgb")
    with pytest.raises(UserError, match="dot.png is 4x4 .*uint16, .*0.png .*uint8; .*same channels and bits$"):
        load()


def test_stacks_are_as_many_images(tmp_path, load):
    stack = RANDOM.integers(0, 65536, (7, 6, 5, 20), np.uint16)
    for name, part in [("a/one.npy", stack[:5]), ("b/two.npy", stack[5:])]:
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        np.save(tmp_path / "set" / name, part)
    found = load()
    same_images(together(found), stack)
    assert sorted(np.concatenate([part.labels for part in found.splits.values()])) == [0] * 5 + [1] * 2


def channel_files(root, pixels, name):
    for i, image in enumerate(pixels):
        for c in range(image.shape[-1]):
            path = root / name(i, c)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, image[..., c])


@pytest.mark.parametrize(
    "text, name",
    [
        ("{stem}_w{1,2,3}.tif", lambda i, c: f"{'ab'[i % 2]}/deep/{i}_w{c + 1}.tif"),
        ("{stem}_w{1,2,3}*.tif", lambda i, c: f"{'ab'[i % 2]}/B_w{i}_w{c + 1}{'AF0'[c] * i}.tif"),
        ("{DAPI,GFP,Actin}/{stem}.tif", lambda i, c: f"{'ab'[i % 2]}/{['DAPI', 'GFP', 'Actin'][c]}/{i}.tif"),
        ("{stem}-ch{1,11,2}*.tif", lambda i, c: f"{'ab'[i % 2]}/{i}-ch{[1, 11, 2][c]}sk1.tif"),
    ],
)
def test_a_file_a_channel(tmp_path, load, text, name):
    pixels = RANDOM.integers(0, 65536, (10, 4, 5, 3), np.uint16)
    if "ch{1," in text:
        text = "{stem}-ch{1,11,2}sk1.tif"  # with "*", 11 would be 1 as well
    channel_files(tmp_path / "set", pixels, name)
    found = load(channel_files=text)
    same_images(together(found), pixels)
    assert found.class_names == ("a", "b")
    for split in found.splits.values():
        for image, label in zip(split.images, split.labels):
            (number,) = np.flatnonzero((pixels == image).all((1, 2, 3)))
            assert label == number % 2


def test_an_image_without_a_channel_is_named(tmp_path, load, caplog):
    root = tmp_path / "set"
    pixels = RANDOM.integers(0, 256, (8, 4, 5, 2), np.uint8)
    channel_files(root, pixels, lambda i, c: Path(f"{i}_{'rg'[c]}.tif"))
    (root / "2_g.tif").unlink()
    tifffile.imwrite(root / "3_g.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(root / "4_r.tif", np.zeros((3, 5), np.uint8))
    (root / "5_g.tif").write_bytes(b"")
    Image.fromarray(pixels[0, ..., 0]).save(root / "thumbnail.png")
    with caplog.at_level(logging.WARNING):
        found = load(channel_files="{stem}_{r,g}.tif")
    same_images(together(found), pixels[[0, 1, 6, 7]])
    assert [record.getMessage().removeprefix(f"{root}: ") for record in caplog.records] == [
        "1 of 16 images do not fit --channel_files and are not read",
        "4 of 8 images cannot be read and are left out: 2 (no file of channel g beside 2_r.tif), 3_r.tif|3_g.tif (3_g.tif has "
        "3 channels; expected a file for each), 4_r.tif|4_g.tif (4_g.tif is 5x4 pixels (width x height) with 1 channel of "
        "uint8, 4_r.tif is 5x3 pixels (width x height) with 1 channel of uint8), 5_r.tif|5_g.tif",
    ]
    with pytest.raises(UserError, match="no image has all channels of --channel_files; .*no file of channel b"):
        load(channel_files="{stem}_{r,g,b}.tif")
    with pytest.raises(UserError, match=r"none of the 16 images of .*, as 0_g.tif, fits '\{stem\}_w\{1,2\}.tif'"):
        load(channel_files="{stem}_w{1,2}.tif")
    with pytest.raises(UserError, match="0_g.tif and 1_g.tif are both channel g of one image"):
        load(channel_files="*{stem}{r,g}.tif")


@pytest.mark.parametrize(
    "text", ["_w1.tif", "{stem}.tif", "{stem}_{1}.tif", "{a,b}.tif", "{stem}{stem}{1,2}", "{stem}_{1,1}"]
)
def test_patterns_without_a_stem_or_channels(text):
    with pytest.raises(
        UserError, match="--channel_files: given .*; expected {stem} and one list of two or more channels"
    ):
        pattern(text)


def test_no_classes(tmp_path, load):
    for i in range(5):
        path = tmp_path / "set" / ("x" * (i % 3)) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(path)
    with pytest.raises(UserError, match="lies beside class folders; .*--label=none"):
        load()
    found = load(label="none")
    assert found.class_names is None and found.splits["train"].labels is None
    of_path = {}
    for split in found.splits.values():
        of_path |= dict(zip(split.columns["path"].tolist(), split.images[:, 0, 0, 0].tolist()))
    assert of_path == {"0.png": 0, "x/1.png": 1, "xx/2.png": 2, "3.png": 3, "x/4.png": 4}


@pytest.mark.parametrize("channels", [2, 4, 5, 16])
def test_any_number_of_channels(tmp_path, load, channels):
    pixels = RANDOM.integers(0, 65536, (6, 8, 8, channels), np.uint16)
    (tmp_path / "set").mkdir()
    for i, image in enumerate(pixels):
        tifffile.imwrite(tmp_path / "set" / f"{i}.tif", np.moveaxis(image, -1, 0), photometric="minisblack")
    found = load()
    same_images(together(found), pixels)
    assert len(found.mean) == len(found.std) == channels
    (view, *_) = augment.parse("cells_biology").views
    augment.check(view, channels)
    for text, name in [("hue(strength=0.1)", "hue"), ("grayscale()", "grayscale")]:
        with pytest.raises(UserError, match=f"transform '{name}.*' got images of {channels} channels, expected 3"):
            augment.check(augment.parse(text).views[0], channels)


def test_images_are_read_one_by_one_too(tmp_path):
    pixels = RANDOM.integers(0, 256, (4, 3, 3, 2), np.uint8)
    channel_files(tmp_path / "set", pixels, lambda i, c: Path(f"{i}_{c}.tif"))
    (tmp_path / "set" / "2_1.tif").write_bytes(b"")
    request = data.Request(f"folder:{tmp_path}/set", f"{tmp_path}/set", "", "", 0, channel_files="{stem}_{0,1}.tif")
    files = data.folder.source(request).open().streams["train"].files
    load = pickle.loads(pickle.dumps(files.load))  # worker processes hold it
    assert [load(path) is None for path in files.paths] == [False, False, True, False]
    np.testing.assert_array_equal(load(files.paths[3]), pixels[3])
