"""Resizing against scikit-image on known pixels, and what is said of images that differ."""

import numpy as np
import pytest
import skimage.transform

from ssljax.data.pixels import BLOCK, SameShape, in_blocks, resize
from ssljax.errors import UserError


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
