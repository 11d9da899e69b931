"""Transform sets: ordered compositions, one a view, and how they are drawn and run on a batch.

A whole-image operation (jitter, blur, equalize, erasing, contrast) needs finished pixels, so it cuts a view
into stretches. Each stretch with geometry (flips alone do not count) is one resampling; what comes before the
first runs on the source image, what comes after the last on the output. Every set of the papers thus
resamples once.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssljax.augment import resample
from ssljax.augment.geometry import random_resized_crop
from ssljax.augment.transform import Array, Drawn, Hyper, Transform, check_values
from ssljax.augment.warp import warp
from ssljax.errors import UserError

View = tuple[Transform, ...]
ViewHyper = Mapping[str, Hyper]  # transform -> parameter -> scalar


class TransformSet(NamedTuple):
    """A named composition for two views.

    Attributes:
      name: its name, or the definition it was parsed from.
      description: one sentence: what it is and where it comes from.
      views: the transforms of view 1 and of view 2, in order; the same tuple twice where views are alike.
      local: those of a small crop beside them; None for view 1's, cut small by `local_view`.
    """

    name: str
    description: str
    views: tuple[View, View]
    local: View | None = None


def transform_set(
    name: str, *views: Sequence[Transform], local: View | None = None, description: str = "defined by the user"
) -> TransformSet:
    """Makes a transform set of one's own.

    Args:
      name: what to call it.
      *views: the transforms of each view; one sequence for both, or two.
      local: the transforms of local crops, as `local_view` makes them, where view 1's do not serve; a text that is parsed
        cannot say them.
      description: one sentence.

    Returns:
      The set, as every flag that takes one understands it.

    Raises:
      UserError: no view, or more than two.

    Example:
      >>> both = transform_set("mine", [TRANSFORMS["rotation"](degrees=45.0), TRANSFORMS["hue"]()])
    """
    if len(views) not in (1, 2):
        raise UserError(f"transform set '{name}' has {len(views)} views, expected one (for both) or two")
    return TransformSet(name, description, (tuple(views[0]), tuple(views[-1])), local)


def names(view: View) -> list[str]:
    """The key of each transform of a view: its name, with `_2`, `_3` ... where the name returns."""
    keys: list[str] = []
    for transform in view:
        before = sum(other.name == transform.name for other in view[: len(keys)])
        keys.append(f"{transform.name}_{before + 1}" if before else transform.name)
    return keys


def hyper(chosen: TransformSet) -> dict[str, dict[str, dict[str, float]]]:
    """Every traced parameter at its default: `{"view1": {transform: {parameter: value}}, "view2": ...}`."""
    return hyper_of_views({f"view{number}": view for number, view in enumerate(chosen.views, 1)})


def hyper_of_views(views: Mapping[str, View]) -> dict[str, dict[str, dict[str, float]]]:
    """As `hyper`, of views under names of one's own."""
    return {
        name: {key: dict(transform.defaults) for key, transform in zip(names(view), view)}
        for name, view in views.items()
    }


def weak_view(view: View) -> View:
    """The geometry of a view (crop, flips, rotation) without what it does to colours and pixels."""
    return tuple(transform for transform in view if transform.moves)


LOCAL_CROP = "local_crop"
LOCAL_AREA = (0.05, 0.14)  # of SwAV, of DINO for ResNets, and of MIRA, which follows them


def local_view(view: View, area: tuple[float, float] = LOCAL_AREA) -> View:
    """The same view of a small crop: its random resized crop becomes a `local_crop` of 5 to 14 % of the area, say.

    It has a name of its own, so that an address of the global crop does not mean it. A view that does not crop begins with it.
    """
    low, high = area
    small = random_resized_crop(area_low=low, area_high=high)._replace(name=LOCAL_CROP)
    if all(transform.name != "random_resized_crop" for transform in view):
        return (small, *view)
    return tuple(small if transform.name == "random_resized_crop" else transform for transform in view)


def check(view: View, channels: int) -> None:
    """Raises `UserError` if a transform of the view is not defined for this many channels."""
    for key, transform in zip(names(view), view):
        if transform.channels and channels not in transform.channels:
            least, most = min(transform.channels), max(transform.channels)
            expected = f"{least} to {most}" if most > least else str(least)
            raise UserError(f"transform '{key}' got images of {channels} channels, expected {expected}")


def check_hyper(view: View, values: Mapping[str, Mapping[str, object]], where: str = "") -> None:
    """Raises `UserError` unless `values` has the view's transforms and parameters, within their ranges."""
    _check_keys("transforms", names(view), values)
    for key, transform in zip(names(view), view):
        _check_keys(f"parameters of {key}", list(transform.defaults), values[key])
        check_values(key, transform.ranges, values[key], where)


def sample_view(view: View, key: Array, values: ViewHyper) -> dict[str, Drawn]:
    """Draws what a view does to one image.

    Args:
      view: its transforms.
      key: a random key. All numbers of a view are drawn at once, since each draw costs as much to compile as
        a transform does.
      values: `{transform: {parameter: scalar}}`, as one view of `hyper`.

    Returns:
      For each transform what its docstring lists under "Drawn".

    Raises:
      UserError: `values` has other transforms or parameters than the view.
    """
    _check_keys("transforms", names(view), values)
    u = jax.random.uniform(key, (sum(transform.numbers for transform in view),))
    drawn, used = {}, 0
    for name, transform in zip(names(view), view):
        _check_keys(f"parameters of {name}", list(transform.defaults), values[name])
        drawn[name] = transform.draw(u[used : used + transform.numbers], values[name])
        used += transform.numbers
    return drawn


def apply_drawn(view: View, image: Array, drawn: Mapping[str, Drawn], size: tuple[int, int]) -> Array:
    """Does to one image `[height, width, channels]` what was drawn; the result is `[*size, channels]`."""
    steps = [(transform, drawn[name]) for name, transform in zip(names(view), view)]
    stretches = _stretches(steps)
    resamples = [any(_resamples(transform) for transform, _ in stretch) for stretch in stretches]
    # Without geometry the image is resized first, and everything runs on the output.
    if not any(resamples) and image.shape[:2] != size:
        canvas = jnp.array(image.shape[:2], jnp.float32)
        image = resample.sample(image, resample.resize_matrix(canvas, size), size, axis_aligned=True)
    for stretch, resampled in zip(stretches, resamples):
        if resampled:
            image = warp(image, stretch, size)
        else:
            for transform, draws in stretch:
                image = transform.apply(image, draws)
    return jnp.clip(image, 0, 1)  # weights that sum to 1 only nearly can leave the range by a last bit


def apply_view(view: View, key: Array, images: Array, values: ViewHyper, *, image_size: int) -> Array:
    """One view of every image of a batch, each drawn on its own.

    Args:
      view: the transforms, in order.
      key: a random key; each image gets its own from `split`.
      images: `[batch, height, width, channels]`, floats in [0, 1].
      values: `{transform: {parameter: scalar}}`, as one view of `hyper`; scalars may be traced and, under
        `vmap`, differ between runs.
      image_size: side of the square result.

    Returns:
      `[batch, image_size, image_size, channels]`.

    Raises:
      UserError: images that are not a batch of floats, a channel count that a transform is not defined for,
        `values` of another view. All at trace time.

    Example:
      >>> chosen = SETS["mnist_first"]
      >>> images = jnp.zeros((4, 28, 28, 1))
      >>> view = apply_view(chosen.views[0], jax.random.key(0), images, hyper(chosen)["view1"], image_size=32)
      >>> view.shape
      (4, 32, 32, 1)
    """
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"apply_view got images of shape {tuple(images.shape)} and type {images.dtype}, "
            "expected floats in [0, 1] of shape [batch, height, width, channels]"
        )
    check(view, images.shape[-1])

    def one(key: Array, image: Array) -> Array:
        return apply_drawn(view, image, sample_view(view, key, values), (image_size, image_size))

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def _stretches(steps: list[tuple[Transform, Drawn]]) -> list[list[tuple[Transform, Drawn]]]:
    """Cuts a view before and after each whole-image operation."""
    stretches: list[list[tuple[Transform, Drawn]]] = [[]]
    for step in steps:
        if step[0].pointwise or step[0].geometry:
            stretches[-1].append(step)
        else:
            stretches += [[step], []]
    return stretches


def _resamples(transform: Transform) -> bool:
    return transform.geometry is not None and transform.geometry.flip is None


def _check_keys(what: str, expected: Sequence[str], given: Mapping[str, object]) -> None:
    if set(expected) != set(given):
        raise UserError(f"hyper-parameters have {what} {sorted(given)}, expected {sorted(expected)}")
