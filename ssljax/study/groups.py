"""Whether classes that a transformation treats alike share a property: Table 3 of the first paper, ANOVA and MANOVA."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError
from ssljax.evaluate.results import program_of
from ssljax.study.properties import TABLE3
from ssljax.study.trend import Trend

FEWEST = 2  # classes in a group: one alone has no variance to compare with
MANOVA = "MANOVA"  # what the last row of a table stands under in place of a property


class GroupTest(NamedTuple):
    """Whether groups of classes differ in a property, or in several at once.

    Attributes:
      f: F of the one-way analysis of variance; of several properties, the F approximation of Wilks' lambda.
      p: of `f`.
      groups: number of classes in each group that was compared.
      reason: why there is no test, "" where there is one; f and p are NaN then.
      wilks, pillai: Wilks' lambda and Pillai's trace; NaN for one property.
      pillai_f, pillai_p: Pillai's F approximation and its p.
    """

    f: float
    p: float
    groups: dict[str, int]
    reason: str = ""
    wilks: float = np.nan
    pillai: float = np.nan
    pillai_f: float = np.nan
    pillai_p: float = np.nan


def anova(values: ArrayLike, direction: Sequence[str]) -> GroupTest:
    """One-way analysis of variance of a property over the groups of classes (scipy's f_oneway).

    Classes without a value and groups of fewer than `FEWEST` classes are left out.

    Args:
      values: [C], NaN where a class has none.
      direction: the group of each of the C classes, such as `Trend.direction`.

    Raises:
      UserError: lengths that differ.
    """
    from scipy.stats import f_oneway

    table, names = _comparable(np.asarray(values, np.float64)[:, None], direction)
    groups = _sizes(names)
    if reason := _too_few(groups):
        return _without(groups, reason)
    parts = [table[names == name, 0] for name in groups]
    if all(np.ptp(part) == 0 for part in parts):
        return _without(groups, "the property is the same for all classes of a group")
    f, p = f_oneway(*parts)
    return GroupTest(float(f), float(p), groups)


def manova(properties: ArrayLike, direction: Sequence[str]) -> GroupTest:
    """Multivariate analysis of variance of several properties over the groups of classes (statsmodels).

    Classes that lack a property and groups of fewer than `FEWEST` classes are left out.

    Args:
      properties: [C, P], P at least 2.
      direction: the group of each of the C classes.

    Raises:
      UserError: lengths that differ, fewer than two properties, or statsmodels is not installed.
    """
    try:
        from statsmodels.multivariate.manova import MANOVA as Model
    except ImportError as error:
        raise UserError("manova: needs statsmodels; pip install 'ssljax[study]'") from error

    table, names = _comparable(np.asarray(properties, np.float64), direction)
    if table.shape[1] < 2:
        raise UserError(f"manova: given {table.shape[1]} properties, expected two or more; anova compares one")
    groups = _sizes(names)
    if reason := _too_few(groups):
        return _without(groups, reason)
    means = np.stack([table[names == name].mean(axis=0) for name in groups])
    within = table - means[[list(groups).index(name) for name in names]]
    spread = within.std(axis=0)
    if len(table) - len(groups) < table.shape[1]:
        return _without(
            groups, f"{len(table)} classes are too few for {table.shape[1]} properties in {len(groups)} groups"
        )
    if (spread == 0).any() or np.linalg.matrix_rank(within / spread) < table.shape[1]:
        return _without(groups, "within the groups one property is a combination of the others")
    # Of scale 1, for the numerics alone: neither statistic depends on it.
    design = np.stack([np.ones(len(names)), *(names == name for name in list(groups)[1:])], axis=1)
    differ = np.eye(len(groups))[1:]
    found = Model((table - table.mean(axis=0)) / spread, design).mv_test([("groups", differ)])
    stat = found.results["groups"]["stat"]
    wilks, pillai = stat.loc["Wilks' lambda"], stat.loc["Pillai's trace"]
    return GroupTest(
        float(wilks["F Value"]),
        float(wilks["Pr > F"]),
        groups,
        wilks=float(wilks["Value"]),
        pillai=float(pillai["Value"]),
        pillai_f=float(pillai["F Value"]),
        pillai_p=float(pillai["Pr > F"]),
    )


def property_table(
    trend: Trend, classes: Sequence[str], properties: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """One sweep's column of Table 3: each property against the trend of the classes, and the paper's four at once.

    Args:
      trend: of the C classes.
      classes: their names.
      properties: property -> class -> value; a class may be missing.

    Returns:
      Rows with the key `property` and the fields of `GroupTest`. The last one, named `MANOVA`, is of those of `TABLE3` that
      are there, or of all where fewer than two of these are; it is left out where there is one property alone.
    """
    values = {name: np.array([of.get(c, np.nan) for c in classes], np.float64) for name, of in properties.items()}
    rows = [{"property": name, **anova(each, trend.direction)._asdict()} for name, each in values.items()]
    together = [values[name] for name in TABLE3 if name in values]
    together = together if len(together) > 1 else list(values.values())
    if len(together) > 1:
        rows.append({"property": MANOVA, **manova(np.stack(together, axis=1), trend.direction)._asdict()})
    return rows


def properties_from(per_class: Iterable[Mapping[str, Any]], dataset: str) -> tuple[dict[str, dict[str, float]], str]:
    """Properties of a data set's classes from the rows of the evaluation `properties`.

    Those of the images come from the rows of the raw pixels. Those of features come from one encoder, or from the mean over the
    runs of one program: the first pretrained encoder where there is one, else the first method that was trained, else an
    untrained one.

    Args:
      per_class: rows of per_class.csv.
      dataset: as the rows call it.

    Returns:
      property -> class -> value, and a sentence that says whose features they are of; ({}, "") without such rows.
    """
    found: dict[tuple[str, str, str, str], dict[str, dict[str, list[float]]]] = {}
    runs: dict[tuple[str, str, str, str], set[str]] = {}
    for row in per_class:
        if row["evaluation"] != "properties" or row["dataset"] != dataset:
            continue
        encoder = (row["method"], row["backbone"], row["transforms"], program_of(row["run"]))
        of_class = found.setdefault(encoder, {}).setdefault(row["metric"], {})
        of_class.setdefault(row["class"], []).append(float(row["value"]))
        runs.setdefault(encoder, set()).add(row["run"])
    pixels = [encoder for encoder in found if encoder[0] == "pixels"]
    ranks = {"pretrained": 0, "random": 2}
    encoders = sorted(
        (e for e in found if e not in pixels), key=lambda e: ranks.get(e[0], 1)
    )  # stable: the first stays
    sentences = []
    if encoders:
        method, backbone, transforms, program = encoder = encoders[0]
        count = sum(other[:3] == encoder[:3] for other in encoders)
        whose = {"pretrained": f"a pretrained {backbone}", "random": f"an untrained {backbone}"}.get(
            method, f"{method}'s {backbone}" + (f" ({transforms})" if transforms else "")
        )
        which = f", the first of {count}: {program or 'without a program'}" if count > 1 else ""
        mean = f", mean over {len(runs[encoder])} runs" if len(runs[encoder]) > 1 else ""
        sentences.append(f"Properties of features are of {whose}{which}{mean}.")
    if pixels:
        sentences.append("Properties of images are means over the training images of a class.")
    properties = {
        name: {c: float(np.mean(values)) for c, values in of_class.items()}
        for encoder in (*encoders[:1], *pixels[:1])
        for name, of_class in found[encoder].items()
    }
    return properties, " ".join(sentences)


def _comparable(table: NDArray[np.float64], direction: Sequence[str]) -> tuple[NDArray[np.float64], np.ndarray]:
    """The rows and groups of the classes that have every value and are not alone, or nearly, in their group."""
    names = np.asarray(direction, str)
    if table.ndim != 2 or len(table) != len(names):
        raise UserError(f"class properties: given {len(table)} classes and {len(names)} trends, expected one of each")
    whole = np.isfinite(table).all(axis=1)
    table, names = table[whole], names[whole]
    many = np.array([(names == name).sum() >= FEWEST for name in names], bool)
    return table[many], names[many]


def _sizes(names: np.ndarray) -> dict[str, int]:
    return {str(name): int(count) for name, count in zip(*np.unique(names, return_counts=True))}


def _too_few(groups: Mapping[str, int]) -> str:
    if len(groups) > 1:
        return ""
    there = f"only the {next(iter(groups))} one has" if groups else "no group has"
    return f"{there} {FEWEST} classes or more with a value"


def _without(groups: dict[str, int], reason: str) -> GroupTest:
    return GroupTest(np.nan, np.nan, groups, reason)
