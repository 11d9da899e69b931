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
BASELINES = (
    "random",
    "pixels",
    "cell_count",
)  # methods of rows in which nothing was learned, so that no swept value can act
_SETTING = ("method", "backbone", "dataset", "transforms", "evaluation", "target")
_NEEDED = ("run", "seed", *_SETTING, "metric", "value")
_RUN = ("run", "method", "backbone", "dataset", "transforms")  # a name alone may be another's in another workdir
_FRACTIONS = ("accuracy", "f1", "top1")
_NAMED = 3  # values that a sentence names one by one (our choice)


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
      variant: what tells the sweep from others of these columns, else "": the program, where programs differ in what no column
        tells, and `epoch 100` where runs end at several epochs.
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

    A product of several sweeps gives one for each address, at each setting of the others. A run counts with its last epoch;
    runs that end at another epoch are a sweep of their own.

    Args:
      per_class: rows of per_class.csv; values of `accuracy` and `f1` are fractions.
      results: rows of results.csv, whose `top1` is the overall accuracy; without it that is the mean over classes.
      metric: the one to read from `per_class`.

    Returns:
      In the order of the rows.

    Raises:
      UserError: a row lacks a column, an accuracy is no fraction, a column that is taken as swept differs within a run, or two
        runs of one setting and seed differ in what they say of a class.
    """
    addresses = swept_names(per_class)
    for what, table, needed in (("per_class", per_class, (*_NEEDED, "class")), ("results", results, _NEEDED)):
        for row in table:
            if missing := [name for name in needed if name not in row]:
                raise UserError(f"{what}: a row has no column {', '.join(missing)}; expected {', '.join(needed)}")
    _check_swept(per_class, addresses)
    per_class, results = last_epochs(per_class), last_epochs(results)
    several = _several(per_class, addresses)
    epochs: dict[_Sweep, set[int]] = {}
    measured: dict[_Sweep, dict[_Cell, dict[str, tuple[float, str]]]] = {}
    for row in per_class:
        sweep, cell = _place(row, addresses, several)
        epochs.setdefault(_kin(sweep), set()).add(sweep.epoch)
        if row["metric"] != metric or sweep.method in BASELINES or not sweep.addresses:
            continue
        found = measured.setdefault(sweep, {}).setdefault(cell, {})
        name, value, run = str(row["class"]), _value(row, "per_class"), f"{row['run']}, epoch {row.get('epoch')}"
        before, its_run = found.setdefault(name, (value, run))
        if before != value and not (np.isnan(before) and np.isnan(value)):
            raise UserError(
                f"per_class: class '{name}' has {sweep.evaluation} {metric} {before:g} in run {its_run} and {value:g} in run "
                f"{run}; expected one value for {sweep.method} at {_told(sweep, cell)}"
            )
    top1 = {
        _place(row, addresses, several): _value(row, "results")
        for row in results
        if metric == "accuracy" and row["metric"] == "top1"
    }
    return [
        made
        for sweep, cells in measured.items()
        for i in range(len(sweep.addresses))
        for made in _along(i, sweep, cells, top1, metric, len(epochs[_kin(sweep)]) > 1)
    ]


def last_epochs(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of an evaluation of a run at an epoch before its last; an epoch that is not given is the first."""
    keys = [(*(row[name] for name in _RUN), row["evaluation"]) for row in rows]
    last: dict[tuple[Any, ...], int] = {}
    for key, row in zip(keys, rows):
        last[key] = max(last.get(key, 0), _epoch(row))
    return [row for key, row in zip(keys, rows) if _epoch(row) == last[key]]


def complete(curves: Curves) -> Curves:
    """The curves without gaps: without values and seeds that lack runs, but with as many runs as may be.

    While a run is missing, the value or the seed with the largest share of missing runs goes (the seed of two equal ones), as
    long as a seed with three values stays. A run counts as missing when any class's accuracy is.

    Raises:
      UserError: there are fewer than three values, or no seed has three.
    """
    present: NDArray[np.bool_] = np.all(np.isfinite(curves.accuracy), axis=2)
    there = int(np.any(present, axis=1).sum())
    if there < MIN_VALUES:
        raise UserError(f"{describe(curves)}: given {there} values, expected at least {MIN_VALUES}")
    if not _enough(present):
        raise UserError(f"{describe(curves)}: no seed has {MIN_VALUES} of the {there} values; expected at least one")
    values, seeds = np.arange(len(curves.values)), np.arange(len(curves.seeds))
    while not (kept := present[np.ix_(values, seeds)]).all():
        shares = np.concatenate([1 - kept.mean(axis=0), 1 - kept.mean(axis=1)])
        # A seed that has three values stays, so that one without is there to go, or one of its own gaps.
        rests = (_without(values, seeds, int(at)) for at in np.argsort(-np.round(shares, 12), kind="stable"))
        values, seeds = next(rest for rest in rests if _enough(present[np.ix_(*rest)]))
    return curves._replace(
        values=curves.values[values],
        seeds=tuple(curves.seeds[i] for i in seeds),
        accuracy=curves.accuracy[np.ix_(values, seeds)],
        overall=curves.overall[np.ix_(values, seeds)],
    )


def _enough(present: NDArray[np.bool_]) -> bool:
    return bool(present.sum(axis=0).max(initial=0) >= MIN_VALUES)


def _without(values: NDArray[np.int_], seeds: NDArray[np.int_], at: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Without the seed or the value at a position among the seeds and then the values."""
    if at < len(seeds):
        return values, np.delete(seeds, at)
    return np.delete(values, at - len(seeds)), seeds


def left_out(before: Curves, kept: Curves) -> list[str]:
    """A sentence for each seed and value that `complete` took out: `seed 7: no run at color_jitter.hue 0.4`."""
    missing: NDArray[np.bool_] = ~np.all(np.isfinite(before.accuracy), axis=2)
    told = []
    for seed, gaps in zip(before.seeds, (missing & ~missing.all(axis=1, keepdims=True)).T):
        if seed not in kept.seeds:
            named = ", ".join(f"{value:g}" for value in before.values[gaps])
            several = f"{gaps.sum()} of the {len(gaps)} values of {before.swept}"
            told.append(f"seed {seed}: no run at {several if gaps.sum() > _NAMED else f'{before.swept} {named}'}")
    for value, gaps in zip(before.values, missing):
        if value not in kept.values:
            count = int(gaps.sum())
            verb = "has" if count == 1 else "have"
            told.append(f"{before.swept} {value:g}: {count} of {len(gaps)} seeds {verb} no run")
    return told


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
    epoch: int
    program: str = ""


class _Cell(NamedTuple):
    """What tells the runs of one sweep apart: the values by address, and the seed."""

    values: tuple[Any, ...]
    seed: int


def _place(row: Row, addresses: Iterable[str], several: Collection[_Sweep] = ()) -> tuple[_Sweep, _Cell]:
    swept = {address: row[address] for address in addresses if _given(row.get(address))}
    sweep = _Sweep(**{name: row[name] for name in _SETTING}, addresses=tuple(swept), epoch=_epoch(row))
    if _measured(sweep) in several:
        sweep = sweep._replace(program=program_of(row["run"]))
    return sweep, _Cell(tuple(swept.values()), int(row["seed"] or 0))


def _several(rows: Iterable[Row], addresses: Sequence[str]) -> set[_Sweep]:
    """The sweeps of which two programs hold the same run: they differ in a setting that no column tells, a batch size, say."""
    programs: dict[tuple[_Sweep, _Cell], set[str]] = {}
    for row in rows:
        sweep, cell = _place(row, addresses)
        programs.setdefault((_measured(sweep), cell), set()).add(program_of(row["run"]))
    return {sweep for (sweep, _), names in programs.items() if len(names) > 1}


def _measured(sweep: _Sweep) -> _Sweep:
    """What was trained, whatever it was measured with: its evaluations are told apart from other sweeps' by the same words."""
    return sweep._replace(evaluation="", target="")


def _kin(sweep: _Sweep) -> _Sweep:
    """What sweeps share that differ in their epoch and program."""
    return _measured(sweep)._replace(epoch=0, program="")


def _epoch(row: Row) -> int:
    return row.get("epoch") or 0


def _given(value: Any) -> bool:
    return value is not None and value == value  # other programs leave NaN where nothing is swept


def _value(row: Row, table: str) -> float:
    value = float(row["value"])
    if row["metric"] in _FRACTIONS and (value < 0 or value > 1):
        of = f" of class '{row['class']}'" if "class" in row else ""
        raise UserError(f"{table}: {row['metric']}{of} in run {row['run']} is {value:g}; expected a fraction in [0, 1]")
    return value


def _check_swept(rows: Iterable[Row], addresses: Sequence[str]) -> None:
    """A column that is not known is taken as swept; another program's may be something of the class or of the row."""
    values: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["method"] in BASELINES:
            continue
        own = {address: row[address] for address in addresses if _given(row.get(address))}
        first = values.setdefault(tuple(row[name] for name in _RUN), own)
        if own != first:
            column = next(address for address in addresses if own.get(address) != first.get(address))
            raise UserError(
                f"per_class: column '{column}' is taken as swept but differs within run {row['run']} "
                f"({first.get(column)} and {own.get(column)}); expected one value a run, or no such column"
            )


def _told(sweep: _Sweep, cell: _Cell) -> str:
    settings = [f"{address} {value}" for address, value in zip(sweep.addresses, cell.values)]
    return ", ".join([*settings, f"seed {cell.seed}"])


def _along(
    axis: int,
    sweep: _Sweep,
    cells: Mapping[_Cell, Mapping[str, tuple[float, str]]],
    top1: Mapping[tuple[_Sweep, _Cell], float],
    metric: str,
    tell_epoch: bool,
) -> list[Curves]:
    """The curves over one address of a sweep, one for each setting of its others."""
    variant = ", ".join(filter(None, (sweep.program, f"epoch {sweep.epoch}" if tell_epoch else "")))
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
                variant=variant,
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
