"""Which measures without labels go with accuracy over the runs of a sweep: which can a user without labels believe?"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError, unknown
from ssljax.evaluate.results import Row
from ssljax.study.comparison import CONFIDENCE, number
from ssljax.study.curves import BASELINES, last_epochs

DRAWS = 2000  # bootstrap samples (Efron and Tibshirani 1993, section 14.2: 1000 or more for intervals)

_DRAWN_AT_ONCE = 2**22  # weights of a bootstrap held at once: 32 MiB (our choice)


class Reliability(NamedTuple):
    """How one measure goes with accuracy over the runs of a sweep.

    Attributes:
      measure: its name.
      rho: Spearman's rank correlation with accuracy; NaN where one of the two does not vary.
      low, high: its 95 % percentile bootstrap interval; NaN with rho.
      n: runs that have both.
      sign: 1 the interval is above 0: larger goes with more accurate; -1 it is below 0; 0 it holds 0, or there is none.
      sentence: the same in plain words.
    """

    measure: str
    rho: float
    low: float
    high: float
    n: int
    sign: int
    sentence: str


def reliability(
    measures: Mapping[str, ArrayLike],
    accuracy: ArrayLike,
    *,
    blocks: ArrayLike | None = None,
    draws: int = DRAWS,
    random_state: int = 0,
) -> list[Reliability]:
    """Spearman's rank correlation of each measure with accuracy over runs: which could choose between runs without labels?

    The interval is that of a bootstrap over runs. Runs of one seed share their start and their order of images, so they may
    not be independent: with `blocks` whole seeds are drawn, which asks for more than a handful of them.

    Args:
      measures: by name, each [n], one value a run; NaN where a run has none.
      accuracy: [n], finite or NaN, such as linear top-1. RankMe needs runs of one method.
      blocks: [n], such as the seed of each run; None draws single runs.
      draws: bootstrap samples.
      random_state: their seed.

    Returns:
      The most reliable first: those whose interval leaves out 0, by |rho|, then the others.

    Raises:
      UserError: lengths that differ, fewer than three runs of a measure, infinite values, fewer than two blocks, or no draws.
    """
    truth = _runs_of("accuracy", accuracy)
    if draws < 1:
        raise UserError(f"reliability: given {draws} draws, expected at least 1")
    member = np.arange(len(truth)) if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1].ravel()
    if len(member) != len(truth):
        raise UserError(f"reliability: given {len(member)} blocks for {len(truth)} runs, expected one a run")
    found = []
    for name, given in measures.items():
        values = _runs_of(name, given)
        if len(values) != len(truth):
            raise UserError(f"reliability: given {len(values)} runs of {name} and {len(truth)} accuracies")
        both = np.isfinite(values) & np.isfinite(truth)
        n = int(both.sum())
        if n < 3:
            raise UserError(f"reliability: given {n} runs with both {name} and accuracy, expected at least 3")
        kept = np.unique(member[both], return_inverse=True)[1]
        if kept.max() == 0:
            raise UserError(f"reliability: all runs of {name} are of one block, expected at least 2 (or blocks=None)")
        x, y = values[both], truth[both]
        rho = float(_spearman(x, y, np.ones((1, n)))[0])
        low, high = (math.nan, math.nan) if math.isnan(rho) else _interval(x, y, kept, draws, random_state)
        sign = 1 if low > 0 else -1 if high < 0 else 0
        made = Reliability(name, rho, low, high, n, sign, "")
        found.append(made._replace(sentence=_verdict(made)))
    return sorted(found, key=lambda one: (one.sign == 0, math.isnan(one.rho), -abs(one.rho)))


def paired_measures(
    results: Sequence[Row],
    *,
    without_labels: str = "unlabelled",
    evaluation: str = "linear",
    metric: str = "top1",
    target: str = "label",
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64], NDArray[np.int_]]:
    """What `reliability` needs of the rows of a sweep: measures by metric, accuracy, and the seed of each run.

    Args:
      results: rows of results.csv. A trained run counts with its last epoch, and only if it has the accuracy.
      without_labels: the evaluation whose metrics are the measures; a target other than the label stands before the metric.
      evaluation, metric, target: the accuracy.

    Raises:
      UserError: no row of one of the two.
    """
    rows = last_epochs([row for row in results if row["method"] not in BASELINES])
    accuracy = {
        row["run"]: (row["value"], row["seed"])
        for row in rows
        if (row["evaluation"], row["metric"], row["target"]) == (evaluation, metric, target)
    }
    unlabelled = [row for row in rows if row["evaluation"] == without_labels and row["run"] in accuracy]
    for there, what in ((accuracy, f"{evaluation} {target} {metric}"), (unlabelled, without_labels)):
        if not there:
            raise unknown("evaluation", what, dict.fromkeys(row["evaluation"] for row in rows), "reliability")
    place = {run: i for i, run in enumerate(accuracy)}
    measures: dict[str, NDArray[np.float64]] = {}
    for row in unlabelled:
        name = row["metric"] if row["target"] in ("", "label") else f"{row['target']} {row['metric']}"
        measures.setdefault(name, np.full(len(place), np.nan))[place[row["run"]]] = row["value"]
    values, seeds = zip(*accuracy.values())
    return measures, np.array(values, np.float64), np.array(seeds, int)


def _interval(
    x: NDArray[np.float64], y: NDArray[np.float64], member: NDArray[np.int_], draws: int, random_state: int
) -> tuple[float, float]:
    """Percentile interval of Spearman's rho over resampled blocks; samples in which one side is constant have none."""
    rng, n_blocks = np.random.default_rng(random_state), int(member.max()) + 1
    rows = max(1, _DRAWN_AT_ONCE // len(x))
    found = []
    for start in range(0, draws, rows):
        times = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), min(rows, draws - start))
        found.append(_spearman(x, y, times[:, member].astype(np.float64)))
    rho = np.concatenate(found)
    rho = rho[np.isfinite(rho)]
    if not len(rho):
        return math.nan, math.nan
    low, high = np.quantile(rho, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rho [B] of samples in which run i stands weights[b, i] times; NaN where one side does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    centred = []
    for values in (x, y):
        ranks = _ranks(values, weights)
        centred.append(ranks - (weights * ranks).sum(axis=1, keepdims=True) / total)
    u, v = centred
    across, of_u, of_v = ((weights * product).sum(axis=1) for product in (u * v, u * u, v * v))
    varies = (of_u > 0.1) & (of_v > 0.1)  # ranks are whole or half numbers: a sum of squares is 0 or at least 1/2
    return np.where(varies, np.clip(across / np.sqrt(np.where(varies, of_u * of_v, 1)), -1, 1), np.nan)


def _ranks(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks [B, n] in samples in which value i stands weights[b, i] times."""
    group = np.unique(values, return_inverse=True)[1]
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    tied = np.add.reduceat(weights[:, order], starts, axis=1)
    return (tied.cumsum(axis=1) - tied / 2 + 0.5)[:, group]


def _runs_of(name: str, given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given, np.float64)
    if values.ndim != 1 or np.isinf(values).any():
        raise UserError(f"reliability: {name} has the shape {values.shape}, expected finite numbers or NaN, one a run")
    return values


def _verdict(made: Reliability) -> str:
    if math.isnan(made.rho):
        return f"{made.measure}: it or the accuracy is the same in all {made.n} runs, which says nothing."
    if math.isnan(made.low):
        return f"{made.measure}: rho {number(made.rho)} over {made.n} runs, too few for an interval."
    span = f"rho {number(made.rho)}, 95 % interval {number(made.low)} to {number(made.high)}, {made.n} runs"
    if not made.sign:
        return f"{made.measure}: cannot be told from chance ({span}); do not choose runs by it."
    return f"{made.measure}: {'larger' if made.sign > 0 else 'smaller'} goes with more accurate ({span})."
