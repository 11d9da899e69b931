"""Per-class accuracy against a swept value, read from the rows of per_class.csv: where every statistic of the study starts.

The rows may come from any program that writes those columns; the rows of the baselines `random` and `pixels` are passed over.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError, unknown
from ssljax.evaluate.results import program_of, swept_names

Row = Mapping[str, Any]

MIN_VALUES = 3  # fewer points have no correlation to speak of: with two every one is 1 or -1
POINTS = ("mean", "runs")  # the papers do not say which *n* they have; the report shows both
_BASELINES = ("random", "pixels")  # methods of rows in which nothing was learned, so that no swept value can act
_SETTING = ("method", "backbone", "dataset", "transforms", "evaluation", "target")
_NEEDED = ("run", "seed", *_SETTING, "metric", "value")


class Curves(NamedTuple):
    """The accuracy of every class at every value of one sweep.

    Attributes:
      method, backbone, dataset, transforms, evaluation, target, metric: as in the rows.
      fixed: the other swept addresses with the values at which they are held.
      swept: the address that varies.
      values: float64 [V], ascending.
      seeds: S seeds, ascending.
      classes: C names, in the order of the rows.
      accuracy: float64 [V, S, C], fractions; NaN where a run is missing.
      overall: float64 [V, S], top-1 of the run; NaN where it is missing.
      variant: the program, where programs differ in what no column tells; else "".
    """

    method: str
    backbone: str
    dataset: str
    transforms: str
    evaluation: str
    target: str
    metric: str
    fixed: tuple[tuple[str, Any], ...]
    swept: str
    values: NDArray[np.float64]
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    accuracy: NDArray[np.float64]
    overall: NDArray[np.float64]
    variant: str = ""


def describe(curves: Curves) -> str:
    """What the curves are of, in a few words: `linear accuracy of simclr (resnet18, cifar10) over color_jitter.hue`."""
    where = ", ".join(part for part in (curves.backbone, curves.dataset, curves.transforms, curves.variant) if part)
    held = "".join(f", {address} {value}" for address, value in curves.fixed)
    by = "" if curves.target == "label" else f" by {curves.target}"
    return f"{curves.evaluation} {curves.metric}{by} of {curves.method} ({where}) over {curves.swept}{held}"


def curves(per_class: Sequence[Row], results: Sequence[Row] = (), *, metric: str = "accuracy") -> list[Curves]:
    """Every sweep of at least three values in the rows, for every evaluation and target that has the metric.

    A product of several sweeps gives one for each address, at each setting of the others.

    Args:
      per_class: rows of per_class.csv.
      results: rows of results.csv, whose `top1` is the overall accuracy; without it that is the mean over classes.
      metric: the one to read from `per_class`.

    Returns:
      In the order of the rows.

    Raises:
      UserError: a row lacks a column, or two runs of one setting and seed differ in what they say of a class.
    """
    addresses = swept_names(per_class)
    for what, table, needed in (("per_class", per_class, (*_NEEDED, "class")), ("results", results, _NEEDED)):
        for row in table:
            if missing := [name for name in needed if name not in row]:
                raise UserError(f"{what}: a row has no column {', '.join(missing)}; expected {', '.join(needed)}")
    variants = _variants(per_class, addresses)
    measured: dict[_Sweep, dict[_Cell, dict[str, tuple[float, str]]]] = {}
    for row in per_class:
        sweep, cell = _place(row, addresses, variants)
        if row["metric"] != metric or sweep.method in _BASELINES or not sweep.addresses:
            continue
        found = measured.setdefault(sweep, {}).setdefault(cell, {})
        name, value, run = str(row["class"]), float(row["value"]), f"{row['run']}, epoch {row.get('epoch')}"
        before, its_run = found.setdefault(name, (value, run))
        if before != value and not (np.isnan(before) and np.isnan(value)):
            raise UserError(
                f"per_class: class '{name}' has {sweep.evaluation} {metric} {before:g} in run {its_run} and {value:g} in run "
                f"{run}; expected one value for {sweep.method} at {_told(sweep, cell)}"
            )
    top1 = {
        _place(row, addresses, variants): float(row["value"])
        for row in results
        if metric == "accuracy" and row["metric"] == "top1"
    }
    return [
        made
        for sweep, cells in measured.items()
        for i in range(len(sweep.addresses))
        for made in _along(i, sweep, cells, top1, metric)
    ]


def complete(curves: Curves) -> Curves:
    """The curves without the values that no seed has, then without the seeds that lack a value.

    A run counts as missing when any class's accuracy is.

    Raises:
      UserError: fewer than three values, or no seed, are left.
    """
    present: NDArray[np.bool_] = np.all(np.isfinite(curves.accuracy), axis=2)
    some: NDArray[np.bool_] = np.any(present, axis=1)
    whole: NDArray[np.bool_] = np.all(present[some], axis=0)
    if some.sum() < MIN_VALUES:
        raise UserError(f"{describe(curves)}: given {some.sum()} values, expected at least {MIN_VALUES}")
    if not whole.any():
        raise UserError(f"{describe(curves)}: no seed has all {some.sum()} values; expected at least one that does")
    return curves._replace(
        values=curves.values[some],
        seeds=tuple(seed for seed, kept in zip(curves.seeds, whole) if kept),
        accuracy=curves.accuracy[np.ix_(some, whole)],
        overall=curves.overall[np.ix_(some, whole)],
    )


def points(curves: Curves, of: str) -> NDArray[np.float64]:
    """The accuracies as points [n, C] of one reading: `mean` one a value (n = V), `runs` one a value and seed (n = V S).

    Raises:
      UserError: another reading.
    """
    if of == "mean":
        # 12 digits: means of equal accuracies in another order must stay tied
        return np.round(curves.accuracy.mean(axis=1), 12)
    if of == "runs":
        return curves.accuracy.reshape(-1, len(curves.classes))
    raise unknown("reading", of, POINTS, where="points")


def positions(curves: Curves, of: str) -> NDArray[np.float64]:
    """The swept value [n] of each of the `points`."""
    return np.repeat(curves.values, len(points(curves, of)) // len(curves.values))


class _Sweep(NamedTuple):
    """What the runs of one sweep, or one product of sweeps, share."""

    method: str
    backbone: str
    dataset: str
    transforms: str
    evaluation: str
    target: str
    addresses: tuple[str, ...]
    variant: str = ""


class _Cell(NamedTuple):
    """What tells the runs of one sweep apart: the values by address, and the seed."""

    values: tuple[Any, ...]
    seed: int


def _place(row: Row, addresses: Iterable[str], variants: Collection[_Sweep] = ()) -> tuple[_Sweep, _Cell]:
    swept = {address: row[address] for address in addresses if row.get(address) is not None}
    sweep = _Sweep(**{name: row[name] for name in _SETTING}, addresses=tuple(swept))
    if sweep in variants:
        sweep = sweep._replace(variant=program_of(row["run"]))
    return sweep, _Cell(tuple(swept.values()), int(row["seed"] or 0))


def _variants(rows: Iterable[Row], addresses: Sequence[str]) -> set[_Sweep]:
    """The sweeps of which two programs hold the same run: they differ in a setting that no column tells, a batch size, say."""
    programs: dict[tuple[_Sweep, _Cell], set[str]] = {}
    for row in rows:
        programs.setdefault(_place(row, addresses), set()).add(program_of(row["run"]))
    return {sweep for (sweep, _), names in programs.items() if len(names) > 1}


def _told(sweep: _Sweep, cell: _Cell) -> str:
    settings = [f"{address} {value}" for address, value in zip(sweep.addresses, cell.values)]
    return ", ".join([*settings, f"seed {cell.seed}"])


def _along(
    axis: int,
    sweep: _Sweep,
    cells: Mapping[_Cell, Mapping[str, tuple[float, str]]],
    top1: Mapping[tuple[_Sweep, _Cell], float],
    metric: str,
) -> list[Curves]:
    """The curves over one address of a sweep, one for each setting of its others."""
    settings: dict[tuple[Any, ...], list[_Cell]] = {}
    for cell in cells:
        settings.setdefault(cell.values[:axis] + cell.values[axis + 1 :], []).append(cell)
    others = sweep.addresses[:axis] + sweep.addresses[axis + 1 :]
    found = []
    for held, its_cells in settings.items():
        if any(isinstance(cell.values[axis], str) for cell in its_cells):
            continue  # a name is not a value that a curve could run along
        values = sorted({cell.values[axis] for cell in its_cells})
        if len(values) < MIN_VALUES:
            continue
        seeds = sorted({cell.seed for cell in its_cells})
        classes = list(dict.fromkeys(name for cell in its_cells for name in cells[cell]))
        accuracy = np.full((len(values), len(seeds), len(classes)), np.nan)
        overall = np.full((len(values), len(seeds)), np.nan)
        v, s, c = ({each: i for i, each in enumerate(names)} for names in (values, seeds, classes))
        for cell in its_cells:
            at = v[cell.values[axis]], s[cell.seed]
            for name, (value, _) in cells[cell].items():
                accuracy[(*at, c[name])] = value
            mean = float(np.mean([value for value, _ in cells[cell].values()]))
            overall[at] = top1.get((sweep, cell), mean)
        found.append(
            Curves(
                **{name: getattr(sweep, name) for name in _SETTING},
                variant=sweep.variant,
                metric=metric,
                fixed=tuple(zip(others, held)),
                swept=sweep.addresses[axis],
                values=np.array(values, np.float64),
                seeds=tuple(seeds),
                classes=tuple(classes),
                accuracy=accuracy,
                overall=overall,
            )
        )
    return found
