"""The sweeps of a bias study, analysed once for all parts of its page."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError
from ssljax.evaluate.results import Row
from ssljax.study.bias import Bias, bias
from ssljax.study.chance import DRAWS
from ssljax.study.curves import Curves, complete, curves, describe, left_out
from ssljax.study.superclasses import superclass_curves, superclasses

PREFERRED = ("linear", "knn")  # the evaluation that a sweep's study is about: the papers' first
METRICS = ("accuracy", "f1")  # of a class; the papers' first
FINETUNE = "finetune"
VALIDATION = "@validation"  # what follows an evaluation's name when it was scored on validation images
PROPERTIES = "properties"  # of a class, not how well it is told from the others


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
    study_of: str = "",
) -> tuple[list[Group], list[str]]:
    """Every sweep of at least three values, by data set, backbone, swept address, evaluation and metric, in order of appearance.

    A sweep is studied by one evaluation: the one asked for where it has that, else linear accuracy, else what there is; on
    validation images or fine-tuned only where there is nothing else. Each run counts with its last epoch.

    Args:
      per_class: rows of per_class.csv.
      results: rows of results.csv, may be empty.
      class_names: the order of the classes; others come after them, by number or name.
      given: class -> superclass; None takes the data set's own map where there is one.
      draws: permutations for each statement on chance.
      study_of: evaluation, or evaluation:metric, "" for none in particular.

    Returns:
      The groups, and a sentence for each sweep, value, seed and class that is left out.

    Raises:
      UserError: no such evaluation or metric, or the superclasses fit no sweep.
    """
    rows = [row for row in per_class if row["target"] == "label" and row["evaluation"] != PROPERTIES]
    sweeps: dict[_Identity, dict[_Measure, Curves]] = {}
    for metric in dict.fromkeys([*METRICS, *(row["metric"] for row in rows)]):
        for one in curves(rows, results, metric=metric):
            sweeps.setdefault(_identity(one), {})[one.evaluation, metric] = one
    wanted = _wanted(study_of, [measure for of in sweeps.values() for measure in of])
    notes: list[str] = []
    grouped: dict[tuple[object, ...], list[_Measured]] = {}
    for found in sweeps.values():
        measured = _measured(found, wanted, class_names, notes)
        if measured is not None:
            its = measured.test
            key = (its.dataset, its.backbone, its.swept, its.fixed, its.evaluation, its.metric)
            grouped.setdefault(key, []).append(measured)
    made = [_group(_alike(members, notes), given, draws, notes) for members in grouped.values()]
    analysed = [group for group in made if group is not None]
    if given is not None and not any(group.superclasses for group in analysed):
        _refuse_superclasses(given, analysed)
    return analysed, list(dict.fromkeys(notes))


_Identity = tuple[object, ...]
_Measure = tuple[str, str]  # evaluation, metric


class _Measured(NamedTuple):
    """A sweep as it is studied, and the same on validation images and fine-tuned."""

    test: Curves
    validation: Curves | None
    tuned: Curves | None


def _identity(one: Curves) -> _Identity:
    return (one.method, one.backbone, one.dataset, one.transforms, one.variant, one.fixed, one.swept)


def _wanted(study_of: str, there: Sequence[_Measure]) -> _Measure:
    """The evaluation and metric that were asked for, "" for any."""
    evaluation, _, metric = study_of.partition(":")
    evaluations = dict.fromkeys(name for name, _ in there)
    metrics = dict.fromkeys(its for name, its in there if name == evaluation)
    if study_of and there and evaluation not in evaluations:
        raise UserError(f"--study_of: no sweep has an evaluation '{evaluation}'; there is {', '.join(evaluations)}")
    if metric and there and metric not in metrics:
        raise UserError(f"--study_of: {evaluation} has no metric '{metric}'; there is {', '.join(metrics)}")
    return evaluation, metric


def _rank(measure: _Measure, wanted: _Measure) -> tuple[int, ...]:
    """Lowest for what a sweep's study is to be about."""
    asked = wanted[0] == measure[0] and wanted[1] in ("", measure[1])
    secondary = VALIDATION in measure[0] or measure[0] == FINETUNE
    places = (
        known.index(name) if name in known else len(known)
        for known, name in zip((PREFERRED, METRICS), measure, strict=True)
    )
    return (not asked, secondary, *places)


def _measured(
    found: Mapping[_Measure, Curves], wanted: _Measure, class_names: Sequence[str], notes: list[str]
) -> _Measured | None:
    """One sweep by the best of its evaluations that can be made complete; adds to the notes what is left out."""
    whole: dict[_Measure, Curves] = {}
    reasons: dict[_Measure, list[str]] = {}
    for measure, one in found.items():
        try:
            whole[measure] = _ordered(complete(one), class_names)
        except UserError as error:
            reasons[measure] = [str(error)]
        else:
            reasons[measure] = [f"{describe(one)}: {text}" for text in left_out(one, whole[measure])]
    evaluation, metric = min(whole or found, key=lambda measure: _rank(measure, wanted))
    validation, tuned = (evaluation + VALIDATION, metric), (FINETUNE, metric)
    for measure in found:
        shown = measure in ((evaluation, metric), validation, tuned) or measure not in whole
        if shown and measure[1] == metric:
            notes += reasons[measure]
    if not whole:
        return None
    beside = whole.get(tuned) if evaluation != FINETUNE else None
    return _Measured(whole[evaluation, metric], whole.get(validation), beside)


def _ordered(one: Curves, class_names: Sequence[str]) -> Curves:
    """The curves with their classes in the given order, and by number or name where none is given."""
    place = {name: index for index, name in enumerate(class_names)}

    def key(name: str) -> tuple[int, bool, int, str]:
        number = name.isdecimal()
        return place.get(name, len(place)), not number, int(name) if number else 0, name

    return _only(one, sorted(one.classes, key=key))


def _only(one: Curves, classes: Sequence[str]) -> Curves:
    """The curves of these classes, all of which it has, in this order."""
    at = [one.classes.index(name) for name in classes]
    return one._replace(classes=tuple(classes), accuracy=one.accuracy[..., at])


def _alike(members: Sequence[_Measured], notes: list[str]) -> list[_Measured]:
    """The sweeps of a group with the classes that all of them have; adds to the notes what that leaves out."""
    common, kept = list(members[0].test.classes), []
    for member in members:
        shared = [name for name in common if name in member.test.classes]
        if len(shared) < 2 <= len(common):
            notes.append(f"{describe(member.test)}: shares no two classes with {members[0].test.method}")
            continue
        common = shared
        kept.append(member)
    every = list(dict.fromkeys(name for member in kept for name in member.test.classes))
    if lost := [name for name in every if name not in common]:
        first = kept[0].test
        held = "".join(f", {address} {value}" for address, value in first.fixed)
        where = f"{first.evaluation} {first.metric} over {first.swept} ({first.dataset}{held})"
        verb = "is a class" if len(lost) == 1 else "are classes"
        notes.append(f"{where}: {', '.join(lost)} {verb} of some methods only; compared are the {len(common)} of all")
    result = []
    for test, validation, tuned in kept:
        if validation is not None and not np.array_equal(validation.values, test.values):
            # The page holds the two against each other, value by value.
            notes.append(f"{describe(validation)}: has other values than on test images")
            validation = None
        beside = (_only(one, _shared(one, common, notes)) if one is not None else None for one in (validation, tuned))
        result.append(_Measured(_only(test, common), *beside))
    return result


def _shared(one: Curves, classes: Sequence[str], notes: list[str]) -> list[str]:
    """Those of the classes that the curves have; adds to the notes which they lack."""
    if lost := [name for name in classes if name not in one.classes]:
        notes.append(f"{describe(one)}: no image of {', '.join(lost)}")
    return [name for name in classes if name in one.classes]


def _group(members: Sequence[_Measured], given: Mapping[str, str] | None, draws: int, notes: list[str]) -> Group | None:
    """The sweeps analysed; None where none can be, of which the notes tell the reason."""
    first = members[0].test
    of = given if given is not None else superclasses(first.dataset, first.classes)
    if of is None or not set(first.classes) <= of.keys() or len({of[name] for name in first.classes}) < 2:
        of = {}
    sweeps = []
    for (test, validation, tuned), name in zip(members, _labels([member.test for member in members]), strict=True):
        analysed = _both(test, draws, notes)
        if analysed is None:
            continue
        sweeps.append(
            Sweep(
                label=name,
                runs=analysed[0],
                mean=analysed[1],
                validation=validation,
                finetuned=None if tuned is None else _both(tuned, draws, notes),
                superclass=superclass_curves(test, of) if of else None,
            )
        )
    head = (first.dataset, first.backbone, first.swept, first.fixed, first.evaluation, first.metric)
    return Group(*head, superclasses=dict(of), sweeps=tuple(sweeps)) if sweeps else None


def _both(one: Curves, draws: int, notes: list[str]) -> tuple[Bias, Bias] | None:
    """A sweep by both readings; None where it cannot be analysed, with the reason in the notes."""
    try:
        return bias(one, "runs", draws), bias(one, "mean", draws)
    except UserError as error:
        notes.append(str(error))
        return None


def _refuse_superclasses(given: Mapping[str, str], found: Sequence[Group]) -> None:
    """Raises where a class has no superclass; one superclass alone is no fault, only nothing to show."""
    for group in found:
        classes = group.sweeps[0].runs.curves.classes
        if lost := [name for name in classes if name not in given]:
            count = f"{len(lost)} of the {len(classes)} classes"
            raise UserError(f"--superclasses: class '{lost[0]}' of {group.dataset} has none ({count} have none)")


def _labels(members: Sequence[Curves]) -> list[str]:
    """Each sweep's method, with as much beside it as tells the sweeps apart."""
    same = len({one.transforms for one in members}) == 1
    names: list[list[tuple[str, ...]]] = [
        [(one.method,) for one in members],
        [(one.method, one.transforms) for one in members],
        [(one.method, *([] if same else [one.transforms]), one.variant) for one in members],
    ]
    found = [[", ".join(filter(None, name)) for name in each] for each in names]
    return next((each for each in found if len(set(each)) == len(each)), found[-1])


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
