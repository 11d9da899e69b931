"""What kornia and torchvision offer for each of ssljax's transforms, with the same numbers."""

import importlib
from collections.abc import Callable
from typing import Any

from ssljax.augment import Transform

Equivalent = Callable[[Any], Any] | None
"""A function of a batch of images [n, channels, height, width] in [0, 1], or None where the library has no such transform."""


def kornia(view: tuple[Transform, ...], size: int) -> Equivalent:
    """The transforms of a view in kornia, each image of a batch with its own parameters.

    Raises:
      ImportError: kornia is not installed.
    """
    import torch

    K: Any = importlib.import_module("kornia.augmentation")
    layers: list[Any] = []
    for transform in view:
        h = transform.defaults
        p = h["probability"]
        square = (size, size)
        match transform.name:
            case "random_resized_crop":
                scale, ratio = (h["area_low"], h["area_high"]), (h["ratio_low"], h["ratio_high"])
                layers.append(K.RandomResizedCrop(square, scale, ratio, p=p, cropping_mode="resample"))
            case "center_crop":
                side = round(size * h["area"] ** 0.5)
                layers += [K.CenterCrop((side, side), p=p), K.Resize(square)]
            case "horizontal_flip":
                layers.append(K.RandomHorizontalFlip(p=p))
            case "vertical_flip":
                layers.append(K.RandomVerticalFlip(p=p))
            case "rotation":
                layers.append(K.RandomRotation(h["degrees"], p=p))
            case "affine":
                shear = (-h["shear"], h["shear"])
                layers.append(K.RandomAffine(h["degrees"], (h["translate"], h["translate"]), shear=shear, p=p))
            case "brightness" | "contrast" | "saturation" | "hue":
                layers.append(K.ColorJitter(**{transform.name: h["strength"]}, p=p))
            case "color_jitter":
                blends = [h["brightness"], h["contrast"], h["saturation"]]
                if "hue_probability" in h:
                    layers += [K.ColorJitter(*blends, p=p), K.ColorJitter(hue=h["hue"], p=h["hue_probability"])]
                else:
                    layers.append(K.ColorJitter(*blends, h["hue"], p=p))
            case "grayscale":
                layers.append(K.RandomGrayscale(p=p))
            case "color_inversion":
                layers.append(K.RandomInvert(p=p))
            case "gaussian_blur":
                kernel = kernel_size(transform, size)
                layers.append(K.RandomGaussianBlur((kernel, kernel), (h["sigma_low"], h["sigma_high"]), p=p))
            case "solarize":
                layers.append(K.RandomSolarize((h["threshold"], h["threshold"]), (0.0, 0.0), p=p))
            case "equalize":
                layers.append(K.RandomEqualize(p=p))
            case "random_erasing":
                scale, ratio = (h["area_low"], h["area_high"]), (h["ratio_low"], h["ratio_high"])
                layers.append(K.RandomErasing(scale, ratio, p=p))
            case _:
                return None
    return torch.nn.Sequential(*layers)


def torchvision(view: tuple[Transform, ...], size: int) -> Equivalent:
    """The transforms of a view in torchvision's v2, image by image: a call draws one set of parameters for all it is given.

    Raises:
      ImportError: torchvision is not installed.
    """
    import torch

    v2: Any = importlib.import_module("torchvision.transforms.v2")
    bilinear = v2.InterpolationMode.BILINEAR
    layers: list[Any] = []

    def gated(p: float, layer: Any) -> Any:
        return v2.RandomApply([layer], p=p)

    for transform in view:
        h = transform.defaults
        p = h["probability"]
        match transform.name:
            case "random_resized_crop":
                scale, ratio = (h["area_low"], h["area_high"]), (h["ratio_low"], h["ratio_high"])
                layers.append(v2.RandomResizedCrop(size, scale, ratio))
            case "center_crop":
                layers += [v2.CenterCrop(round(size * h["area"] ** 0.5)), v2.Resize(size)]
            case "horizontal_flip":
                layers.append(v2.RandomHorizontalFlip(p))
            case "vertical_flip":
                layers.append(v2.RandomVerticalFlip(p))
            case "rotation":
                layers.append(v2.RandomRotation(h["degrees"], bilinear))
            case "affine":
                moved = (h["translate"], h["translate"])
                layers.append(v2.RandomAffine(h["degrees"], moved, shear=h["shear"], interpolation=bilinear))
            case "brightness" | "contrast" | "saturation" | "hue":
                layers.append(gated(p, v2.ColorJitter(**{transform.name: h["strength"]})))
            case "color_jitter":
                blends = [h["brightness"], h["contrast"], h["saturation"]]
                if "hue_probability" in h:
                    layers.append(gated(p, v2.ColorJitter(*blends)))
                    layers.append(gated(h["hue_probability"], v2.ColorJitter(hue=h["hue"])))
                else:
                    layers.append(gated(p, v2.ColorJitter(*blends, h["hue"])))
            case "grayscale":
                layers.append(v2.RandomGrayscale(p))
            case "color_inversion":
                layers.append(v2.RandomInvert(p))
            case "gaussian_blur":
                blur = v2.GaussianBlur(kernel_size(transform, size), (h["sigma_low"], h["sigma_high"]))
                layers.append(gated(p, blur))
            case "solarize":
                layers.append(v2.RandomSolarize(h["threshold"], p))
            case "equalize":
                layers.append(v2.RandomEqualize(p))
            case "random_erasing":
                scale, ratio = (h["area_low"], h["area_high"]), (h["ratio_low"], h["ratio_high"])
                layers.append(v2.RandomErasing(p, scale, ratio))
            case _:
                return None
    composed = v2.Compose(layers)
    return lambda images: torch.stack([composed(image) for image in images])


def kernel_size(transform: Transform, size: int) -> int:
    """How many pixels a blur spans: as given, else a tenth of the side, odd, as `gaussian_blur` has it."""
    return transform.options.get("kernel_size") or 2 * max(size // 20, 1) + 1
