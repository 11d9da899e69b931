"""Part of the labels: the training images whose labels an evaluation on few of them (`knn@10%`, `finetune@1%`) may use."""

import re

import numpy as np

from ssljax.data import load, miniature
from ssljax.data.splits import Dataset, Split, some
from ssljax.errors import UserError

# The lists of SimCLR (T. Chen et al., ICML 2020) that every paper since uses, as tfds has them, by percent.
_IMAGENET = re.compile(rf"({miniature.MADE})?imagenet2012(:.*)?")
_LISTS = {1.0: "imagenet2012_subset/1pct", 10.0: "imagenet2012_subset/10pct"}


def subset(labels: np.ndarray, percent: float) -> np.ndarray:
    """Chooses a stratified part of the images; the same call always chooses the same ones.

    Args:
      labels: int [n].
      percent: in (0, 100].

    Returns:
      int [m], increasing indices; m is round(n percent / 100), or the number of classes where that is more: at least one image
      of each class is there.

    Raises:
      UserError: a percentage out of range.

    Example:
      >>> subset(np.array([0, 0, 1, 1, 1, 1]), 50)
      array([0, 3, 4])
    """
    if not 0 < percent <= 100:
        raise UserError(f"{percent:g} % of the labels: expected a percentage above 0 and at most 100")
    return some(len(labels), labels, round(len(labels) * percent / 100))


def labelled_part(
    name: str,
    dataset: Dataset,
    percent: float,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    cache_dir: str = "",
    image_size: int = 0,
) -> Split:
    """The training images whose labels may be used, with their labels.

    Of ImageNet's 1 % and 10 % these are the published lists, less images that `dataset` holds out of training; of all else a
    stratified part of the training images.

    Args:
      name: that `dataset` was loaded by.
      dataset: labelled; its training images are chosen from.
      percent: in (0, 100].
      data_dir, manual_dir, cache_dir, image_size: as `dataset` was loaded, see `load`.

    Raises:
      UserError: a data set without labels, a percentage out of range, lists whose classes or images' shape differ from the set's,
        or what `load` raises.
    """
    train = dataset.splits["train"]
    if train.labels is None or train.labels.ndim > 1:
        raise UserError(f"{percent:g} % of the labels: the training images of {name} have no class each")
    listed = _LISTS.get(float(percent)) if _IMAGENET.fullmatch(name) else None
    if listed is None:
        chosen = subset(train.labels, percent)
        return train.rows(chosen)
    made = miniature.MADE if name.startswith(miniature.MADE) else ""
    lists = load(made + listed, data_dir=data_dir, manual_dir=manual_dir, cache_dir=cache_dir, image_size=image_size)
    part = lists.splits["train"]
    if lists.class_names != dataset.class_names:
        raise UserError(f"{listed}: its classes are not those of {name}; expected the same names in the same order")
    if part.labels is None or part.images.shape[1:] != train.images.shape[1:]:
        raise UserError(f"{listed}: images {part.images.shape[1:]}, those of {name} are {train.images.shape[1:]}")
    known = np.flatnonzero(
        ~_among(part.images, [held.images for key, held in dataset.splits.items() if key != "train"])
    )
    return part.rows(known)


def _among(images: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """bool [n]: which of the images are among the others, by their middle rows, so that little of a large set is read."""
    row = images.shape[1] // 2
    seen = {other[row].tobytes() for split in others for other in split}
    return np.array([image[row].tobytes() in seen for image in images])
