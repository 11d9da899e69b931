"""Images that stay in their files: what is read of them, in what order, and what is known of a set without decoding it."""

import functools
import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from ssljax import data
from ssljax.data import build, listing
from ssljax.data.batches import OnDisk, Pieces, order, reading
from ssljax.data.files import Decoded, Files, decoded
from ssljax.errors import UserError


def numbered(broken, number):
    """An image that shows its number; None of those that are broken."""
    return None if number in broken else np.full((2, 3, 1), number, np.uint8)


def made(n=10, broken=()):
    return Decoded(functools.partial(numbered, frozenset(broken)), n, (2, 3, 1), np.uint8, "image {}".format)


@pytest.mark.parametrize(
    "key", [3, -1, slice(2, 7, 2), np.array([[4, 1], [1, 9]]), [0, 0], np.arange(10) % 3 == 0, np.zeros(10, bool)],
    ids=str,
)  # fmt: skip
def test_it_is_indexed_as_an_array(key):
    whole = np.stack([np.full((2, 3, 1), number, np.uint8) for number in range(10)])
    images = pickle.loads(pickle.dumps(made()))
    assert np.array_equal(images[key], whole[key]) and images[key].dtype == np.uint8
    assert np.array_equal(np.asarray(images), whole) and images.nbytes == whole.nbytes
    rows = np.array([7, 2, 5])
    assert np.array_equal(images.take(rows)[[2, 0]], whole[rows][[2, 0]])


def test_the_next_sound_image_stands_for_a_broken_one_and_is_told_once(caplog):
    images = made(broken=(1, 2, 9))
    assert images[:].mean((1, 2, 3)).tolist() == [0, 3, 3, 3, 4, 5, 6, 7, 8, 0]
    with caplog.at_level(logging.WARNING):
        images.tell(), images.tell()
    (line,) = caplog.messages
    assert line.startswith("3 of 10 images cannot be read") and line.endswith(": image 1, image 2, image 9")
    with pytest.raises(UserError, match="image 4: no image of this split can be read"):
        made(broken=range(10))[4]


def test_an_image_of_another_shape_is_refused_by_name():
    with pytest.raises(UserError, match="image 0: 3x2 pixels .* 1 channel .*expected 4x4 .*--resize"):
        Decoded(functools.partial(numbered, ()), 2, (4, 4, 1), np.uint8, "image {}".format)[0]


def test_rows_of_a_file_are_those_of_its_memory_map(tmp_path):
    whole = np.random.RandomState(0).randint(0, 2**16, (50, 3, 4, 2)).astype(np.uint16)
    np.save(tmp_path / "images.npy", whole)
    rows = np.array([49, 0, 7, 7])
    assert np.array_equal(OnDisk(np.load(tmp_path / "images.npy", mmap_mode="r"))[rows], whole[rows])


def test_the_order_is_a_permutation_that_never_changes():
    assert order(0, 6).tolist() == [3, 5, 4, 0, 2, 1]
    assert sorted(order(3, 1000)) == list(range(1000)) and not np.array_equal(order(3, 1000), order(4, 1000))


def test_steps_are_the_same_with_workers_and_from_the_middle_on():
    images = made(n=130, broken=(5, 77))
    per_epoch, columns = 4, np.arange(8, 24)  # of batches of 32, as of the middle devices of several processes
    pieces = Pieces(images, 32, per_epoch, 8, columns)
    expected = []
    for step in range(8):
        rows = order(step // per_epoch, 130)[step % per_epoch * 32 :][:32][columns]
        expected.append((np.where(np.isin(rows, (5, 77)), rows + 1, rows), sorted({5, 77} & set(rows.tolist()))))
    for first, workers in ((0, 0), (3, 0), (3, 2)):
        with reading(pieces, first, workers) as found:
            got = list(found)
        assert len(got) == 8 - first
        for (pixels, broken), (rows, lost) in zip(got, expected[first:]):
            assert np.array_equal(pixels[:, 0, 0, 0], rows) and broken.tolist() == lost


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 pictures of two classes, one broken, as class folders."""
    monkeypatch.setenv("SSLJAX_CACHE", str(tmp_path / "cache"))
    pixels = np.random.RandomState(1).randint(0, 256, (40, 9, 9, 3), np.uint8)
    for number, each in enumerate(pixels):
        (place := tmp_path / "set" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(place / f"{number:02}.png")
    return tmp_path / "set"


def test_a_decoded_set_is_the_cached_one(folder, monkeypatch):
    given = dict(validation_fraction=0.25, image_size=8)
    cached, stays = (data.load(f"folder:{folder}", decode=decode, **given) for decode in (False, True))
    assert list(stays.splits) == list(cached.splits) and stays.class_names == cached.class_names
    for name, split in cached.splits.items():
        assert isinstance(stays.splits[name].images, Decoded)
        assert np.array_equal(stays.splits[name].images[:], split.images)
        assert np.array_equal(stays.splits[name].labels, split.labels)
    # All images of the source's one split are fewer than the sample: those that are held out count too.
    every = np.concatenate([split.images for split in cached.splits.values()]) / 255
    assert np.allclose(stays.mean, every.mean((0, 1, 2))) and np.allclose(stays.std, every.std((0, 1, 2)))
    assert stays.fingerprint != cached.fingerprint
    monkeypatch.setattr(build, "channel_statistics", None)  # the second start decodes nothing
    assert data.load(f"folder:{folder}", decode=True, **given).fingerprint == stays.fingerprint
    part = data.part(stays, 8)
    assert len(part.splits["train"].images) == 8 and part.fingerprint not in (stays.fingerprint, cached.fingerprint)
    assert isinstance(part.splits["train"].images, Decoded)


def test_the_fingerprint_is_the_files_and_their_labels(folder):
    def fingerprint():
        return data.load(f"folder:{folder}", decode=True).fingerprint

    first = fingerprint()
    os.utime(folder / "a" / "00.png", ns=(1, 1))
    assert fingerprint() == first
    shutil.move(folder / "a" / "00.png", folder / "b" / "00.png")
    assert fingerprint() != first


def test_a_broken_picture_keeps_its_place(folder, caplog):
    (folder / "a" / "04.png").write_bytes(b"not a picture")
    images = data.load(f"folder:{folder}", decode=True).splits["train"].images
    names = [images.name_of(row) for row in range(len(images))]
    at = names.index("a/04.png")
    assert np.array_equal(images[at], images[at + 1]) and images.broken == {at}


def test_statistics_are_of_a_sample(monkeypatch):
    monkeypatch.setattr(build, "SAMPLE", 3)
    files = Files([str(n) for n in range(9)], None, lambda path: np.full((1, 1, 1), int(path) * 10, np.uint8))
    stream = data.source.Stream(9, False, list, dict, files)
    known = build.looked_at("some", data.source.Contents({"train": stream}, None, list))
    assert known["mean"] == pytest.approx((40 / 255,))  # of 0, 40 and 80
    assert np.array_equal(decoded(files)[2], np.full((1, 1, 1), 20))


def test_sources_without_random_access_are_refused():
    with pytest.raises(UserError, match="--stream=decode: the images of digits cannot be read one by one"):
        data.load("digits", decode=True)


def test_a_large_folder_is_gone_through_once(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "WHOLE", 10)
    root, keep = tmp_path / "set", data.folder.everything
    for name in "abc":
        (root / name).mkdir(parents=True)
        for number in range(5):
            (root / name / f"{number}.png").write_bytes(bytes(number))
    (root / "a" / ".hidden").touch()
    (root / "c" / "up").symlink_to(root)

    def files():
        return listing.files_under(str(root), keep, str(tmp_path / "cache"))

    expected = sorted(f"{name}/{number}.png" for name in "abc" for number in range(5))
    first = files()
    assert [file.path for file in first] == expected and [file.size for file in first] == [0, 1, 2, 3, 4] * 3
    with monkeypatch.context() as patch:
        patch.setattr(listing, "_walked", None)
        assert files() == first
    (root / "b" / "new.png").touch()
    assert [file.path for file in files()] == sorted([*expected, "b/new.png"])
    (root / "b" / "new.png").write_bytes(b"more")  # in place: the folder's time is as it was, the file is in the sample
    assert next(file.size for file in files() if file.path == "b/new.png") == 4
    (tmp_path / "cache" / next(iter(os.listdir(tmp_path / "cache")))).write_bytes(b"PK cut off")
    assert len(files()) == 16


def test_what_was_found_out_is_found_out_again_where_the_source_changed(tmp_path):
    from ssljax.data.cache import remembered

    assert remembered(str(tmp_path / "x"), {"bytes": 1}, lambda: {"mean": (0.1, 0.2)}) == {"mean": [0.1, 0.2]}
    assert remembered(str(tmp_path / "x"), {"bytes": 1}, dict) == {"mean": [0.1, 0.2]}
    assert remembered(str(tmp_path / "x"), {"bytes": 2}, lambda: {"mean": [3]}) == {"mean": [3]}
    path = tmp_path / "x" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())).replace("3", "4", 1))
    assert remembered(str(tmp_path / "x"), {"bytes": 2}, lambda: {"mean": [5]}) == {"mean": [5]}
