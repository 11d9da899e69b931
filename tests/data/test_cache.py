"""The cache: warm starts equal cold ones, and whatever does not fit its source is rebuilt."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssljax import data
from ssljax.data import cache
from ssljax.errors import UserError

IMAGES = np.random.default_rng(2).integers(0, 256, (40, 6, 5, 3), np.uint8)
LABELS = np.arange(40) % 4


@pytest.fixture
def root(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    return tmp_path


def load(root, **options):
    return data.load(f"npz:{root}/set.npz", cache_dir=f"{root}/cache", **options)


def folder(root):
    (only,) = (path for path in (root / "cache").iterdir() if path.is_dir() and path.name[0] != ".")
    return only


def manifest(root):
    return json.loads((folder(root) / "manifest.json").read_text())


def write_manifest(root, content):
    text = json.dumps({"checksum": cache._checksum(content), "content": content})
    (folder(root) / "manifest.json").write_text(text)


def same(one, two):
    assert one._replace(splits={}) == two._replace(splits={})
    assert list(one.splits) == list(two.splits)
    for split in one.splits:
        np.testing.assert_array_equal(one.splits[split].images, two.splits[split].images)
        np.testing.assert_array_equal(one.splits[split].labels, two.splits[split].labels)


def test_a_warm_start_maps_the_same_arrays_and_writes_nothing(root, monkeypatch):
    cold = load(root, validation_fraction=0.25)
    before = {path: path.stat().st_mtime_ns for path in folder(root).iterdir()}
    assert len(before) == 7  # images and labels of three splits, the manifest; nothing left over
    monkeypatch.setattr(cache, "_build", None)  # any attempt to build would fail
    warm = load(root, validation_fraction=0.25)
    same(cold, warm)
    assert isinstance(warm.splits["validation"].images, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in folder(root).iterdir()} == before
    together = np.concatenate([part.images for part in warm.splits.values()])
    assert sorted(map(bytes, together)) == sorted(map(bytes, IMAGES))


def test_options_do_not_share_a_cache(root):
    plain, small, held = load(root), load(root, image_size=3), load(root, validation_fraction=0.5)
    assert len({one.fingerprint for one in (plain, small, held)}) == 3
    same(load(root), plain)
    same(load(root, image_size=3), small)


def test_the_fingerprint_follows_content_not_place(root):
    one = load(root)
    np.savez_compressed(root / "other.npz", labels=LABELS, images=IMAGES)
    two = data.load(f"npz:{root}/other.npz", cache_dir=f"{root}/cache")
    assert one.fingerprint == two.fingerprint
    np.savez(root / "third.npz", images=IMAGES, labels=(LABELS + 1) % 4)
    assert data.load(f"npz:{root}/third.npz", cache_dir=f"{root}/cache").fingerprint != one.fingerprint


def test_a_changed_source_is_read_again(root):
    old = load(root)
    mapped = old.splits["train"].images
    kept = np.array(mapped)
    np.savez(root / "set.npz", images=255 - IMAGES, labels=LABELS)
    new = load(root)
    np.testing.assert_array_equal(new.splits["train"].images, 255 - kept)
    np.testing.assert_array_equal(mapped, kept)  # who had the old one open still has it
    assert new.fingerprint != old.fingerprint
    np.savez(root / "set.npz", images=IMAGES[:20], labels=LABELS[:20])
    assert len(load(root).splits["train"].images) == 16
    os.remove(root / "set.npz")
    with pytest.raises(UserError, match="set.npz: no such file"):
        load(root)


def _cut(root):
    with open(folder(root) / "train.images.npy", "r+b") as file:
        file.truncate(500)


def _flip(root):
    with open(folder(root) / "train.images.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([255 - last[0]]))


def _swap_labels(root):
    path = folder(root) / "test.labels.npy"
    np.save(path, np.load(path)[::-1])


def _other_shape(root):
    path = folder(root) / "test.images.npy"
    images = np.load(path)
    np.save(path, images.transpose(0, 2, 1, 3))


def _older_format(root):
    write_manifest(root, {**manifest(root)["content"], "format": cache.FORMAT - 1})


def _edited(root):
    path = folder(root) / "manifest.json"
    path.write_text(path.read_text().replace('"mean": [\n   0.', '"mean": [\n   1.'))


CORRUPTIONS = {
    "cut": _cut,
    "flipped byte": _flip,
    "swapped labels": _swap_labels,
    "other shape": _other_shape,
    "older format": _older_format,
    "edited manifest": _edited,
    "no images": lambda root: os.remove(folder(root) / "train.images.npy"),
    "no manifest": lambda root: os.remove(folder(root) / "manifest.json"),
    "empty manifest": lambda root: (folder(root) / "manifest.json").write_text(""),
    "binary manifest": lambda root: (folder(root) / "manifest.json").write_bytes(b"\xff\xfe\0"),
    "list manifest": lambda root: (folder(root) / "manifest.json").write_text("[1]"),
    "no content": lambda root: write_manifest(root, {"format": cache.FORMAT}),
    "no npy": lambda root: (folder(root) / "train.images.npy").write_bytes(
        bytes((folder(root) / "train.images.npy").stat().st_size)
    ),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_a_damaged_cache_is_rebuilt(root, corrupt):
    good = load(root)
    kept = {split: (np.array(a), np.array(b)) for split, (a, b, _) in good.splits.items()}
    shutil.copytree(folder(root), root / "before")
    corrupt(root)
    again = load(root)
    assert again.fingerprint == good.fingerprint and again.mean == good.mean
    for split, (images, labels) in kept.items():
        np.testing.assert_array_equal(again.splits[split].images, images)
        np.testing.assert_array_equal(again.splits[split].labels, labels)
    # Rebuilt on disk, not merely answered around; and nothing else lies about.
    for path in (root / "before").iterdir():
        if path.suffix == ".npy":
            assert path.read_bytes() == (folder(root) / path.name).read_bytes()
    assert len([path for path in (root / "cache").iterdir() if path.is_dir()]) == 1


def test_a_copied_cache_is_trusted_after_hashing(root, monkeypatch):
    good = load(root)
    for path in folder(root).iterdir():
        os.utime(path)
    monkeypatch.setattr(cache, "_build", None)
    same(load(root), good)


def test_leftovers_of_a_killed_process_go(root):
    load(root)
    left = root / "cache" / f".{folder(root).name}.new-dead"
    left.mkdir()
    (left / "source.train.npy").write_bytes(b"half")
    _cut(root)
    load(root)
    assert not left.exists()


def test_two_processes_at_once(root):
    call = f"data.load('npz:{root}/set.npz', cache_dir='{root}/cache')"
    code = f"from ssljax import data; print({call}.fingerprint)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    prints = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert prints == {load(root).fingerprint}


def test_a_folder_that_cannot_be_written(root):
    (root / "cache").write_text("a file")
    with pytest.raises(
        UserError, match="cannot write the image cache .*cache/set.npz-.*: File exists; .*set SSLJAX_CACHE"
    ) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_disk_that_fills_up(root):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(UserError, match="cannot write the image cache .*File too large"):
            load(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (root / "cache").iterdir() if path.is_dir()] == []
    assert len(load(root).splits["train"].images) == 32


def test_a_disk_too_small_is_noticed_before_decoding(root, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    # 40 images of 90 bytes, and the 40 of train once more while they are divided.
    with pytest.raises(UserError, match="needs 7.2e-06 GB, 1e-07 GB are free"):
        load(root)


def test_the_default_place_is_the_environments(root, monkeypatch):
    monkeypatch.setenv("SSLJAX_CACHE", str(root / "mine"))
    data.load(f"npz:{root}/set.npz")
    assert any(path.name.startswith("set.npz-") for path in (root / "mine").iterdir())
    monkeypatch.delenv("SSLJAX_CACHE")
    monkeypatch.setenv("HOME", str(root))
    assert Path(cache.folder_for("", "x", {})).parent == root / ".cache" / "ssljax" / "data"


@pytest.mark.parametrize("count", [0, 1, 9, 10**5])
def test_written_arrays_are_plain_npy(tmp_path, count):
    path = str(tmp_path / "a.npy")
    writer = cache.NpyWriter(path, (2, 1), np.dtype(np.uint16))
    rows = np.arange(2 * count, dtype=np.uint16).reshape(count, 2, 1)
    for start in range(0, count, 30_000):
        writer.append(rows[start : start + 30_000])
    writer.close()
    np.testing.assert_array_equal(np.load(path), rows)
