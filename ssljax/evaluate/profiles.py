"""Profiles: from a table of single-cell features to one corrected vector a site and a treatment.

The field's own way with images of treated cells, as the studies of BBBC021 go it: the mean over a site's cells; typical variation
normalisation (TVN) and CORAL on the controls, after D. M. Ando, C. McLean and M. Berndl, "Improving phenotypic measurements in
high-content imaging screens" (bioRxiv 161422, 2017); the median over a treatment's sites. `mechanisms` scores what comes out.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.data.bbbc021.metadata import CONTROL
from ssljax.errors import UserError, unknown
from ssljax.evaluate.arrays import feature_matrix

Strings = NDArray[np.str_]

RIDGE = 1.0  # TVN's and CORAL's: what is added to each eigenvalue (Ando et al.: the identity matrix)
COLUMNS = ("compound", "concentration", "plate", "batch", "well", "site", "moa")
_PERCENTILES = (1, 25, 50, 75, 99)  # of `pixel_statistics`; our choice
_PIXELS_AT_ONCE = 2**23  # 64 MiB in float64, whatever the number of images


class Table(NamedTuple):
    """Features and what is known of each row.

    Attributes:
      features: float64 or float32 [n, d].
      columns: `COLUMNS` -> strings [n]. An empty "moa" is an unknown mechanism.
    """

    features: NDArray[np.floating]
    columns: dict[str, Strings]

    def rows(self, chosen: NDArray) -> "Table":
        """The rows that a mask or an index array chooses."""
        return Table(self.features[chosen], {name: column[chosen] for name, column in self.columns.items()})


class Treatments(NamedTuple):
    """One profile a treatment, controls not among them.

    Attributes:
      features: float64 [t, d].
      compound: strings [t].
      concentration: float64 [t].
      moa: strings [t]; empty where the mechanism is unknown.
      batches: the batches that each treatment was made in.
    """

    features: NDArray[np.float64]
    compound: Strings
    concentration: NDArray[np.float64]
    moa: Strings
    batches: tuple[frozenset[str], ...]


def table(features: ArrayLike, metadata: Mapping[str, ArrayLike]) -> Table:
    """Checks features against the metadata of the same rows.

    Args:
      features: [n, d], finite.
      metadata: column name -> [n], strings or numbers: the names in `COLUMNS`, others are ignored. Without a "batch", a plate's
        name up to its first "_" (BBBC021's week).

    Raises:
      UserError: a column that is missing or of another length, features that are not finite.
    """
    matrix = feature_matrix(features, "profiles")
    given = {name: np.asarray(column) for name, column in metadata.items() if name in COLUMNS}
    if "batch" not in given and "plate" in given:
        given["batch"] = np.array([str(plate).partition("_")[0] for plate in given["plate"]], np.str_)
    for name in COLUMNS:
        if name not in given:
            raise UserError(f"profiles: the metadata has no column '{name}', given {', '.join(metadata) or 'none'}")
        if given[name].shape != (len(matrix),):
            raise UserError(f"profiles: column '{name}' has shape {given[name].shape}, expected [{len(matrix)}]")
    return Table(matrix, {name: given[name].astype(np.str_) for name in COLUMNS})


def site_profiles(cells: Table) -> Table:
    """The mean over the cells of each site (plate, well, site): one row a site, in float64.

    Raises:
      UserError: a site whose cells differ in compound, concentration, batch or mechanism.
    """
    of_site = _groups(cells, "plate", "well", "site")
    firsts = np.array([rows[0] for rows in of_site])
    for name in ("compound", "concentration", "batch", "moa"):
        column = cells.columns[name]
        for first, rows in zip(firsts, of_site):
            if (column[rows] != column[first]).any():
                where = ", ".join(f"{key} {cells.columns[key][first]}" for key in ("plate", "well", "site"))
                raise UserError(f"profiles: cells of one site ({where}) differ in '{name}', expected one value a site")
    means = np.stack([cells.features[rows].mean(0, dtype=np.float64) for rows in of_site])
    return Table(means, cells.rows(firsts).columns)


def cell_counts(cells: Table) -> Table:
    """How many cells each site has, as site profiles of one feature: what the drugs' toxicity alone tells."""
    of_site = _groups(cells, "plate", "well", "site")
    firsts = np.array([rows[0] for rows in of_site])
    counts = np.array([[len(rows)] for rows in of_site], np.float64)
    return Table(counts, cells.rows(firsts).columns)


def pixel_statistics(images: ArrayLike) -> NDArray[np.float64]:
    """What can be said of each image without an encoder, as features.

    Args:
      images: [n, height, width, channels], floats or whole numbers; whole ones are divided by the greatest of their type.

    Returns:
      float64 [n, 7 c + c (c - 1) / 2]: by channel the mean, the standard deviation and the percentiles 1, 25, 50, 75, 99, each
      for all c channels; then the correlation of each pair of channels, 0 where one is flat.

    Raises:
      UserError: images of another shape.
    """
    stack: Any = images if hasattr(images, "ndim") else np.asarray(images)  # they may be read as they are asked for
    if stack.ndim != 4 or 0 in stack.shape:
        raise UserError(f"pixel_statistics: given images of shape {stack.shape}, expected [n, height, width, channels]")
    at_once = max(1, _PIXELS_AT_ONCE // int(np.prod(stack.shape[1:])))
    parts = range(0, len(stack), at_once)
    return np.concatenate([_statistics(stack[start : start + at_once]) for start in parts])


def _statistics(images: NDArray) -> NDArray[np.float64]:
    scale = float(np.iinfo(images.dtype).max) if np.issubdtype(images.dtype, np.integer) else 1.0
    # Whole numbers are sorted as such, which is much faster than as float64.
    pixels = np.sort(np.moveaxis(images, -1, 1).reshape(len(images), images.shape[-1], -1), axis=2)
    percentiles = np.percentile(pixels, _PERCENTILES, axis=2)
    by_place = np.moveaxis(images, -1, 1).reshape(pixels.shape)
    mean = by_place.mean(2, dtype=np.float64)
    centred = by_place - mean[..., None]
    covariance = centred @ centred.swapaxes(1, 2) / pixels.shape[2]
    deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scales = deviation[:, :, None] * deviation[:, None, :]
    correlation = covariance / np.where(scales > 0, scales, 1)
    first, second = np.triu_indices(images.shape[-1], 1)
    levels = np.concatenate([mean, deviation, *percentiles], axis=1) / scale
    return np.concatenate([levels, correlation[:, first, second]], axis=1)


def standardize(sites: Table, control: str = CONTROL) -> Table:
    """Subtracts the controls' mean and divides by their standard deviation, feature by feature; one that they all share becomes 0.

    For features of all kinds of units, such as `pixel_statistics`, before `tvn`, whose ridge of 1 leaves features of far smaller
    variance as they are.

    Args:
      sites: site profiles.
      control: the compound of the untreated sites.

    Raises:
      UserError: fewer than two control sites.
    """
    own = sites.features[_controls(sites, control)]
    deviation = own.std(0, ddof=1, dtype=np.float64)
    flat = np.ptp(own, axis=0) == 0
    return sites._replace(features=np.where(flat, 0, (sites.features - own.mean(0)) / np.where(flat, 1, deviation)))


def tvn(sites: Table, control: str = CONTROL) -> Table:
    """Typical variation normalisation: X <- (X - mu) V (L + 1)^-1/2, with mu and C = V L V' of the controls' sites.

    The controls' covariance becomes L / (L + 1) on the diagonal: white but for the ridge, by which directions that hardly vary
    are not blown up; features should have variances near 1 or above (see `standardize`). Covariances are unbiased.

    Args:
      sites: site profiles.
      control: the compound of the untreated sites.

    Raises:
      UserError: fewer than two control sites.
    """
    controls = _controls(sites, control)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(sites.features[controls], rowvar=False, dtype=np.float64)))
    centred = sites.features - sites.features[controls].mean(0)
    return sites._replace(features=centred @ vectors / np.sqrt(np.maximum(values, 0) + RIDGE))


def coral(sites: Table, control: str = CONTROL) -> Table:
    """Correlation alignment of each batch, on the controls: X_b <- X_b (C_b + I)^-1/2 (C_all + I)^1/2.

    C_b and C_all are the unbiased covariances of the batch's and of all control sites. Afterwards every batch's controls have
    the covariance of all (plus the ridge, before and after); means stay where they are mapped to.

    Args:
      sites: site profiles, after `tvn`.
      control: the compound of the untreated sites.

    Raises:
      UserError: a batch with fewer than two control sites.
    """
    controls, batch = _controls(sites, control), sites.columns["batch"]
    aligned = np.empty(sites.features.shape)
    for name in np.unique(batch):
        own = batch == name
        if (n := int((own & controls).sum())) < 2:
            raise UserError(f"profiles: batch '{name}' has {n} sites of the control '{control}', expected 2 or more")
        aligned[own] = _times_power(sites.features[own], sites.features[own & controls], -0.5)
    return sites._replace(features=_times_power(aligned, sites.features[controls], 0.5))


def treatment_profiles(sites: Table, control: str = CONTROL) -> Treatments:
    """The median over the sites of each treatment (compound and concentration), feature by feature, controls left out.

    Concentrations are compared as numbers: "0.3" is "0.300".

    Raises:
      UserError: no treated site, a concentration that is no number, a treatment of two mechanisms.
    """
    treated = sites.rows(sites.columns["compound"] != control)
    if not len(treated.features):
        raise UserError(
            f"profiles: all {len(sites.features)} sites are of the control '{control}', expected treatments too"
        )
    try:
        concentration = treated.columns["concentration"].astype(np.float64)
    except ValueError as error:
        raise UserError(f"profiles: a concentration is no number ({error})") from None
    columns = {**treated.columns, "concentration": concentration.astype(np.str_)}
    of_treatment = _groups(treated._replace(columns=columns), "compound", "concentration")
    mechanisms = [set(treated.columns["moa"][rows].tolist()) for rows in of_treatment]
    firsts = np.array([rows[0] for rows in of_treatment])
    for first, moa in zip(firsts, mechanisms):
        if len(moa) > 1:
            name = f"{treated.columns['compound'][first]} at {concentration[first]:g}"
            raise UserError(f"profiles: treatment {name} has the mechanisms {sorted(moa)}, expected one")
    return Treatments(
        np.stack([np.median(treated.features[rows].astype(np.float64), axis=0) for rows in of_treatment]),
        treated.columns["compound"][firsts],
        concentration[firsts],
        treated.columns["moa"][firsts],
        tuple(frozenset(treated.columns["batch"][rows].tolist()) for rows in of_treatment),
    )


def _groups(of: Table, *names: str) -> list[NDArray[np.intp]]:
    """The row numbers of each combination of values, in the order of the values."""
    codes = np.stack([np.unique(of.columns[name], return_inverse=True)[1] for name in names])
    order = np.lexsort(codes[::-1])
    starts = np.flatnonzero((np.diff(codes[:, order]) != 0).any(0)) + 1
    return np.split(order, starts)


def _controls(sites: Table, control: str) -> NDArray[np.bool_]:
    compound = sites.columns["compound"]
    controls = compound == control
    if not controls.any():
        raise unknown("control compound", control, np.unique(compound).tolist(), "profiles")
    if controls.sum() < 2:
        raise UserError(f"profiles: one site of the control '{control}', expected 2 or more")
    return controls


def _times_power(features: NDArray, controls: NDArray, exponent: float) -> NDArray[np.float64]:
    """features (C + I)^exponent, C the controls' covariance: a few directions, so that no d x d matrix is needed."""
    centred = (controls - controls.mean(0, dtype=np.float64)) / np.sqrt(len(controls) - 1)
    _, deviation, directions = np.linalg.svd(centred, full_matrices=False)
    more = (deviation**2 + RIDGE) ** exponent - RIDGE**exponent  # where C has nothing, only the ridge is left
    return features * RIDGE**exponent + (features @ directions.T * more) @ directions
