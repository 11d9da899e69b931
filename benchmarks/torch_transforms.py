"""The transform sets of the comparison as PyTorch runs them on a device: batched, each image with its own parameters.

A set is two functions, as in `ssljax.augment`: (count, device) -> what happens to each image, and (images [n, channels, side,
side] in [0, 1], drawn, size) -> [n, channels, size, size]. Geometry is composed into one matrix an image and sampled once, by
`affine_grid` and `grid_sample`. Coordinates are those of `grid_sample`: a canvas reaches from -1 to 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Drawn = dict[str, Tensor]


class TransformSet(NamedTuple):
    """What draws and what applies a set."""

    draw: Callable[[int, Any], Drawn]
    apply: Callable[[Tensor, Drawn, int], Tensor]

    def __call__(self, images: Tensor, size: int) -> Tensor:
        """One view of every image, each drawn on its own."""
        return self.apply(images, self.draw(len(images), images.device), size)


def uniform(low: float, high: float, shape: tuple[int, ...], device: Any) -> Tensor:
    return torch.empty(shape, device=device).uniform_(low, high)


def happens(probability: float, n: int, device: Any) -> Tensor:
    return torch.rand(n, device=device) < probability


def first_fit(fits: Tensor, heights: Tensor, widths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether any of ten candidates [n, 10] fits, and height and width of the first that does."""
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    return fits.any(1), heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]


def draw_boxes(n: int, device: Any, area: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Ten candidates [n, 10] as torchvision draws them one by one: the roots of their areas and of their ratios."""
    areas = uniform(*area, (n, 10), device)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    return areas.sqrt(), torch.exp(0.5 * uniform(low, high, (n, 10), device))


def draw_crop(n: int, device: Any, area: tuple[float, float]) -> Tensor:
    """Boxes of a random resized crop: [n, 4], centre x and y and half the width and height, as shares of half a square canvas."""
    root, stretch = draw_boxes(n, device, area, (3 / 4, 4 / 3))
    heights, widths = root / stretch, root * stretch
    found, height, width = first_fit((heights <= 1) & (widths <= 1), heights, widths)
    # If none fits, the largest central box within the ratios, which is the whole of a square.
    height, width = torch.where(found, height, 1.0), torch.where(found, width, 1.0)
    place = uniform(-1, 1, (2, n), device) * found
    return torch.stack([place[0] * (1 - width), place[1] * (1 - height), width, height], 1)


def turned(angle: Tensor, box: Tensor) -> Tensor:
    """[n, 2, 3]: from the output to the canvas that is turned by `angle` degrees (counter-clockwise) and then cut to `box`."""
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    x, y, width, height = box.unbind(1)
    rows = [cos * width, -sin * height, cos * x - sin * y, sin * width, cos * height, sin * x + cos * y]
    return torch.stack(rows, 1).view(-1, 2, 3)


def sample(images: Tensor, matrix: Tensor, size: int, outside: str) -> tuple[Tensor, Tensor]:
    """The images at the places that `matrix` [n, 2, 3] gives for each pixel of the output, and the places."""
    grid = F.affine_grid(matrix, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False), grid


def draw_mnist_first(n: int, device: Any) -> Drawn:
    return {
        "share": uniform(0.1, 0.4, (n,), device),
        "inverted": happens(0.5, n, device),
        "angle": uniform(-25, 25, (n,), device),
        "box": draw_crop(n, device, (0.5, 0.9)),
    }


def apply_mnist_first(images: Tensor, drawn: Drawn, size: int) -> Tensor:
    """Padding by a share of the side, inversion, rotation, crop; what the rotation brings in stays black."""
    padded = (1 + 2 * drawn["share"])[:, None, None]
    result, grid = sample(images, turned(drawn["angle"], drawn["box"]) * padded, size, "zeros")
    # How far a place is inside the padded canvas, in pixels of it: the corners fade as bilinear sampling would fade them.
    inside = (0.5 + (padded[..., None] - grid.abs()) * (images.shape[-1] / 2)).clamp(0, 1).prod(-1)
    return torch.where(drawn["inverted"][:, None, None, None], 1 - result, result) * inside[:, None]


def draw_mnist_second(n: int, device: Any) -> Drawn:
    root, stretch = draw_boxes(n, device, (0.02, 0.3), (0.3, 3.3))
    return {
        "flipped": torch.randint(0, 2, (n, 2), device=device).bool(),
        "angle": uniform(-180, 180, (n,), device),
        "box": draw_crop(n, device, (0.9, 1.1)),
        "erased": happens(0.5, n, device),
        "heights": root * stretch,
        "widths": root / stretch,
        "place": torch.rand(n, 2, device=device),
    }


def apply_mnist_second(images: Tensor, drawn: Drawn, size: int) -> Tensor:
    """Flips, any rotation, a light crop, and a box set to 0."""
    signs = torch.where(drawn["flipped"], -1.0, 1.0)[:, :, None]
    result, _ = sample(images, turned(drawn["angle"], drawn["box"]) * signs, size, "zeros")
    heights, widths = (drawn["heights"] * size).round(), (drawn["widths"] * size).round()
    found, height, width = first_fit((heights < size) & (widths < size), heights, widths)
    top = (drawn["place"][:, 0] * (size - height + 1)).floor()
    left = (drawn["place"][:, 1] * (size - width + 1)).floor()
    pixel = torch.arange(size, device=images.device)
    rows = (pixel >= top[:, None]) & (pixel < (top + height)[:, None]) & (drawn["erased"] & found)[:, None]
    columns = (pixel >= left[:, None]) & (pixel < (left + width)[:, None])
    return result.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def draw_cifar(n: int, device: Any) -> Drawn:
    jittered, hue = happens(0.8, n, device), happens(0.8, n, device)
    factors = torch.stack([uniform(-strength, strength, (n,), device) for strength in (0.4, 0.4, 0.2)], 1)
    return {
        "box": draw_crop(n, device, (0.08, 1.0)),
        "flipped": happens(0.5, n, device),
        "factors": 1 + factors * jittered[:, None],
        "hue": uniform(-0.1, 0.1, (n,), device) * hue,
        "order": torch.rand(n, 4, device=device).argsort(1),
    }


def apply_cifar(images: Tensor, drawn: Drawn, size: int) -> Tensor:
    """Crop and flip in one sampling (jitter does not mind in which order it sees the pixels), then jitter."""
    x, y, width, height = drawn["box"].unbind(1)
    sign = torch.where(drawn["flipped"], -1.0, 1.0)
    zero = torch.zeros_like(x)
    matrix = torch.stack([sign * width, zero, x, zero, height, y], 1).view(-1, 2, 3)
    result, _ = sample(images, matrix, size, "border")
    return jitter(result, drawn["factors"], drawn["hue"], drawn["order"])


def jitter(images: Tensor, factors: Tensor, turn: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in an order of each image's own.

    Args:
      images: [n, 3, height, width] in [0, 1].
      factors: [n, 3] of brightness, contrast and saturation; 1 does nothing.
      turn: [n] of the hue, as a share of the colour circle.
      order: [n, 4], permutations of 0 to 3; 3 is the hue.
    """
    # The hue is the dear part and is done once: before it stand the blends that come first, behind it the rest.
    place = (order == 3).to(torch.uint8).argmax(1)
    slots = torch.arange(3, device=images.device)
    parts = order.gather(1, slots + (slots >= place[:, None]).long())
    chosen, before = factors.gather(1, parts), slots < place[:, None]
    for slot in range(3):
        images = blend_part(images, parts[:, slot], torch.where(before[:, slot], chosen[:, slot], 1.0))
    images = turn_hue(images, turn)
    for slot in range(3):
        images = blend_part(images, parts[:, slot], torch.where(before[:, slot], 1.0, chosen[:, slot]))
    return images


def luma(images: Tensor) -> Tensor:
    """ITU-R 601, [n, 1, height, width]."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def blend_part(images: Tensor, part: Tensor, factor: Tensor) -> Tensor:
    """Blends with black, with the mean grey or with the grey image: part 0, 1 or 2 of each image."""
    grey, part, factor = luma(images), part[:, None, None, None], factor[:, None, None, None]
    mean = grey.mean((2, 3), keepdim=True)
    target = torch.where(part == 0, 0.0, torch.where(part == 1, mean, grey))
    return (factor * images + (1 - factor) * target).clamp(0, 1)


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turns the colours by a share of the colour circle, by way of hue, saturation and value."""
    red, green, blue = images.unbind(1)
    value, smallest = images.amax(1), images.amin(1)
    spread = value - smallest
    divisor = torch.where(spread > 0, spread, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixth = sixth + 6 * turn[:, None, None]
    channels = []
    for start in (5, 3, 1):  # v - v s max(0, min(k, 4 - k, 1)) with k = (n + h) mod 6, n of each channel
        k = torch.remainder(start + sixth, 6)
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


SETS = {
    "mnist_first": TransformSet(draw_mnist_first, apply_mnist_first),
    "mnist_second": TransformSet(draw_mnist_second, apply_mnist_second),
    "cifar": TransformSet(draw_cifar, apply_cifar),
}
