"""What a data set is (`Split`, `Dataset`) and which images go to train, validation and test.

Sources give the splits that they have; `plan` turns them into the ones that a study needs: a test split
always, a validation split on request. Parts that are held out are stratified and deterministic.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ssljax.errors import UserError

# A source without a test split gives a fifth of its images: the common 80/20 rule, our choice.
TEST_FRACTION = 0.2


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
      images: uint8 or uint16 [n, h, w, c], read-only; a memory map when the set is cached.
      labels: int32 [n], or None when the source has none.
    """

    images: np.ndarray
    labels: np.ndarray | None


class Dataset(NamedTuple):
    """A data set as the rest of the package sees it.

    Attributes:
      name: the name that it was loaded by.
      splits: "train", "test" and, when there is one, "validation".
      class_names: the name of each label, or None when the source does not name them.
      mean: per channel, of the train images scaled to [0, 1].
      std: per channel, biased (divided by the number of pixels), of the train images scaled to [0, 1].
      fingerprint: sha256 (hex) over images, labels and class names of all splits.
    """

    name: str
    splits: dict[str, Split]
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def classes(self) -> int:
        """How many classes there are to train with; 0 where the train images have no labels."""
        return len(self.class_names or ()) if self.splits["train"].labels is not None else 0


def stratified(size: int, labels: np.ndarray | None, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws a part of each class to be held out; the same call always draws the same images.

    Every class gives its share rounded down, then the largest remainders fill up the total, round(size x
    fraction). A class never gives its last image.

    Args:
      size: number of images.
      labels: int [size], or None to draw from all images alike.
      fraction: in (0, 1).

    Returns:
      (kept, held_out): two increasing, disjoint index arrays that together are 0 .. size - 1.
    """
    groups = np.zeros(size, np.int64) if labels is None else np.asarray(labels)
    classes, counts = np.unique(groups, return_counts=True)
    share = counts * fraction
    quota = np.floor(share).astype(np.int64)
    missing = round(size * fraction) - int(quota.sum())
    by_remainder = np.argsort(quota - share, kind="stable")
    for index in [i for i in by_remainder if quota[i] + 1 < counts[i]][: max(missing, 0)]:
        quota[index] += 1
    # RandomState, not Generator: NumPy promises that its stream never changes.
    random = np.random.RandomState(0)
    held = [random.permutation(np.flatnonzero(groups == c))[:q] for c, q in zip(classes, quota, strict=True)]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(size), held_out, assume_unique=True), held_out


def plan(
    sizes: Mapping[str, int],
    labels: Mapping[str, np.ndarray | None],
    validation_fraction: float,
    name: str,
) -> dict[str, tuple[str, np.ndarray | None]]:
    """Says where the images of each final split come from.

    Without a test split the source's validation split plays test, and without either a fifth of train
    does. A validation split of the source stands; else `validation_fraction` of train becomes one. Test
    images are never drawn for validation.

    Args:
      sizes: number of images of each split of the source; must hold "train".
      labels: labels of each split of the source.
      validation_fraction: in [0, 1).
      name: the data set, for messages.

    Returns:
      For each final split, the split of the source and the indices in it (None: all, in order).

    Raises:
      UserError: when there are too few images to hold any out.
    """
    final: dict[str, tuple[str, np.ndarray | None]] = {split: (split, None) for split in sizes}
    if "test" not in final and "validation" in final:
        final["test"] = final.pop("validation")

    def hold_out(fraction: float, split: str) -> None:
        _, chosen = final["train"]
        pool = np.arange(sizes["train"]) if chosen is None else chosen
        targets = labels["train"]
        kept, held = stratified(len(pool), None if targets is None else targets[pool], fraction)
        if not len(held) or not len(kept):
            raise UserError(
                f"{name}: {len(pool)} train images are too few to hold out {fraction:g} of them for {split}"
            )
        final["train"], final[split] = ("train", pool[kept]), ("train", pool[held])

    if "test" not in final:
        hold_out(TEST_FRACTION, "test")
    if validation_fraction and "validation" not in final:
        hold_out(validation_fraction, "validation")
    return {split: final[split] for split in ("train", "validation", "test") if split in final}
