"""The field's own test of treated cells as an evaluation: mechanism, plate and batch from profiles of all images."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from ssljax.classifying import Measured
from ssljax.config import Config
from ssljax.data import Dataset
from ssljax.errors import UserError
from ssljax.evaluate import mechanisms, profiles
from ssljax.report.tables import CELL_COUNT, PIXELS
from ssljax.representation import Representation

log = logging.getLogger("ssljax")

NEEDED = tuple(name for name in profiles.COLUMNS if name != "batch")  # a batch is the plate's prefix


def check(config: Config, dataset: Dataset) -> None:
    """Refuses, before anything is trained, profiles that this data set cannot be given.

    Args:
      config: resolved.
      dataset: what is trained and measured on.

    Raises:
      UserError: columns that are not there, or what `mechanisms.measure_profiles` says of them.
    """
    if "profiles" not in config.evaluations:
        return
    columns = dataset.splits["test"].columns
    if missing := [name for name in NEEDED if name not in columns]:
        needed = ", ".join(NEEDED)
        raise UserError(
            f"--evaluations: profiles needs the columns {needed}; {config.dataset} has no {', '.join(missing)}"
        )
    metadata = metadata_of(dataset)
    try:  # what is wrong with the columns is wrong whatever the features
        mechanisms.measure_profiles(np.zeros((len(metadata["plate"]), 1)), metadata, permutations=0)
    except UserError as error:
        raise UserError(f"--evaluations: {error}") from None


def metadata_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """The columns of the images of all splits, one split after the other."""
    return {name: np.concatenate([split.columns[name] for split in dataset.splits.values()]) for name in NEEDED}


def baselines(dataset: Dataset, seeds: Sequence[int], pixels: str) -> list[Representation]:
    """What profiles of trained encoders are compared with: statistics of each image, and the number of cells of its site.

    Raw pixels, whose places mean nothing across cells, have no profile.

    Args:
      dataset: with the columns that profiles need.
      seeds: of the runs; the features are the same for all.
      pixels: the program whose row in the tables the statistics belong to.
    """
    statistics = {name: profiles.pixel_statistics(split.images) for name, split in dataset.splits.items()}
    metadata = metadata_of(dataset)
    sites = np.array(["\0".join(one) for one in zip(*(metadata[name].tolist() for name in ("plate", "well", "site")))])
    _, site, count = np.unique(sites, return_inverse=True, return_counts=True)
    ends = np.cumsum([len(split.images) for split in dataset.splits.values()])
    counts = dict(zip(dataset.splits, np.split(count[site].astype(np.float64)[:, None], ends[:-1])))
    return [
        _fixed(seeds, PIXELS, pixels, statistics),
        _fixed(seeds, CELL_COUNT, pixels.replace(PIXELS, CELL_COUNT, 1), counts),
    ]


def _fixed(seeds: Sequence[int], method: str, program: str, features: Mapping[str, np.ndarray]) -> Representation:
    """Features that are the same for every seed, by split."""
    many = {name: np.broadcast_to(each, (len(seeds), *each.shape)) for name, each in features.items()}
    return Representation(
        many["train"],
        many["test"],
        tuple(f"{program}/seed={seed}" for seed in seeds),
        tuple(seeds),
        ({},) * len(seeds),
        {"method": method, "backbone": "", "transforms": "", "epoch": 0},
        None,
        many.get("validation"),
    )


def measure(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    """Profiles of the images of all splits together: nothing is fitted on labels, neither the encoder nor the correction.

    Features of an encoder are corrected as they are; those without one, in units of all kinds, are standardised first.
    """
    metadata = metadata_of(dataset)
    measured: list[Measured] = []
    notes: dict[str, None] = {}
    for each, seed in zip(_features(dataset, shown), shown.seeds):
        sites = profiles.site_profiles(profiles.table(each, metadata))
        if shown.trained is None:
            sites = profiles.standardize(sites)
        found = mechanisms.measure_sites(sites, random_state=seed % 2**31)
        notes |= dict.fromkeys(found.notes)
        measured.append(found.measurements())
    for note in notes:
        log.warning("%s: %s: no such rows", shown.names[0].partition("/")[0], note)
    return measured, {}


def _features(dataset: Dataset, shown: Representation) -> np.ndarray:
    """The images of all splits [runs, n, dim], in the order of `metadata_of`."""
    held = {"train": shown.train, "test": shown.test, "validation": shown.validation}
    of_splits = []
    for name, split in dataset.splits.items():
        known = held.get(name)
        if known is None:  # validation images without labels
            assert shown.extract is not None
            known = shown.extract(split.images)
        of_splits.append(known)
    return np.concatenate(of_splits, axis=1)
