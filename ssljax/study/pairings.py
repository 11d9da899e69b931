"""Which settings of a study are compared with which: the pairs asked for, else every value against the first of its kind."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ssljax.errors import UserError
from ssljax.evaluate.results import Row, swept_names
from ssljax.flags import split_commas
from ssljax.study.comparison import Comparison, cell, compare, same, told
from ssljax.study.curves import BASELINES, last_epochs

MEASURES = (("linear", "top1"), ("knn", "top1"), ("kmeans", "ami"))  # by label: the papers' own
EACH = 5  # methods, networks or transform sets of which every two are compared; more go against the first (our choice)
MOST = 60  # pairs of one measure (our choice)

_NAMED = ("method", "backbone", "dataset", "transforms")
_FORM = (
    "A vs B, each a column=value or several with commas: method=simclr vs method=byol; several pairs with semicolons"
)


class Pair(NamedTuple):
    """Two settings and how they compare.

    Attributes:
      a, b: in words, as far as they differ.
      held: what both are held at where others are too, "" where there is nothing to say.
      found: a against b.
    """

    a: str
    b: str
    held: str
    found: Comparison


class Pairs(NamedTuple):
    """The pairs of a study, and how many more there are than are shown."""

    pairs: list[Pair]
    left_out: int


def parse(text: str, flag: str = "--compare") -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The pairs of settings of a text such as `method=simclr vs method=byol; hue=0,method=byol vs hue=.5,method=byol`.

    Raises:
      UserError: it has another form.
    """
    found = []
    for part in filter(None, map(str.strip, text.split(";"))):
        sides = [_setting(side) for side in part.split(" vs ")]
        if len(sides) != 2 or not all(sides) or sides[0] == sides[1]:
            raise UserError(f"{flag}: expected {_FORM}; given '{part}'")
        found.append((sides[0], sides[1]))
    return found


def asked_for(results: Sequence[Row], text: str, measures: Iterable[tuple[str, str]] = MEASURES) -> Pairs:
    """The pairs that a text names, at every value of what it leaves open, for each measure that the rows have.

    What varies within a side and is not named there is gone through: `method=simclr vs method=byol` of a sweep are as many pairs
    as the sweep has values.

    Args:
      results: rows of results.csv.
      text: as for `parse`.
      measures: evaluation and metric.

    Raises:
      UserError: a bad text; a column or value that no row has; or two settings without a seed in common.
    """
    pairs: list[Pair] = []
    given = parse(text)
    rows = [dict(row) for row in last_epochs([row for row in results if row["target"] == "label"])]
    measured = [
        (each, own) for each in measures if (own := [r for r in rows if (r["evaluation"], r["metric"]) == each])
    ]
    if given and not measured:
        raise UserError("--compare: results.csv has no measure to compare settings by")
    for (evaluation, metric), own in measured:
        for a, b in given:
            try:
                for one, other, held in _matched(own, a, b):
                    found = compare(own, one, other, evaluation=evaluation, metric=metric)
                    pairs.append(Pair(told(a), told(b), held, found))
            except UserError as error:
                raise UserError(f"--compare: {str(error).removeprefix('compare: ')}") from None
    return Pairs(pairs[:MOST], len(pairs[MOST:]))


def of_study(results: Sequence[Row], evaluation: str, metric: str) -> Pairs:
    """Pairs of settings that differ in one thing alone and share two seeds or more.

    Of up to five methods, networks or transform sets every two; of more, and of swept values, each against the first. The first,
    not the best: which is best would be chosen by the very numbers that are compared.

    Args:
      results: rows of results.csv.
      evaluation, metric: what to compare, by label.
    """
    rows = [
        row for row in results if (row["evaluation"], row["target"], row["metric"]) == (evaluation, "label", metric)
    ]
    rows = [dict(row) for row in last_epochs(rows) if row["method"] not in BASELINES and row["seed"] is not None]
    columns = [*_NAMED, *swept_names(rows)]
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(name) for name in columns), []).append(row)
    # Of runs that no column tells apart nobody could say which are meant.
    settings = {key: own for key, own in settings.items() if len({row["seed"] for row in own}) == len(own)}
    found: list[Pair] = []
    left_out = 0
    for place, column in enumerate(columns):
        if column == "dataset":
            continue
        strata: dict[tuple[Any, ...], dict[Any, list[Row]]] = {}
        for key, own in settings.items():
            strata.setdefault((*key[:place], *key[place + 1 :]), {})[key[place]] = own
        several = [
            {columns[i + (i >= place)]: v for i, v in enumerate(key)}
            for key, values in strata.items()
            if len(values) > 1
        ]
        telling = [name for name in columns if len({str(each.get(name)) for each in several}) > 1]
        for key, values in strata.items():
            others = dict(zip((*columns[:place], *columns[place + 1 :]), key))
            held = told({name: others[name] for name in telling if others[name] not in (None, "")})
            every = column in _NAMED and len(values) <= EACH
            for first, value in combinations(values, 2) if every else ((next(iter(values)), v) for v in [*values][1:]):
                own = values[first] + values[value]
                if len(_seeds(values[first]) & _seeds(values[value])) < 2:
                    continue
                if len(found) == MOST:
                    left_out += 1
                    continue
                a, b = {column: value}, {column: first}
                pair = compare(own, a, b, evaluation=evaluation, metric=metric)
                found.append(Pair(told(a), told(b), held, pair))
    return Pairs(found, left_out)


def _matched(
    rows: Sequence[Row], a: Mapping[str, Any], b: Mapping[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Two settings at every value of what they leave open, alike where both do; in words what that is."""
    columns = [*_NAMED, *swept_names(rows)]
    open_a, open_b = _left_open(rows, a, columns), _left_open(rows, b, columns)
    found = []
    for one in open_a:
        for other in open_b:
            if all(other[name] == value for name, value in one.items() if name in other):
                found.append(({**a, **one}, {**b, **other}, told({**one, **other})))
    if not found and open_a and open_b:
        shared = ", ".join(name for name in open_a[0] if name in open_b[0])
        raise UserError(f"{told(a)} and {told(b)} have no value of {shared} in common; say which of each to compare")
    # Where no run fits a side `compare` says so.
    return found or [({**a, **next(iter(open_a), {})}, {**b, **next(iter(open_b), {})}, "")]


def _left_open(rows: Sequence[Row], side: Mapping[str, Any], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The values, of the runs that a side fits, of the columns that it leaves open and in which they differ."""
    fitting = [row for row in rows if all(same(cell(row, name), value) for name, value in side.items())]
    differing = [name for name in columns if name not in side and len({row.get(name) for row in fitting}) > 1]
    return [
        dict(zip(differing, values)) for values in dict.fromkeys(tuple(r.get(n) for n in differing) for r in fitting)
    ]


def _setting(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in split_commas(text)]
    if not all(name.strip() and equals and value.strip() for name, equals, value in parts):
        return {}
    return {name.strip(): _plain(value.strip()) for name, _, value in parts}


def _plain(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _seeds(rows: Sequence[Row]) -> set[int]:
    return {row["seed"] for row in rows if math.isfinite(row["value"])}
