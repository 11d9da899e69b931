"""The inter-class bias of one sweep, as 001 measures it and beside what chance gives; and what several sweeps share.

Tables 5 and 6 of 001 are `shared` and `behave_alike`; `rows` and `pair_rows` are the tables on disk.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError
from ssljax.study.association import ALPHA, OPPOSITE_BELOW, Association, adjusted, associations, opposite
from ssljax.study.chance import DRAWS, UNTESTED, Chance, compared, drawn
from ssljax.study.curves import Curves, complete, describe, points
from ssljax.study.trend import DIRECTIONS, Explained, Trend, explained, trends


class Bias(NamedTuple):
    """Everything the study says of one sweep.

    Attributes:
      curves: complete.
      points: the reading, `mean` or `runs`.
      found: the measures of association between classes, by name.
      opposite: bool [C, C], pairs that are opposite by 001's rule.
      opposite_corrected: the same with p-values adjusted for the number of pairs.
      share: share of the classes with at least one opposite partner, and what chance gives.
      share_corrected: the same of `opposite_corrected`.
      trend: line of each class.
      explained: F-test of the swept value for each class; takes all runs, whatever `points` is.
      moved: share of the classes with q < .05 by that test, and what chance gives; `UNTESTED` with one seed.
      directed: share of the classes that rise or fall by its linear part (`explained.sign`), likewise.
      drawn: bool [draws, C], classes with an opposite partner in each permutation.
    """

    curves: Curves
    points: str
    found: dict[str, Association]
    opposite: NDArray[np.bool_]
    opposite_corrected: NDArray[np.bool_]
    share: Chance
    share_corrected: Chance
    trend: Trend
    explained: Explained
    moved: Chance
    directed: Chance
    drawn: NDArray[np.bool_]


class SharedRow(NamedTuple):
    """Table 5 for the methods of one group of sweeps.

    Attributes:
      dataset, backbone, evaluation, target, metric, swept, fixed, points: what the sweeps have in common.
      methods: the methods, in the order given.
      part: the transform set and variant of the sweeps, where a method has several; else "".
      classes: how many classes all of them have.
      at_least: number of classes with an opposite partner in at least k methods, by k: all of them, 3 and 2, as far as there
        are as many; beside it what chance gives.
    """

    dataset: str
    backbone: str
    evaluation: str
    target: str
    metric: str
    swept: str
    fixed: tuple[tuple[str, Any], ...]
    points: str
    methods: tuple[str, ...]
    part: str
    classes: int
    at_least: dict[int, Chance]


class Alike(NamedTuple):
    """Table 6's last row: share of the classes whose trend has the same direction in two sweeps.

    Attributes:
      share: in [0, 1].
      chance: the same for two sweeps with as many ascending, descending and random classes, independent of each other.
      classes: how many both have.
    """

    share: float
    chance: float
    classes: int


def bias(curves: Curves, of: str = "runs", draws: int = DRAWS, seed: int = 0) -> Bias:
    """The bias of one sweep, with the same permutations behind each of its chances.

    Args:
      curves: of one sweep; incomplete ones are made complete.
      of: the reading of the points, `runs` or `mean`.
      draws: number of permutations.
      seed: of the permutations.

    Raises:
      UserError: too few values, seeds, classes or draws, or another reading.
    """
    count = len(curves.classes)
    if count < 2:
        raise UserError(f"{describe(curves)}: given {count} class{'' if count == 1 else 'es'}, expected at least 2")
    curves = complete(curves)

    def marks(each: Curves) -> NDArray[np.bool_]:
        """[4, C]: has an opposite partner, has one after the correction, moves, rises or falls."""
        _, raw, corrected = _opposed(each, of)
        test = explained(each)
        return np.stack([raw.any(axis=1), corrected.any(axis=1), test.q < ALPHA, test.sign != 0])

    chosen = np.array(drawn(curves, marks, draws, seed), bool).reshape(draws, 4, count)
    share, share_corrected, moved, directed = map(compared, marks(curves).mean(axis=1), chosen.mean(axis=2).T)
    tested = len(curves.seeds) > 1
    found, raw, corrected = _opposed(curves, of)
    return Bias(
        curves=curves,
        points=of,
        found=found,
        opposite=raw,
        opposite_corrected=corrected,
        share=share,
        share_corrected=share_corrected,
        trend=trends(curves, of),
        explained=explained(curves),
        moved=moved if tested else UNTESTED,
        directed=directed if tested else UNTESTED,
        drawn=chosen[:, 0],
    )


def _opposed(curves: Curves, of: str) -> tuple[dict[str, Association], NDArray[np.bool_], NDArray[np.bool_]]:
    found = associations(points(curves, of))
    return found, opposite(found), opposite(found, corrected=True)


def opposed_pairs(bias: Bias) -> list[tuple[str, str, float, float]]:
    """The opposite pairs, most opposed first: two classes, their lowest significant coefficient and its p-value."""
    names, found = bias.curves.classes, list(bias.found.values())
    coefficient = np.stack(
        [np.where((a.p < ALPHA) & (a.coefficient < OPPOSITE_BELOW), a.coefficient, 1) for a in found]
    )
    measure = coefficient.argmin(axis=0)
    pairs = [
        (names[i], names[j], float(coefficient[measure[i, j], i, j]), float(found[measure[i, j]].p[i, j]))
        for i, j in np.argwhere(np.triu(bias.opposite))
    ]
    return sorted(pairs, key=lambda pair: (pair[2], pair[3]))


def shared(biases: Sequence[Bias]) -> list[SharedRow]:
    """Table 5: how many classes have an opposite partner in all methods, in at least three, in at least two.

    Sweeps of two methods or more with the same data set, backbone, evaluation, target, metric, swept address and reading make a
    row. Where a method has several such sweeps, those of one transform set and one variant make a row.

    Raises:
      UserError: a method twice in a row, or two permuted another number of times.
    """
    groups: dict[tuple[Any, ...], list[Bias]] = {}
    for each in biases:
        c = each.curves
        key = (c.dataset, c.backbone, c.evaluation, c.target, c.metric, c.swept, c.fixed, each.points)
        groups.setdefault(key, []).append(each)
    found = []
    for key, group in groups.items():
        parts: dict[str, list[Bias]] = {}
        several = len({each.curves.method for each in group}) < len(group)
        for each in group:
            name = ", ".join(filter(None, (each.curves.transforms, each.curves.variant))) if several else ""
            parts.setdefault(name, []).append(each)
        for name, part in parts.items():
            if len(part) > 1:
                methods, classes, at_least = _counts(part)
                found.append(SharedRow(*key, methods, name, classes, at_least))
    return found


def _counts(group: Sequence[Bias]) -> tuple[tuple[str, ...], int, dict[int, Chance]]:
    methods = tuple(each.curves.method for each in group)
    if len(set(methods)) < len(methods):
        raise UserError(f"shared: given {describe(group[0].curves)} twice; expected a method once")
    if len({len(each.drawn) for each in group}) > 1:
        raise UserError("shared: given sweeps with different numbers of draws; expected the same number in all")
    names = [name for name in group[0].curves.classes if all(name in each.curves.classes for each in group)]
    columns = [[each.curves.classes.index(name) for name in names] for each in group]
    measured = np.sum([np.any(each.opposite, axis=1)[at] for each, at in zip(group, columns)], axis=0)
    drawn = np.sum([each.drawn[:, at] for each, at in zip(group, columns)], axis=0)
    wanted = dict.fromkeys(k for k in (len(group), 3, 2) if k <= len(group))
    counts = {k: compared(np.sum(measured >= k), np.sum(drawn >= k, axis=1)) for k in wanted}
    return methods, len(names), counts


def behave_alike(a: Bias, b: Bias) -> Alike:
    """Share of the classes, matched by name, whose trend has the same direction in both sweeps (Table 6).

    Raises:
      UserError: no class in common.
    """
    first, second = (dict(zip(each.curves.classes, each.trend.direction)) for each in (a, b))
    names = [name for name in first if name in second]
    if not names:
        raise UserError(f"behave_alike: {describe(a.curves)} and {describe(b.curves)} have no class in common")
    margins = [[np.mean([one[name] == d for name in names]) for d in DIRECTIONS] for one in (first, second)]
    same = np.mean([first[name] == second[name] for name in names])
    return Alike(float(same), float(np.dot(margins[0], margins[1])), len(names))


def rows(biases: Sequence[Bias]) -> list[dict[str, Any]]:
    """One row a class and sweep: trend, F-test, opposite partners. Written as study_classes.csv."""
    found = []
    for each in biases:
        c, trend, test = each.curves, each.trend, each.explained
        partners, corrected = each.opposite.sum(axis=1), each.opposite_corrected.sum(axis=1)
        for i, name in enumerate(c.classes):
            found.append(
                {
                    **_columns(each),
                    "class": name,
                    "accuracy": float(c.accuracy[..., i].mean()),
                    "slope": float(trend.slope[i]),
                    "slope_p": float(trend.p[i]),
                    "direction": trend.direction[i],
                    "explained": float(test.share[i]),
                    "f": float(test.f[i]),
                    "p": float(test.p[i]),
                    "q": float(test.q[i]),
                    "linear_p": float(test.linear_p[i]),
                    "linear_q": float(test.linear_q[i]),
                    "sign": int(test.sign[i]),
                    "bend": bool(test.bend[i]),
                    "opposite": int(partners[i]),
                    "opposite_corrected": int(corrected[i]),
                }
            )
    return found


def pair_rows(biases: Sequence[Bias]) -> list[dict[str, Any]]:
    """One row a pair of classes and sweep: each measure with p and q, and the verdicts. Written as study_pairs.csv."""
    found = []
    for each in biases:
        columns, q = _columns(each), {name: adjusted(a.p) for name, a in each.found.items()}
        for i, j in combinations(range(len(each.curves.classes)), 2):
            row = {**columns, "class": each.curves.classes[i], "other": each.curves.classes[j]}
            for name, a in each.found.items():
                row |= {
                    name: float(a.coefficient[i, j]),
                    f"{name}_p": float(a.p[i, j]),
                    f"{name}_q": float(q[name][i, j]),
                }
            row["opposite"] = bool(each.opposite[i, j])
            row["opposite_corrected"] = bool(each.opposite_corrected[i, j])
            found.append(row)
    return found


def _columns(bias: Bias) -> dict[str, Any]:
    c = bias.curves
    return {
        "method": c.method,
        "backbone": c.backbone,
        "dataset": c.dataset,
        "transforms": c.transforms,
        "variant": c.variant,
        "evaluation": c.evaluation,
        "target": c.target,
        "metric": c.metric,
        "swept": c.swept,
        "fixed": ", ".join(f"{address} {value}" for address, value in c.fixed),
        "values": len(c.values),
        "seeds": len(c.seeds),
        "points": bias.points,
    }
