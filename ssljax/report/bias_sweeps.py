"""The sweeps of a bias study, analysed once for all parts of its page."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError
from ssljax.evaluate.results import Row
from ssljax.study.bias import Bias, bias
from ssljax.study.curves import Curves, complete, curves
from ssljax.study.superclasses import superclass_curves, superclasses

DRAWS = 200  # permutations behind each statement on chance: p is known to about .015 at .05 (our choice)
PREFERRED = ("linear", "knn")  # the evaluation that the page is about: the papers' first
FINETUNE = "finetune"
VALIDATION = "@validation"  # what follows an evaluation's name when it was scored on validation images


class Sweep(NamedTuple):
    """One method's sweep.

    Attributes:
      label: the method; its transform set, and its program, where they are needed to tell the sweeps of a group apart.
      runs: analysed with a point a value and seed.
      mean: analysed with a point a value.
      validation: the same curves on validation images, or None.
      finetuned: (runs, mean) of the fine-tuned networks, or None.
      superclass: curves of the superclasses, or None.
    """

    label: str
    runs: Bias
    mean: Bias
    validation: Curves | None
    finetuned: tuple[Bias, Bias] | None
    superclass: Curves | None


class Group(NamedTuple):
    """The methods' sweeps of one address on one data set and backbone."""

    dataset: str
    backbone: str
    swept: str
    fixed: tuple[tuple[str, float], ...]
    evaluation: str
    metric: str
    superclasses: dict[str, str]  # class -> superclass; empty where there is no map
    sweeps: tuple[Sweep, ...]


def groups(
    per_class: Sequence[Row],
    results: Sequence[Row],
    class_names: Sequence[str] = (),
    given: Mapping[str, str] | None = None,
    draws: int = DRAWS,
) -> tuple[list[Group], list[str]]:
    """Every sweep of at least three values, by data set, backbone and swept address, in order of appearance.

    The accuracy is class accuracy, or F1 where the rows hold nothing else. Each run counts with its last epoch.

    Args:
      per_class: rows of per_class.csv.
      results: rows of results.csv, may be empty.
      class_names: the order of the classes; others come after them, by name.
      given: class -> superclass; None takes the data set's own map where there is one.
      draws: permutations for each statement on chance.

    Returns:
      The groups, and a sentence for each sweep that cannot be analysed.
    """
    rows = [row for row in _last_epochs(per_class) if row["target"] == "label"]
    metric = "accuracy" if any(row["metric"] == "accuracy" for row in rows) else "f1"
    found = curves(rows, _last_epochs(results), metric=metric)
    evaluation = _evaluation(found)
    left_out: list[str] = []
    others: dict[tuple[object, ...], Curves] = {}
    grouped: dict[tuple[object, ...], list[Curves]] = {}
    for one in found:
        try:
            whole = _ordered(complete(one), class_names)
        except UserError as error:
            left_out.append(str(error))
            continue
        others[(*_identity(one), one.evaluation)] = whole
        if one.evaluation == evaluation:
            key = (one.dataset, one.backbone, one.swept, one.fixed, whole.classes)
            grouped.setdefault(key, []).append(whole)
    return [_group(members, others, given, draws) for members in grouped.values()], left_out


def _ordered(one: Curves, class_names: Sequence[str]) -> Curves:
    """The curves with their classes in the given order, and by name where none is given."""
    place = {name: index for index, name in enumerate(class_names)}
    order = sorted(range(len(one.classes)), key=lambda i: (place.get(one.classes[i], len(place)), one.classes[i]))
    classes = tuple(one.classes[i] for i in order)
    return one._replace(classes=classes, accuracy=one.accuracy[..., order])


def _last_epochs(rows: Sequence[Row]) -> list[Row]:
    # A run's name does not tell it from one of another workdir: what it is of does.
    keys = [
        tuple(row[name] for name in ("run", "method", "backbone", "dataset", "transforms", "evaluation"))
        for row in rows
    ]
    last: dict[tuple[str, ...], int] = {}
    for key, row in zip(keys, rows, strict=True):
        last[key] = max(last.get(key, 0), row["epoch"] or 0)
    return [row for key, row in zip(keys, rows, strict=True) if (row["epoch"] or 0) == last[key]]


def _evaluation(found: Sequence[Curves]) -> str:
    there = list(dict.fromkeys(one.evaluation for one in found))
    plain = [name for name in there if VALIDATION not in name and name != FINETUNE] or there
    return next((name for name in PREFERRED if name in plain), plain[0] if plain else "")


def _identity(one: Curves) -> tuple[object, ...]:
    return (one.method, one.backbone, one.dataset, one.transforms, one.variant, one.fixed, one.swept)


def _group(
    members: Sequence[Curves],
    others: Mapping[tuple[object, ...], Curves],
    given: Mapping[str, str] | None,
    draws: int,
) -> Group:
    first = members[0]
    of = given if given is not None else superclasses(first.dataset, first.classes)
    if of is None or not set(first.classes) <= of.keys() or len({of[name] for name in first.classes}) < 2:
        of = {}
    names = _labels(members)
    sweeps = []
    for one, name in zip(members, names, strict=True):
        tuned = others.get((*_identity(one), FINETUNE))
        validation = others.get((*_identity(one), one.evaluation + VALIDATION))
        if validation is not None and not np.array_equal(validation.values, one.values):
            validation = None  # the advice holds the two against each other, value by value
        sweeps.append(
            Sweep(
                label=name,
                runs=bias(one, "runs", draws),
                mean=bias(one, "mean", draws),
                validation=validation,
                finetuned=None if tuned is None else (bias(tuned, "runs", draws), bias(tuned, "mean", draws)),
                superclass=superclass_curves(one, of) if of.keys() >= set(one.classes) else None,
            )
        )
    head = (first.dataset, first.backbone, first.swept, first.fixed, first.evaluation, first.metric)
    return Group(*head, superclasses=dict(of), sweeps=tuple(sweeps))


def _labels(members: Sequence[Curves]) -> list[str]:
    """Each sweep's method, with as much beside it as tells the sweeps apart."""
    names = [(one.method, one.transforms, one.variant) for one in members]
    for parts in (1, 2):
        found = [", ".join(filter(None, name[:parts])) for name in names]
        if len(set(found)) == len(found):
            return found
    return [", ".join(filter(None, name)) for name in names]


def class_means(one: Curves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (ddof 1; 0 with one seed) over seeds of each class at each value, [V, C] both."""
    seeds = one.accuracy.shape[1]
    deviation = one.accuracy.std(axis=1, ddof=1) if seeds > 1 else np.zeros_like(one.accuracy[:, 0])
    return one.accuracy.mean(axis=1), deviation


def clustered_order(group: Group) -> list[int]:
    """The classes in an order that puts those of like curves side by side: average linkage on 1 - r, over all methods."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    stack = np.array([sweep.runs.found["pearson"].coefficient for sweep in group.sweeps])
    distance = 1 - np.nan_to_num(stack).mean(axis=0)
    np.fill_diagonal(distance, 0)
    if len(distance) < 3:
        return list(range(len(distance)))
    tree = linkage(squareform((distance + distance.T) / 2, checks=False), "average", optimal_ordering=True)
    return [int(index) for index in leaves_list(tree)]
