"""The value of a sweep that suits a chosen group of classes, and what it costs the others: chosen on validation images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax.errors import UserError, unknown
from ssljax.study.curves import Curves, complete, describe

_SAME = ("method", "backbone", "dataset", "transforms", "variant", "target", "metric", "fixed", "swept")


class Compared(NamedTuple):
    """A test accuracy at the advised value and at the reference, in fractions; means over the seeds.

    Attributes:
      at_value, at_reference: mean over the seeds.
      gain: mean of the difference, value less reference; below 0 it is a cost.
      deviation: standard deviation over the seeds of that difference (n - 1); NaN for one seed.
    """

    at_value: float
    at_reference: float
    gain: float
    deviation: float


class Advice(NamedTuple):
    """What to set for a group of classes, and what it costs.

    Attributes:
      value: of the swept address, the best for the group on the validation images.
      reference: the value it is compared with.
      chosen_on: the evaluation that both were chosen on, such as `linear@validation`.
      group: the classes, those that both curves have.
      seeds: number of seeds.
      group_accuracy: mean over the group's classes, on test images, as the next two.
      others_accuracy: mean over the other classes; NaN where there are none.
      overall: of all images.
    """

    value: float
    reference: float
    chosen_on: str
    group: tuple[str, ...]
    seeds: int
    group_accuracy: Compared
    others_accuracy: Compared
    overall: Compared


def advise(validation: Curves, test: Curves, group: Sequence[str], reference: float | None = None) -> Advice:
    """The swept value with the best mean accuracy of a group of classes on validation images, and its test accuracies.

    Values, seeds and classes that either of the curves lacks are left out. Of equal values the lowest is taken.

    Args:
      validation: of the evaluation on validation images, such as `linear@validation`.
      test: the same sweep's on test images.
      group: class names.
      reference: a swept value to compare with; by default the best for the overall validation accuracy, which is what a search
        over all images would choose.

    Raises:
      UserError: an unknown class or value, no class of the group in both curves, curves of other sweeps, or test curves to
        choose on.
    """
    if validation.evaluation == test.evaluation:
        raise UserError(
            f"advice: given {test.evaluation} to choose on and to measure on; expected validation images for the first "
            "(--validation_fraction=0.1, say)"
        )
    if any(getattr(validation, name) != getattr(test, name) for name in _SAME):
        raise UserError(f"advice: given {describe(validation)} and {describe(test)}; expected the same sweep")
    group = tuple(dict.fromkeys(group))
    if not group:
        raise UserError("advice: no class given")
    either = dict.fromkeys((*test.classes, *validation.classes))
    for name in group:
        if name not in either:
            raise unknown("class", name, list(either), "advice")
    wanted, group = group, tuple(name for name in group if name in test.classes and name in validation.classes)
    if not group:
        raise UserError(f"advice: no run has {', '.join(wanted)} among both its validation and its test images")
    validation, test = _common(validation, test)
    inside = np.isin(test.classes, group)
    value = int(validation.accuracy[..., inside].mean(axis=(1, 2)).argmax())
    if reference is None:
        against = int(validation.overall.mean(axis=1).argmax())
    else:
        near = np.flatnonzero(np.isclose(test.values, reference))
        if not len(near):
            values = ", ".join(f"{each:g}" for each in test.values)
            raise UserError(f"advice: reference {reference:g} is no value of {test.swept}, which has {values}")
        against = int(near[0])

    def compared(accuracy: NDArray[np.float64]) -> Compared:
        """Of [V, S]."""
        difference = accuracy[value] - accuracy[against]
        deviation = float(difference.std(ddof=1)) if len(difference) > 1 else np.nan
        return Compared(
            float(accuracy[value].mean()), float(accuracy[against].mean()), float(difference.mean()), deviation
        )

    others = test.accuracy[..., ~inside]
    return Advice(
        float(test.values[value]),
        float(test.values[against]),
        validation.evaluation,
        group,
        len(test.seeds),
        compared(test.accuracy[..., inside].mean(axis=-1)),
        Compared(*(np.nan,) * 4) if inside.all() else compared(others.mean(axis=-1)),
        compared(test.overall),
    )


def _common(validation: Curves, test: Curves) -> tuple[Curves, Curves]:
    """Both curves of the classes that both have, at the values and seeds that both have whole."""
    names = tuple(name for name in test.classes if name in validation.classes)
    validation, test = (complete(_of_classes(each, names)) for each in (validation, test))
    values = np.intersect1d(validation.values, test.values)
    seeds = sorted(set(validation.seeds) & set(test.seeds))
    if not len(values) or not seeds:
        raise UserError(f"advice: {describe(validation)} and {describe(test)} share no run")

    def at(curves: Curves) -> Curves:
        rows, columns = np.isin(curves.values, values), [curves.seeds.index(seed) for seed in seeds]
        return curves._replace(
            values=values,
            seeds=tuple(seeds),
            accuracy=curves.accuracy[rows][:, columns],
            overall=curves.overall[rows][:, columns],
        )

    return at(validation), at(test)


def _of_classes(curves: Curves, names: tuple[str, ...]) -> Curves:
    columns = [curves.classes.index(name) for name in names]
    return curves._replace(classes=names, accuracy=curves.accuracy[..., columns])
