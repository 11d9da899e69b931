"""Which cells of a set of treated and untreated ones are used: a compound at its highest concentrations, as many untreated."""

from collections.abc import Mapping

import numpy as np

from ssljax.data.bbbc021.metadata import CONTROL
from ssljax.data.source import Subset
from ssljax.errors import UserError, unknown


def drawn(columns: Mapping[str, np.ndarray], subset: Subset, name: str) -> tuple[np.ndarray, list[str]]:
    """Draws the cells; the same call always draws the same ones.

    Treated are the cells of the compound on its own plates: those that hold it at more than one concentration, or, where no plate
    does, all that hold it. (Taxol at .3 uM is a control on every plate of BBBC021.) As many are drawn of each concentration (give
    or take one, for an exact total), and as many untreated ones as treated.

    Args:
      columns: compound, concentration and plate of each cell, text [n].
      subset: what is asked for.
      name: the data set, for messages.

    Returns:
      (int [m], increasing indices; a line for each thing that came out smaller than asked for).

    Raises:
      UserError: a compound that there is not, or no untreated cell to go with it.
    """
    held = columns["compound"]
    compound = _known(subset.compound, held)
    treated, untreated = held == compound, held == CONTROL
    at = columns["concentration"].astype(float)
    treated &= np.isin(columns["plate"], _own_plates(columns["plate"][treated], at[treated]))
    highest = np.unique(at[treated])[-subset.concentrations :]  # -0 is all
    notes = []
    if len(highest) < subset.concentrations:
        notes.append(f"{name}: {compound} stands at {len(highest)} concentrations, asked for {subset.concentrations}")
    pools = [np.flatnonzero(treated & (at == one)) for one in highest]
    plates = np.unique(columns["plate"][np.concatenate(pools)])
    pool = np.flatnonzero(untreated & np.isin(columns["plate"], plates) if subset.controls == "plates" else untreated)
    sizes = [len(one) for one in pools]
    most = min(len(pools) * min(sizes), len(pool))
    count = min(most, subset.most // 2) if subset.most else most
    if count < len(pools):
        asked = f" --max_images={subset.most}" if subset.most else ""
        where = "on its plates" if subset.controls == "plates" else "at all"
        raise UserError(
            f"{name}: --compound={compound}{asked}: expected one cell of each of {len(pools)} concentrations and as many untreated "
            f"ones; there are {sum(sizes)} and {len(pool)} untreated {where}"
        )
    if count < subset.most // 2:
        notes.append(
            f"{name}: {2 * count} cells, asked for {subset.most}: {compound} has only {min(sizes)} at "
            f"{highest[np.argmin(sizes)]:g} uM, there are {len(pool)} untreated, and as many are taken of each concentration"
        )
    # RandomState, not Generator: NumPy promises that its stream never changes.
    random = np.random.RandomState(0)
    each = [count // len(pools) + (i < count % len(pools)) for i in range(len(pools))]
    chosen = np.concatenate([random.permutation(one)[:some] for one, some in zip(pools, each)])
    pool = random.permutation(pool)
    if subset.controls == "plates":
        pool = _as_many_of_each(columns["plate"][pool], columns["plate"][chosen], pool)
    return np.sort(np.concatenate([chosen, pool[: len(chosen)]])), notes


def _known(compound: str, held: np.ndarray) -> str:
    """The compound's name as the set writes it."""
    names = {one.casefold(): one for one in np.unique(held).tolist() if one != CONTROL}
    if compound.casefold() not in names:
        raise unknown("compound", compound, names.values(), "--compound")
    return names[compound.casefold()]


def _own_plates(plates: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The plates on which a compound stands at more than one concentration; all where there is no such plate."""
    names = np.unique(plates)
    several = [len(np.unique(at[plates == one])) > 1 for one in names]
    return names[several] if any(several) else names


def _as_many_of_each(plates: np.ndarray, wanted: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """The pool in another order: first as many cells of each plate as are wanted of it, as far as it has them, then the others."""
    first = np.zeros(len(pool), bool)
    for plate, count in zip(*np.unique(wanted, return_counts=True)):
        first[np.flatnonzero(plates == plate)[:count]] = True
    return np.concatenate([pool[first], pool[~first]])
