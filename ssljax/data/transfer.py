"""The data sets that a trained encoder is transferred to (`logreg@SET`): Table 5 of MIRA's paper, each with its own metric."""

from typing import NamedTuple

from ssljax.data import load as load_any
from ssljax.data import miniature
from ssljax.data.splits import Dataset
from ssljax.errors import UserError

# Of the training images, where a set has no validation images of its own: our choice.
VALIDATION_FRACTION = 0.2


class TransferSet(NamedTuple):
    """A data set to transfer to.

    Attributes:
      dataset: its name for `ssljax.data.load`.
      metric: what it is scored by: `top1`, `mean_per_class` (accuracy) or `map11` (mean average precision at 11 points).
    """

    dataset: str
    metric: str


# The eleven sets and their metrics: S. Kornblith et al., Do better ImageNet models transfer better?, CVPR 2019, Table 1, as
# L. Ericsson et al., How well do self-supervised models transfer?, CVPR 2021, use them: the first official partitions of DTD and
# SUN397.
TRANSFER: dict[str, TransferSet] = {
    "aircraft": TransferSet("aircraft:fgvc-aircraft-2013b", "mean_per_class"),
    "caltech101": TransferSet("caltech101", "mean_per_class"),
    "cars": TransferSet("cars196", "top1"),
    "cifar10": TransferSet("cifar10", "top1"),
    "cifar100": TransferSet("cifar100", "top1"),
    "dtd": TransferSet("dtd", "top1"),
    "flowers": TransferSet("oxford_flowers102", "mean_per_class"),
    "food": TransferSet("food101", "top1"),
    "pets": TransferSet("oxford_iiit_pet", "mean_per_class"),
    "sun397": TransferSet("sun397/standard-part1-120k", "top1"),
    "voc2007": TransferSet("voc/2007", "map11"),
}


def metric_of(name: str) -> str:
    """The metric that `load` gives with a set, as far as the name tells: top1 where it is none of `TRANSFER`'s.

    Args:
      name: a key of `TRANSFER`, or the data set's own name; `miniature:` before it changes nothing.
    """
    name = name.removeprefix(miniature.MADE)
    return next((known.metric for key, known in TRANSFER.items() if name in (key, known.dataset)), "top1")


def load(
    name: str, *, data_dir: str = "", manual_dir: str = "", cache_dir: str = "", image_size: int = 0
) -> tuple[Dataset, str]:
    """Loads a data set to transfer to, with train, validation and test images.

    The set's own validation images are the validation; where it has none, or they play test, a stratified fifth of the training
    images is.

    Args:
      name: one of `TRANSFER`, or any name that `ssljax.data.load` takes; `miniature:` before it is the made one in its layout.
      data_dir, manual_dir, cache_dir, image_size: as for `ssljax.data.load`.

    Returns:
      (the set, its metric): for names that are not of `TRANSFER`, `map11` with many labels an image, else `top1`.

    Raises:
      UserError: a set without labels for all of its splits, or what `ssljax.data.load` raises.
    """
    made = miniature.MADE if name.startswith(miniature.MADE) else ""
    known = TRANSFER.get(name.removeprefix(made))
    dataset = load_any(
        made + known.dataset if known else name,
        data_dir=data_dir,
        manual_dir=manual_dir,
        cache_dir=cache_dir,
        validation_fraction=VALIDATION_FRACTION,
        image_size=image_size,
    )
    for split, part in dataset.splits.items():
        if part.labels is None:
            raise UserError(f"{name}: its {split} images have no labels to transfer to")
    if known:
        return dataset, known.metric
    return dataset, "map11" if dataset.many_labels else "top1"
