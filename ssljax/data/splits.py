"""What a data set is (`Split`, `Dataset`) and which images go to train, validation and test.

Sources give the splits that they have; `plan` turns them into the ones that a study needs: a test split
always, a validation split on request. Parts that are held out are stratified and deterministic, and made of whole groups of
images where these are given.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.files import Decoded
from ssljax.errors import UserError

# A source without a test split gives a fifth of its images: the common 80/20 rule, our choice.
TEST_FRACTION = 0.2
_OF_BATCH = 0.5  # what the share of a class in one batch counts beside that of the class (our choice)
_GROUPS_SEEN = 4000  # in all orders of groups that are tried: little time, and many groups fit well in any order


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
      images: uint8 or uint16 [n, h, w, c], read-only; a memory map when the set is cached, or a `Decoded`, whose images are
        read from their files when they are asked for by index, slice or mask.
      labels: int32 [n]; or int8 [n, n_classes] where an image may show many: 1 present, -1 absent, 0 present but too difficult
        to count either way; or None when the source has none.
      columns: what else the source knows of each image: name -> text [n].
    """

    images: Any
    labels: np.ndarray | None
    columns: Mapping[str, np.ndarray] = MappingProxyType({})

    def rows(self, chosen: np.ndarray) -> "Split":
        """The images that an index array or a mask chooses, with all that is known of them; copied into memory unless they are
        decoded as they are read.
        """
        labels = None if self.labels is None else self.labels[chosen]
        images = self.images.take(chosen) if isinstance(self.images, Decoded) else self.images[chosen]
        return Split(images, labels, {name: column[chosen] for name, column in self.columns.items()})


class Dataset(NamedTuple):
    """A data set as the rest of the package sees it.

    Attributes:
      name: the name that it was loaded by.
      splits: "train", "test" and, when there is one, "validation".
      class_names: the name of each label, or None when the source does not name them.
      mean: per channel, of the train images scaled to [0, 1].
      std: per channel, biased (divided by the number of pixels), of the train images scaled to [0, 1].
      fingerprint: sha256 (hex) over images, labels, columns and class names of all splits.
    """

    name: str
    splits: dict[str, Split]
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def classes(self) -> int:
        """How many classes there are to train with; 0 where the train images have no labels, or many each."""
        labels = self.splits["train"].labels
        return len(self.class_names or ()) if labels is not None and labels.ndim == 1 else 0

    @property
    def many_labels(self) -> bool:
        """Whether an image may show several classes."""
        return any(split.labels is not None and split.labels.ndim > 1 for split in self.splits.values())

    def single(self) -> "Dataset":
        """The set for what knows one class an image: the same, or without labels where an image may show several."""
        if not self.many_labels:
            return self
        splits = {name: split._replace(labels=None) for name, split in self.splits.items()}
        return self._replace(splits=splits, class_names=None)


def stratified(size: int, labels: np.ndarray | None, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws a part of each class to be held out; the same call always draws the same images.

    Every class gives its share rounded down, then the largest remainders fill up the total, round(size x
    fraction). A class never gives its last image: where others have to give for it, they do so in turns.

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
    while missing > 0 and (able := [i for i in by_remainder if quota[i] + 1 < counts[i]]):
        quota[able[:missing]] += 1
        missing -= len(able)
    # RandomState, not Generator: NumPy promises that its stream never changes.
    random = np.random.RandomState(0)
    held = [random.permutation(np.flatnonzero(groups == c))[:q] for c, q in zip(classes, quota, strict=True)]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(size), held_out, assume_unique=True), held_out


def grouped(
    groups: np.ndarray, labels: np.ndarray | None, fraction: float, batches: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws whole groups of images to be held out; the same call always draws the same ones.

    The groups are gone through in a random order, and one is held out where this brings the classes' numbers of held-out images
    nearer to what is asked for (squared differences, each over the class's size); of several orders the one that comes nearest
    counts. A class whose images stand in few groups may have none held out.

    Args:
      groups: [size], the group of each image.
      labels: int [size], or None where all images are alike.
      fraction: in (0, 1).
      batches: [size], such as plates: what is held out of each class comes from them alike, as far as groups allow, lest
        they tell the classes apart among the images held out.

    Returns:
      (kept, held_out): two increasing, disjoint index arrays that together are 0 .. size - 1, and share no group.
    """
    names, group = np.unique(groups, return_inverse=True)
    classes, label = np.unique(np.zeros(len(group)) if labels is None else labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (group, label), 1)
    weight = np.ones(len(classes))
    if batches is not None:
        kinds, kind = np.unique([f"{one} {batch}" for one, batch in zip(label, batches)], return_inverse=True)
        both = np.zeros((len(names), len(kinds)))
        np.add.at(both, (group, kind), 1)
        counts, weight = np.hstack([counts, both]), np.append(weight, np.full(len(kinds), _OF_BATCH))
    asked, size = counts.sum(0) * fraction, counts.sum(0)

    def off(held: np.ndarray) -> float:
        return float((weight * (asked - held) ** 2 / size).sum())

    def draw(order: np.ndarray) -> tuple[float, np.ndarray]:
        there = counts[:, : len(classes)] > 0
        chosen, held, left = np.zeros(len(names), bool), np.zeros(len(weight)), there.sum(0)
        for one in order:
            here = there[one]
            if off(held + counts[one]) < off(held) and left[here].min() > 1:  # a class never gives its last group
                chosen[one] = True
                held, left = held + counts[one], left - here
        return off(held), chosen

    random = np.random.RandomState(0)  # as in `stratified`
    orders = [random.permutation(len(names)) for _ in range(max(1, _GROUPS_SEEN // len(names)))]
    chosen = min(map(draw, orders), key=lambda drawn: drawn[0])[1][group]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def some(size: int, labels: np.ndarray | None, count: int) -> np.ndarray:
    """Chooses a stratified part of the images; the same call always chooses the same ones.

    Args:
      size: number of images.
      labels: int [size], or None to choose from all images alike.
      count: how many to choose, at most `size`.

    Returns:
      int [m], increasing indices; m is `count`, or the number of classes where that is more.
    """
    return stratified(size, labels, 1 - count / size)[0]


def plan(
    sizes: Mapping[str, int],
    labels: Mapping[str, np.ndarray | None],
    validation_fraction: float,
    name: str,
    groups: np.ndarray | None = None,
    batches: np.ndarray | None = None,
) -> dict[str, tuple[str, np.ndarray | None]]:
    """Says where the images of each final split come from.

    Without a test split the source's validation split plays test, and without either a fifth of train
    does. A validation split of the source stands; else `validation_fraction` of train becomes one. Test
    images are never drawn for validation. A set that comes whole is thus divided 70/10/20 by a validation fraction of .125.

    Args:
      sizes: number of images of each split of the source; must hold "train".
      labels: labels of each split of the source.
      validation_fraction: in [0, 1).
      name: the data set, for messages.
      groups: [n] of the source's train images: those of one group stay together.
      batches: [n] of the same, as for `grouped`.

    Returns:
      For each final split, the split of the source and the indices in it (None: all, in order).

    Raises:
      UserError: when there are too few images or groups to hold any out.
    """
    final: dict[str, tuple[str, np.ndarray | None]] = {split: (split, None) for split in sizes}
    if "test" not in final and "validation" in final:
        final["test"] = final.pop("validation")

    def hold_out(fraction: float, split: str) -> None:
        _, chosen = final["train"]
        pool = np.arange(sizes["train"]) if chosen is None else chosen
        targets = labels["train"]
        if targets is not None and targets.ndim > 1:  # no image is of one class
            targets = None
        targets = None if targets is None else targets[pool]
        if groups is None:
            what, (kept, held) = "train images", stratified(len(pool), targets, fraction)
        else:
            count = len(np.unique(groups[pool]))
            what = f"train images in {count} group{'s' if count > 1 else ''}"
            kept, held = grouped(groups[pool], targets, fraction)
            if batches is not None:
                alike = grouped(groups[pool], targets, fraction, batches[pool])
                if len(alike[1]) and (targets is None or set(targets[alike[1]]) >= set(targets[held])):
                    kept, held = alike  # unless that would leave out a class
        if not len(held) or not len(kept):
            raise UserError(f"{name}: {len(pool)} {what} are too few to hold out {fraction:g} of them for {split}")
        final["train"], final[split] = ("train", pool[kept]), ("train", pool[held])

    if "test" not in final:
        hold_out(TEST_FRACTION, "test")
    if validation_fraction and "validation" not in final:
        hold_out(validation_fraction, "validation")
    return {split: final[split] for split in ("train", "validation", "test") if split in final}
