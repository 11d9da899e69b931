"""FGVC-Aircraft in its archive's layout, written here: odd variants, the banner, splits, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from ssljax import data
from ssljax.errors import UserError

VARIANTS = ["A330-200", "Boeing 717", "F/A-18"]  # as the real list spells them
LISTS = {"train": [0, 1, 2, 2, 0], "val": [1, 2], "test": [2, 0, 1]}
GREY, BANNER = 60, 250


def write(root, height=56, variants=VARIANTS):
    """Image i of all is of grey level 60 + 8 i above, and has a bright banner of 20 rows."""
    folder = root / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{one}\n" for one in variants))
    number = 0
    for part, kinds in LISTS.items():
        lines = []
        for kind in kinds:
            pixels = np.full((height, 48, 3), GREY + 8 * number, np.uint8)
            pixels[-20:] = BANNER
            name = f"{34309 + number:07d}"
            Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg", quality=100, subsampling=0)
            lines.append(f"{name} {VARIANTS[kind]}\n")
            number += 1
        (folder / f"images_variant_{part}.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def load(tmp_path):
    return lambda name, **options: data.load(name, cache_dir=str(tmp_path / "cache"), **options)


def test_splits_variants_and_pixels_without_the_banner(tmp_path, load):
    write(tmp_path / "set", height=60)  # 40 rows of aircraft: no block of JPEG's 8 holds aircraft and banner
    found = load(f"aircraft:{tmp_path}/set")
    assert found.class_names == tuple(VARIANTS) and list(found.splits) == ["train", "validation", "test"]
    assert [part.labels.tolist() for part in found.splits.values()] == list(LISTS.values())
    number = 0
    for part in found.splits.values():
        assert part.images.shape[1:] == (40, 48, 3) and part.labels.dtype == np.int32
        for image in part.images:
            assert np.abs(image.astype(int) - (GREY + 8 * number)).max() <= 1
            number += 1


def test_the_banner_goes_before_the_image_is_resized(tmp_path, load):
    rows = np.random.default_rng(1).integers(0, 256, (69, 64, 3), np.uint8)
    folder = write(tmp_path / "set", height=69)
    for path in (folder / "images").iterdir():
        Image.fromarray(rows).save(path, quality=95)
    found = load("aircraft:set", data_dir=str(tmp_path), image_size=16).splits["test"].images[0]
    image = Image.open(next((folder / "images").iterdir()))
    image = image.crop((0, 0, 64, 49)).resize((21, 16), Image.Resampling.BILINEAR)  # 64 x 16 / 49 = 20.9
    np.testing.assert_array_equal(found, np.asarray(image)[:, 2:18])


def test_the_archives_own_folder_is_found_inside(tmp_path, load):
    write(tmp_path / "fgvc-aircraft-2013b")
    inside = load(f"aircraft:{tmp_path}")
    named = load("aircraft:fgvc-aircraft-2013b", data_dir=str(tmp_path))
    assert inside.fingerprint == named.fingerprint and len(named.splits["test"].labels) == 3


def test_a_changed_list_is_read_again(tmp_path, load):
    folder = write(tmp_path / "set")
    assert load(f"aircraft:{tmp_path}/set").splits["test"].labels.tolist() == [2, 0, 1]
    lines = (folder / "images_variant_test.txt").read_text().replace("F/A-18", "A330-200")
    (folder / "images_variant_test.txt").write_text(lines)
    assert load(f"aircraft:{tmp_path}/set").splits["test"].labels.tolist() == [0, 0, 1]


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (_remove("variants.txt"), "variants.txt: No such file or directory; expected FGVC-Aircraft 2013b's data/variants.txt"),
        (_remove("images_variant_val.txt"), "images_variant_val.txt: No such file"),
        (_remove("images/0034311.jpg"), "no data/images/0034311.jpg, which data/images_variant_train.txt lists"),
        (_write("variants.txt", b"A330-200\nF/A-18\n"), "'Boeing 717' is not among the variants of data/variants.txt"),
        (_write("variants.txt", b"\n"), "variants.txt: empty"),
        (_write("variants.txt", b"\xff\xfe"), "variants.txt: not UTF-8 text"),
        (_write("images_variant_test.txt", b"0034309\n"), "'0034309' in data/images_variant_test.txt: '' is not among"),
        (_write("images/0034310.jpg", b"\xff\xd8\xff"), "0034310.jpg: damaged"),
    ],
)  # fmt: skip
def test_what_is_refused_in_one_line(tmp_path, load, spoil, message):
    spoil(write(tmp_path / "set"))
    with pytest.raises(UserError, match=message) as caught:
        load(f"aircraft:{tmp_path}/set")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_folder_and_too_low_an_image(tmp_path, load):
    with pytest.raises(UserError, match="absent/data/variants.txt: No such file"):
        load(f"aircraft:{tmp_path}/absent")
    write(tmp_path / "set", height=20)
    with pytest.raises(UserError, match="20 rows; expected more than the 20 of the banner"):
        load(f"aircraft:{tmp_path}/set")
