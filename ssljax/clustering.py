"""The evaluations that cluster: K-means against labels and columns, and a compound's cells by concentration."""

import logging
from collections.abc import Mapping

import numpy as np

from ssljax.classifying import Measured
from ssljax.config import Config, clusters_of, evaluation_parts
from ssljax.data import Dataset, Subset
from ssljax.data.bbbc021.metadata import CONTROL
from ssljax.data.subset import drawn
from ssljax.errors import UserError, unknown
from ssljax.evaluate.measure import ClassMeasurement, clustering_measurements
from ssljax.representation import Representation

log = logging.getLogger("ssljax")

TREATED = "treated"  # what clusters of `dose` are scored against: whether a cell was treated
FEWEST = 5  # treated test cells of a concentration below which nothing is said of it (our choice)
_OF_DOSE = ("compound", "concentration", "plate")


def check(config: Config, dataset: Dataset) -> None:
    """Refuses, before anything is trained, the evaluations of this module that cannot be made.

    Args:
      config: resolved.
      dataset: what is trained and measured on.

    Raises:
      UserError: no number of clusters, or more than images; columns that are not there; too few cells of each concentration.
    """
    test = dataset.splits["test"]
    for name in config.score:
        if name not in test.columns:
            if not test.columns:
                raise UserError(
                    f"--score: {name}: no more is known of the images of {config.dataset} than their labels"
                )
            raise unknown("column", name, test.columns, "--score")
    for name in config.evaluations:
        base, detail = evaluation_parts(name)
        if base != "kmeans":
            continue
        count = _count(config, dataset, detail)
        if not count:
            raise UserError(
                f"--clusters: {config.dataset} has no classes to count; say how many clusters kmeans looks for"
            )
        if count > len(test.images):
            flag = f"--evaluations: {name}" if detail else "--clusters"
            raise UserError(f"{flag}: {count} is more than the {len(test.images)} test images of {config.dataset}")
    if "dose" in config.evaluations:
        _, few = _cells_by_concentration(config, dataset)
        if few:
            log.warning(few)


def kmeans(
    config: Config, dataset: Dataset, shown: Representation, detail: str = ""
) -> tuple[list[Measured], dict[str, np.ndarray]]:
    """K-means on the test images, and on the validation images by themselves where there are any labelled ones."""
    name, count = f"kmeans@{detail}" if detail else "kmeans", _count(config, dataset, detail)
    features = {name: ("test", shown.test)}
    if shown.validation is not None and count <= shown.validation.shape[1]:
        features[f"{name}@validation"] = ("validation", shown.validation)
    measured: list[Measured] = [((), ())] * len(shown.names)
    arrays: dict[str, np.ndarray] = {}
    for evaluation, (split, points) in features.items():
        held = dataset.splits[split]
        clustered = [
            clustering_measurements(
                each,
                held.labels,
                n_clusters=count,
                random_state=seed % 2**31,  # scikit-learn takes no larger one
                normalize="l2" if config.kmeans_features == "l2" else "none",
                evaluation=evaluation,
                columns={column: held.columns[column] for column in config.score},
            )
            for each, seed in zip(points, shown.seeds)
        ]
        measured = [([*before, *rows], ()) for (before, _), (rows, _) in zip(measured, clustered)]
        if split == "test":
            at = f"@{detail}" if detail else ""
            arrays[f"clusters{at}"] = np.stack([found.assignment for _, found in clustered]).astype(np.int32)
            arrays[f"distance{at}"] = np.stack([found.distance for _, found in clustered]).astype(np.float32)
    return measured, arrays


def dose(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    """K-means with two clusters on the test cells of each concentration and as many untreated ones.

    Rows of per_class.csv alone: the class is the concentration, the target "treated", and "shuffled" for labels by chance.
    """
    compound = dataset.splits["test"].columns["compound"]
    cells, _ = _cells_by_concentration(config, dataset)
    measured: list[Measured] = []
    for features, seed in zip(shown.test, shown.seeds):
        rows: list[ClassMeasurement] = []
        for concentration, index in cells.items():
            found, _ = clustering_measurements(
                features[index],
                (compound[index] != CONTROL).astype(int),
                n_clusters=2,
                random_state=seed % 2**31,
                normalize="l2" if config.kmeans_features == "l2" else "none",
                evaluation="dose",
                target=TREATED,
            )
            rows += [ClassMeasurement(m.evaluation, m.target, concentration, m.metric, m.value) for m in found]
        measured.append(((), rows))
    return measured, {}


def _count(config: Config, dataset: Dataset, detail: str) -> int:
    return clusters_of(detail) or config.clusters or len(dataset.class_names or ())


def _cells_by_concentration(config: Config, dataset: Dataset) -> tuple[dict[str, np.ndarray], str]:
    """The test cells of each concentration of the compound and as many untreated ones.

    The untreated cells are from the treated plates, as many of each as there are treated ones on it, unless `--controls=any`.

    Returns:
      Rows by concentration, lowest first; a sentence on concentrations of too few cells, "" where there are none.

    Raises:
      UserError: columns that are not there, several compounds and none chosen, or no concentration of `FEWEST` cells.
    """
    columns = dataset.splits["test"].columns
    if missing := [name for name in _OF_DOSE if name not in columns]:
        needed = ", ".join(_OF_DOSE)
        raise UserError(f"--evaluations: dose needs the columns {needed}; {config.dataset} has no {', '.join(missing)}")
    compound = _compound(config, columns)
    treated, untreated = columns["compound"] == compound, columns["compound"] == CONTROL
    found: dict[str, np.ndarray] = {}
    few: list[str] = []
    for name in sorted(np.unique(columns["concentration"][treated]).tolist(), key=float):
        rows = np.flatnonzero((treated & (columns["concentration"] == name)) | untreated)
        try:
            chosen, _ = drawn(
                {each: columns[each][rows] for each in _OF_DOSE}, Subset(compound, 0, config.controls), config.dataset
            )
        except UserError:
            chosen = np.array([], int)  # no untreated cell to go with them
        if len(chosen) < 2 * FEWEST:
            few.append(f"{len(chosen) // 2} at {name}")
        else:
            found[name] = rows[chosen]
    where = " of the same plates" if config.controls == "plates" else ""
    said = f"{', '.join(few)} of {compound} with as many untreated{where}; expected {FEWEST} test cells or more"
    if not found:
        raise UserError(f"--evaluations: dose: {config.dataset} has {said}")
    return found, f"dose: {config.dataset} has {said}: no rows for these" if few else ""


def _compound(config: Config, columns: Mapping[str, np.ndarray]) -> str:
    """The compound that was asked for, as the set writes it, or the only one there is."""
    names = [name for name in np.unique(columns["compound"]).tolist() if name != CONTROL]
    if config.compound:
        names = [name for name in names if name.casefold() == config.compound.casefold()]
    if len(names) != 1:
        given = f"{config.dataset} has {len(names)} compounds"
        raise UserError(f"--evaluations: dose is of one compound, {given}; give one by --compound")
    return str(names[0])
