"""A file is replaced whole or left as it was."""

import os

import pytest

from ssljax.files import replacing


@pytest.mark.parametrize("mode, old, new", [("w", "old", "new\r\né"), ("wb", b"old", b"\x00new")])
def test_takes_the_place_of_the_old_file_at_the_end(tmp_path, mode, old, new):
    path = tmp_path / "file"
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    for content in (old, new):  # where there was none, and over one
        with replacing(path, mode, **text) as file:
            file.write(content)
            file.flush()
            assert not path.exists() if content == old else path.read_bytes() == b"old"
        assert path.read_bytes() == (content if mode == "wb" else content.encode())
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def lines():
        yield "half of the n"
        raise error

    with pytest.raises(error), replacing(path) as file:
        file.writelines(lines())
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_told_and_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"), replacing(path) as file:
        file.write("new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_error_of_opening_is_the_one_raised(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nowhere" / "file"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), replacing(tmp_path / "file" / "below"):
        pass


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
