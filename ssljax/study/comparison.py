"""Two settings against each other, paired over seeds: difference, interval and permutation test."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ssljax.errors import UserError, unknown
from ssljax.evaluate.results import Row, program_of
from ssljax.study.curves import last_epochs

CONFIDENCE = 0.95
EXACT_SEEDS = 20  # seeds up to which all 2^n sign flips are gone through: a million, 20 ms (our choice)
FLIPS = 100_000  # flips drawn beyond that: p is known to about .0014 at .05 (our choice)

_VALUE = ("evaluation", "target", "metric", "value")
_ROUNDING = 1e-12  # part below which two sums of the same numbers differ by rounding alone


class Comparison(NamedTuple):
    """Setting `a` against setting `b`, each seed's run of one against the same seed's of the other.

    Attributes:
      measure: evaluation, target (unless it is the label) and metric.
      seeds: n seeds that both have, ascending.
      differences: float64 [n], a - b.
      mean: of the differences.
      low, high: Student's t interval of the mean, 95 %, n - 1 degrees of freedom; NaN for a single seed.
      p: two-sided, of the sign-flip test: the share of all flips of the differences' signs whose mean is as far from 0. No flip
        is further than all of one sign, so that p is never below 2^(1-n).
      exact: whether every flip was gone through, rather than a sample.
      effect: mean / standard deviation of the differences (Cohen's d_z); NaN for a single seed, infinite without deviation.
      only_a, only_b: seeds that the other side lacks, or whose value there is not finite; they are left out.
      sentence: all of it in plain words.
    """

    measure: str
    seeds: tuple[int, ...]
    differences: NDArray[np.float64]
    mean: float
    low: float
    high: float
    p: float
    exact: bool
    effect: float
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    sentence: str


def compare(
    results: Sequence[Row],
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    *,
    evaluation: str = "linear",
    metric: str = "top1",
    target: str = "label",
    random_state: int = 0,
) -> Comparison:
    """Difference of two settings over the seeds that both have.

    A run counts with its last epoch, unless a setting names the epoch.

    Args:
      results: rows of results.csv, from `evaluate.results.read_results`; those of several workdirs may be added up.
      a, b: columns and the values that they must have, such as {"method": "simclr"}; `program` is the part of the run's name
        before the slash. Each must fit one run a seed.
      evaluation, metric, target: the rows to compare.
      random_state: seed of the sampled flips, beyond 20 seeds.

    Raises:
      UserError: a column or value that no row has, no row of the measure, several runs of one seed, or no seed in common.

    Example:
      >>> compare(rows, {"rotation.degrees": 0}, {"rotation.degrees": 180}).sentence
      'linear top1 is .061 higher for rotation.degrees 0 than for rotation.degrees 180 ...'
    """
    measured = [
        row for row in results if (row["evaluation"], row["metric"], row["target"]) == (evaluation, metric, target)
    ]
    measure = " ".join(part for part in (evaluation, "" if target == "label" else target, metric) if part)
    if not measured:
        found = dict.fromkeys(f"{row['evaluation']} {row['target']} {row['metric']}" for row in results)
        raise unknown("measure", f"{evaluation} {target} {metric}", found, "compare")
    by_a, by_b = (_by_seed(measured, setting, side) for setting, side in ((a, "a"), (b, "b")))
    if not by_a.keys() & by_b.keys():
        seeds = [", ".join(map(str, sorted(by))) or "none with a finite value" for by in (by_a, by_b)]
        raise UserError(f"compare: {told(a)} has seeds {seeds[0]}, {told(b)} {seeds[1]}; expected a seed in common")
    shared, only_a, only_b = (
        tuple(sorted(s)) for s in (by_a.keys() & by_b.keys(), by_a.keys() - by_b.keys(), by_b.keys() - by_a.keys())
    )
    differences = np.array([by_a[seed] - by_b[seed] for seed in shared])
    n, mean = len(shared), float(differences.mean())
    low = high = effect = math.nan
    if n > 1:
        deviation = float(differences.std(ddof=1))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
        low, high = mean - half, mean + half
        effect = mean / deviation if deviation > 0 else math.copysign(math.inf, mean) if mean else math.nan
    p, exact = _sign_flips(differences, random_state)
    made = Comparison(measure, shared, differences, mean, low, high, p, exact, effect, only_a, only_b, "")
    return made._replace(sentence=_sentence(made, told(a), told(b)))


def _by_seed(rows: Sequence[Row], setting: Mapping[str, Any], side: str) -> dict[int, float]:
    """The value of each seed whose value is finite, of the runs that a setting fits."""
    fitting: Sequence[Row] = rows
    where = f"compare: {side}"
    if not setting:
        raise UserError(f"{where}: given no column, expected a setting such as {{'method': 'simclr'}}")
    for column, value in setting.items():
        known = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _VALUE]
        if column not in (*known, "program"):
            raise unknown("column", column, [*known, "program"], where)
        before, fitting = fitting, [row for row in fitting if same(cell(row, column), value)]
        if not fitting:
            there = ", ".join(dict.fromkeys(str(cell(row, column)) for row in before))
            raise UserError(f"{where}: no run has {column} {value}; there are {there}")
    if "epoch" not in setting:
        fitting = [dict(row) for row in last_epochs(fitting)]
    found: dict[int, Row] = {}
    without = next((row for row in fitting if row["seed"] is None), None)
    if without is not None:
        raise UserError(f"{where}: {told(setting)} fits {without['run']}, which has no seed to be paired by")
    for row in fitting:
        other = found.setdefault(row["seed"], row)
        if other is not row:
            between = [name for name in row if name not in ("run", *_VALUE) and row[name] != other.get(name)]
            names = ", ".join(f"{name} {other.get(name)} and {row[name]}" for name in between)
            raise UserError(
                f"{where}: {told(setting)} fits {other['run']} and {row['run']}, both of seed {row['seed']}; expected one run a "
                f"seed: say which ({names or 'program'})"
            )
    return {seed: row["value"] for seed, row in found.items() if math.isfinite(row["value"])}


def cell(row: Row, column: str) -> Any:
    """A row's value of a column, or its program."""
    return program_of(row["run"]) if column == "program" else row.get(column)


def same(there: Any, given: Any) -> bool:
    """Whether two values are equal; numbers also where they differ by rounding (.1 + .2 is .3)."""
    numbers = all(isinstance(one, int | float | np.number) for one in (there, given))
    return math.isclose(there, given, rel_tol=1e-9) if numbers else there == given


def _sign_flips(differences: NDArray[np.float64], random_state: int) -> tuple[float, bool]:
    """Two-sided p-value of the mean under flips of the signs, and whether it is exact."""
    observed = abs(differences.sum()) * (1 - _ROUNDING) - _ROUNDING * np.abs(differences).sum()
    if len(differences) <= EXACT_SEEDS:
        sums = differences[:1]  # the first sign stays: flipping all signs changes no |sum|
        for one in differences[1:]:
            sums = np.concatenate([sums + one, sums - one])
        return float((np.abs(sums) >= observed).mean()), True
    rng, reached = np.random.default_rng(random_state), 0
    for _ in range(FLIPS // 1000):
        signs = 2.0 * rng.integers(0, 2, (1000, len(differences))) - 1
        reached += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + reached) / (1 + FLIPS), False


def _sentence(made: Comparison, a: str, b: str) -> str:
    n, mean = len(made.seeds), made.mean
    way = f"{number(abs(mean))} {'higher' if mean > 0 else 'lower'} for {a} than" if mean else f"the same for {a} as"
    said = f"{made.measure} is {way} for {b}"
    if n == 1:
        said += f", by seed {made.seeds[0]} alone: one seed gives no interval, and nothing tells this from chance."
    else:
        floor = made.exact and made.p <= 2.0 ** (1 - n) * (1 + _ROUNDING)
        least = f", the smallest that {n} seeds can give" if floor else ""
        said += (
            f", in the mean over {n} seeds (95 % interval of the difference {number(made.low)} to {number(made.high)}; "
            f"sign-flip test p = {number(made.p, 4)}{least})."
        )
        if made.low <= 0 <= made.high:
            said += " The interval holds 0: these seeds do not tell the two apart."
        elif not floor and made.p > 1 - CONFIDENCE:
            said += " The interval leaves out 0, the test does not confirm it: more seeds would tell."
    for seeds, side in ((made.only_a, a), (made.only_b, b)):
        if seeds:
            said += f" Left out: {_list('seed', seeds)}, which only {side} has."
    return said


def told(setting: Mapping[str, Any]) -> str:
    """A setting in words: `method simclr, hue 0.5`."""
    values = {name: f"{value:.12g}" if isinstance(value, float) else value for name, value in setting.items()}
    return ", ".join(f"{column} {value}" for column, value in values.items())


def _list(what: str, items: Iterable[Any]) -> str:
    named = list(map(str, items))
    return f"{what}{'s' if len(named) > 1 else ''} {', '.join(named)}"


def number(value: float, digits: int = 3) -> str:
    """.012, −.250, 17.300; 4.2e-05 where all digits would be zeros."""
    text = f"{value:.{digits}f}" if value == 0 or abs(value) >= 10.0**-digits else f"{value:.2g}"
    text = text.replace("-", "−", 1) if value < 0 else text
    return text.replace("0.", ".", 1) if abs(value) < 1 and "e" not in text else text
