"""Image transforms with traced probabilities and strengths, their compositions, and the papers' sets by name.

A transform is `sample(key, hyper) -> drawn` and `apply(image, drawn) -> image` on one float image `[height,
width, channels]` in [0, 1]; a transform set says what makes which view.

    chosen = parse("mnist_first")
    hyper(chosen)                                   # what a sweep can vary
    apply_view(chosen.views[0], key, images, hyper(chosen)["view1"], image_size=32)
"""

from ssljax.augment.catalogue import TRANSFORMS, check_value
from ssljax.augment.compose import (
    TransformSet,
    View,
    apply_drawn,
    apply_view,
    check,
    check_hyper,
    hyper,
    hyper_of_views,
    local_view,
    names,
    sample_view,
    transform_set,
    weak_view,
)
from ssljax.augment.parse import parse, to_text
from ssljax.augment.sets import SETS
from ssljax.augment.transform import Geometry, Interval, Transform

__all__ = [
    "SETS",
    "TRANSFORMS",
    "Geometry",
    "Interval",
    "Transform",
    "TransformSet",
    "View",
    "apply_drawn",
    "apply_view",
    "check",
    "check_hyper",
    "check_value",
    "hyper",
    "hyper_of_views",
    "local_view",
    "names",
    "parse",
    "sample_view",
    "to_text",
    "transform_set",
    "weak_view",
]
