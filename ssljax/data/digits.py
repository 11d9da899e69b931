"""scikit-learn's real handwritten digits: 1,797 images of 8x8 pixels that come with the library.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998), its test part.
"""

import numpy as np

from ssljax.data.arrays import array_stream
from ssljax.data.source import Contents, Request, Source
from ssljax.errors import UserError

# Pixels count the set dots of a 4x4 cell: 0 to 16.
_HIGHEST = 16


def source(request: Request) -> Source:
    """The digits, scaled from 0..16 to 0..255 and rounded; nothing is read from disk but the library."""
    if request.place:
        raise UserError(f"data set '{request.name}': 'digits' takes nothing after a colon")

    def open_() -> Contents:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / _HIGHEST)).astype(np.uint8)[..., None]
        stream = array_stream(images, digits.target.astype(np.int32), request.image_size)
        return Contents({"train": stream}, tuple(str(name) for name in digits.target_names), list)

    return Source(location=None, identity=dict, open=open_)
