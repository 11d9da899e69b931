"""The transform sets of the papers and of solo-learn, by name.

Paper 1 is "No Free Lunch in Self Supervised Representation Learning", paper 2 its journal sequel, "Exploring
self-supervised learning biases for microscopy image representation". solo is solo-learn, the library the
first was run with.
"""

from ssljax.augment.cells import channel_brightness, channel_contrast, channel_drop, defocus, elastic, quarter_turns
from ssljax.augment.color import color_jitter, grayscale
from ssljax.augment.compose import TransformSet, View, local_view, transform_set
from ssljax.augment.geometry import (
    affine,
    center_crop,
    horizontal_flip,
    padding,
    random_resized_crop,
    rotation,
    vertical_flip,
)
from ssljax.augment.pixel import color_inversion, gaussian_blur, random_erasing, solarize
from ssljax.augment.transform import Transform

_MNIST_ROTATION = rotation(degrees=25.0)  # paper 1, D.2
_MNIST_CROP = random_resized_crop(area_low=0.5, area_high=0.9)  # paper 1, D.2
_MNIST_PADDING = padding(low=0.1, high=0.4)  # paper 1, D.2
_MNIST_SECOND = (  # paper 1, D.2
    horizontal_flip(probability=0.5),
    vertical_flip(probability=0.5),
    rotation(degrees=180.0),
    random_resized_crop(area_low=0.9, area_high=1.1),
)

# Paper 1, appendix on cells, Table 2 and Figure 2.
_CELL_JITTER = color_jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.125)
_CELL_AFFINE = affine(degrees=20.0, translate=0.1, shear=10.0)
_CELL_CROP = random_resized_crop(area_low=0.9, area_high=1.1)
_CELL_TURNS = (horizontal_flip(probability=0.5), vertical_flip(probability=0.5), rotation(degrees=360.0))

_SOLO_CROP = random_resized_crop(area_low=0.08, area_high=1.0)
_SOLO_WIDE_CROP = random_resized_crop(area_low=0.2, area_high=1.0)
_MULTI_CROP = random_resized_crop(area_low=0.14, area_high=1.0)  # the global crops of SwAV, and of DINO for ResNets
_TWIST_CROP = random_resized_crop(area_low=0.4, area_high=1.0)  # the official program's
_SOLO_FLIP = horizontal_flip(probability=0.5)
_MILD = color_jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
_STRONG = color_jitter(probability=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
_EVEN = color_jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def _blur(probability: float) -> Transform:
    # solo-learn blurs with Pillow, which does not cut the kernel: 13 pixels hold three sigmas of 2 to either side.
    return gaussian_blur(probability=probability, sigma_low=0.1, sigma_high=2.0, kernel_size=13)


_BLUR = _blur(0.5)


def _solo(jitter: Transform, *after_grey: Transform, crop: Transform = _SOLO_CROP) -> View:
    """solo's order: crop, jitter, grey, blur, solarize, flip."""
    return (crop, jitter, grayscale(probability=0.2), *after_grey, _SOLO_FLIP)


def _asymmetric(crop: Transform) -> tuple[View, View]:
    """BYOL's two views (Grill et al., 2020, appendix B), which most that came after it took over."""
    first, second = (_blur(1.0), solarize(probability=0.0)), (_blur(0.1), solarize(probability=0.2))
    return _solo(_MILD, *first, crop=crop), _solo(_MILD, *second, crop=crop)


_ALL = (
    transform_set("none", (), description="The image, resized; nothing random."),
    transform_set(
        "mnist_first",
        (_MNIST_PADDING, color_inversion(probability=0.5), _MNIST_ROTATION, _MNIST_CROP),
        description="Paper 1, Table 1, first set: padding, colour inversion, mild rotation, crop, which keep "
        "the digit; the inversion's probability .5 is our choice.",
    ),
    transform_set(
        "mnist_second",
        (*_MNIST_SECOND, random_erasing(probability=0.5, area_low=0.02, area_high=0.3)),
        description="Paper 1, Table 1, second set: flips, any rotation, light crop, erasing, which lose the "
        "digit on purpose; the erased box's ratio is torchvision's, our choice.",
    ),
    transform_set(
        "mnist_rotation_crop",
        (_MNIST_ROTATION, _MNIST_CROP),
        description="Paper 1, Table 1, row 1: rotation and crop, as in the first set (our choice).",
    ),
    transform_set(
        "mnist_rotation_crop_padding",
        (_MNIST_PADDING, _MNIST_ROTATION, _MNIST_CROP),
        description="Paper 1, Table 1, row 2: the first set without colour inversion.",
    ),
    transform_set(
        "mnist_rotation_crop_flips",
        _MNIST_SECOND,
        description="Paper 1, Table 1, row 4: the second set without erasing; that rotation and crop are the "
        "second set's is our choice.",
    ),
    transform_set(
        "cifar",
        (
            _SOLO_CROP,
            color_jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, hue_probability=0.8),
            _SOLO_FLIP,
        ),
        description="Paper 1, D.1, natural images: crop, jitter whose hue has a probability of its own, flip;"
        " the crop's area (solo's .08 to 1), hue .1 at probability .8 (the values its sweeps hold"
        " fixed) and the order are our choice.",
    ),
    transform_set(
        "cell_table_crop",
        (_CELL_JITTER, _CELL_AFFINE, _CELL_CROP),
        description="Paper 1, Table 2 (paper 2, Table 3), first row: jitter, affine and slight random crop of"
        " cells; jitter before geometry is our choice.",
    ),
    transform_set(
        "cell_table_rotation",
        (_CELL_JITTER, _CELL_AFFINE, rotation(degrees=360.0)),
        description="Paper 1, Table 2 (paper 2, Table 3), second row: any rotation in place of the crop; "
        "jitter before geometry is our choice.",
    ),
    transform_set(
        "cell_crop",
        (_CELL_JITTER, *_CELL_TURNS, _CELL_AFFINE, _CELL_CROP),
        description="Paper 1, Figure 2 left (paper 2, Figure 6 left): jitter, flips, any rotation, affine, "
        "crop, which cluster cells by number and size; the first loss of the weighted sum.",
    ),
    transform_set(
        "cell_center",
        (_CELL_JITTER, *_CELL_TURNS, center_crop(area=0.5)),
        description="Paper 1, Figure 2 right (paper 2, Figure 6 right): jitter, flips, any rotation, centre "
        "crop, which cluster cells by phenotype; .5 read as the area is our choice.",
    ),
    transform_set(
        "cells_biology",
        (
            random_resized_crop(area_low=0.1, area_high=1.0),
            quarter_turns(probability=0.75),
            horizontal_flip(probability=0.5),
            vertical_flip(probability=0.5),
            elastic(probability=0.5),
            defocus(probability=0.5),
            channel_brightness(probability=1.0),
            channel_contrast(probability=1.0),
            channel_drop(probability=0.2),
        ),
        description="What cell biologists do to cells and the papers did not try, for 1 to 16 channels: crop, quarter turns, flips,"
        " elastic warp, defocus, brightness and contrast of each channel, dropped channels; the strengths and the order are our"
        " choice.",
    ),
    transform_set(
        "solo_asym",
        _solo(_MILD, solarize(probability=0.0)),
        _solo(_MILD, solarize(probability=0.2)),
        description="solo-learn's asymmetric CIFAR set (Barlow Twins, BYOL, DINO, NNBYOL, NNCLR): solarize in"
        " view 2 only.",
    ),
    transform_set(
        "solo_sym",
        _solo(_STRONG, _BLUR),
        description="solo-learn's symmetric CIFAR set (SimCLR, SwAV, DeepCluster v2): strong jitter, blur.",
    ),
    transform_set(
        "solo_sym_weak",
        _solo(_EVEN, _BLUR),
        description="solo-learn's weak symmetric CIFAR set (MoCo v2, SimSiam): milder jitter and blur.",
    ),
    transform_set(
        "solo_vicreg",
        _solo(_MILD, solarize(probability=0.1), crop=_SOLO_WIDE_CROP),
        description="solo-learn's CIFAR set of VICReg and VIbCReg: crop from .2 of the area, solarize.",
    ),
    transform_set(
        "solo_ressl",
        _solo(_MILD, _BLUR),
        (_SOLO_CROP, _SOLO_FLIP),
        description="solo-learn's CIFAR set of ReSSL: a strong view 1 for the student, crop and flip for the target.",
    ),
    transform_set(
        "mocov2",
        _solo(_EVEN, _BLUR, crop=_SOLO_WIDE_CROP),
        description="MoCo v2's ImageNet set, SimSiam's too: solo_sym_weak with crops from .2 of the area.",
    ),
    transform_set(
        "byol",
        *_asymmetric(_SOLO_CROP),
        description="BYOL's ImageNet set, Barlow Twins' and VICReg's too: jitter, grey, blur (always in view 1, seldom in"
        " view 2) and solarize (view 2 only), crops from .08 of the area.",
    ),
    transform_set(
        "mocov3",
        *_asymmetric(_SOLO_WIDE_CROP),
        description="MoCo v3's ImageNet set for ResNets: BYOL's with crops from .2 of the area.",
    ),
    transform_set(
        "swav",
        _solo(_STRONG, _BLUR, crop=_MULTI_CROP),
        description="SwAV's ImageNet set with multi-crop, DeepCluster v2's too: solo_sym with crops from .14 of the area, local"
        " ones from .05 to .14.",
    ),
    transform_set(
        "mira",
        *_asymmetric(_MULTI_CROP),
        local=local_view(_solo(_MILD, _BLUR, crop=_MULTI_CROP)),
        description="DINO's ImageNet set for ResNets, MIRA's too: BYOL's with crops from .14 of the area, local ones from .05"
        " to .14, blurred every other time.",
    ),
    transform_set(
        "twist",
        *_asymmetric(_TWIST_CROP),
        local=local_view(_solo(_MILD, _BLUR, crop=_TWIST_CROP), area=(0.05, 0.4)),
        description="TWIST's ImageNet set with multi-crop: BYOL's with crops from .4 of the area, local ones from .05 to .4,"
        " blurred every other time.",
    ),
    transform_set(
        "mira_cifar",
        _solo(_MILD, solarize(probability=0.0), crop=_SOLO_WIDE_CROP),
        _solo(_MILD, solarize(probability=0.2), crop=_SOLO_WIDE_CROP),
        description="MIRA's CIFAR set: solo_asym with crops from .2 of the area.",
    ),
    transform_set(
        "fork",
        _solo(_MILD),
        description="The set of paper 1's own fork of solo-learn, the same for all methods: no blur, no "
        "solarize; the hue shares the jitter's probability.",
    ),
)

SETS: dict[str, TransformSet] = {each.name: each for each in _ALL}
