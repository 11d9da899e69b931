"""Images of any type and number of channels as something that people can look at."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIXTEEN_BITS = 2**16 - 1
_STRETCH = (0.5, 99.5)  # percentiles of the pixels that become black and full (our choice)


class Stretch(NamedTuple):
    """The darkest and the brightest that is shown of each channel [c], in units of the greatest whole number; None: as it is."""

    limits: tuple[NDArray[np.float64], NDArray[np.float64]] | None

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image [h, w, c] within the limits, for `display_image`; of three channels the first is blue."""
        if self.limits is None:
            return image
        low, high = self.limits
        unit = image / _SIXTEEN_BITS if np.issubdtype(image.dtype, np.integer) else image
        shown = np.clip((unit - low) / np.where(high > low, high - low, 1), 0, 1)
        return shown[..., ::-1] if shown.shape[-1] == 3 else shown


def stretch(images: NDArray[Any]) -> Stretch:
    """How images that are shown together are made visible: those of 16 bits, of which cameras fill a part, channel by channel.

    Other images are shown as they are. All images get the same limits, so that differences between them stay. Three channels of 16
    bits are taken for fluorescence with the nuclei first, as in BBBC021, and shown as is the custom: blue, green, red.

    Args:
      images: [n, h, w, c].
    """
    if images.dtype != np.uint16 or not images.size:
        return Stretch(None)
    low, high = np.percentile(images.reshape(-1, images.shape[-1]), _STRETCH, axis=0) / _SIXTEEN_BITS
    return Stretch((low, high))


def display_image(image: NDArray[Any]) -> NDArray[np.floating]:
    """Any image [h, w, c] as RGB in [0, 1] for people to look at.

    Whole numbers are divided by the greatest of their type. One channel is grey; two are orange and blue, which every
    reader tells apart; of
    more than three the first three are shown.
    """
    pixels = np.asarray(image)
    whole = np.issubdtype(pixels.dtype, np.integer)
    pixels = pixels / np.iinfo(pixels.dtype).max if whole else pixels.astype(np.float64)
    pixels = np.clip(np.nan_to_num(pixels), 0, 1)
    channels = pixels.shape[-1]
    if channels == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels == 2:
        # Two colours that add up to white, so that equal channels look grey.
        return pixels @ np.array([[1.0, 0.6, 0.1], [0.0, 0.4, 0.9]])
    return pixels[..., :3]
