"""The setting of a sweep that validation images choose, and what it is worth on test images; any number of swept addresses.

Nothing is chosen on test images: their best is told only as what choosing on them would have said.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.config import OF_IMAGES
from ssljax.errors import UserError
from ssljax.evaluate.results import Row, program_of, swept_names
from ssljax.study.comparison import number
from ssljax.study.curves import BASELINES, last_epochs

VALIDATION = "@validation"
# Measures to choose by, the first that there is: cells are chosen by their clusters, which need no labels to be made.
MEASURES = (("kmeans", "ami"), ("linear", "top1"), ("knn", "top1"), ("finetune", "top1"), ("logreg", "top1"))


class Value(NamedTuple):
    """Mean over the seeds, standard deviation over them (n - 1; NaN for one), and their number."""

    mean: float
    deviation: float
    n: int


class Setting(NamedTuple):
    """One point of the sweep.

    Attributes:
      values: of the swept addresses, in their order.
      validation, test: the measure on the two splits, over the seeds that have both.
    """

    values: tuple[float, ...]
    validation: Value
    test: Value


class Choice(NamedTuple):
    """One sweep and the setting that is chosen.

    Attributes:
      title: what tells the sweep from others: method, backbone, data set, transforms.
      evaluation, metric: what was measured, such as kmeans and ami, against the label.
      addresses: the swept ones.
      settings: all that have validation and test values, in the order of their values.
      chosen: index of the highest validation mean; of equal ones the first.
      best_on_test: index of the highest test mean.
      near: how many other settings lie within a standard error of the difference from the chosen one on validation.
    """

    title: str
    evaluation: str
    metric: str
    addresses: tuple[str, ...]
    settings: tuple[Setting, ...]
    chosen: int
    best_on_test: int
    near: int


def choices(results: Sequence[Row], measure: tuple[str, str] | None = None) -> list[Choice]:
    """The choice in each sweep of two settings or more that were measured on validation and test images.

    A sweep is what shares everything but numbers that were swept; programs on other images are other sweeps.

    Args:
      results: rows of results.csv; a run counts with its last epoch.
      measure: evaluation and metric; None for the first of `MEASURES` that a sweep has.

    Raises:
      UserError: a measure that no sweep has on both splits.
    """
    rows = [row for row in last_epochs(results) if row["method"] not in BASELINES and row["target"] == "label"]
    names = swept_names(rows)
    sweeps: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        fixed = tuple((n, row[n]) for n in names if row.get(n) is not None and not _swept(n, row[n]))
        swept = tuple(n for n in names if _swept(n, row.get(n)))
        sweeps.setdefault((*(row[n] for n in _SETTING), fixed, swept), []).append(row)
    found = []
    for (*setting, fixed, swept), own in sweeps.items():
        title = ", ".join([*filter(None, setting), *(f"{name} {value}" for name, value in fixed)])
        made = [_choice(title, swept, own, each) for each in ([measure] if measure else MEASURES)]
        found += [each for each in made if each is not None][:1]
    if measure and not found:
        raise UserError(f"choice: no sweep has {' '.join(measure)} on validation and test images")
    return found


_SETTING = ("method", "backbone", "dataset", "transforms")


def _swept(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and name not in OF_IMAGES


def _choice(
    title: str, swept: tuple[str, ...], rows: Sequence[Mapping[str, Any]], measure: tuple[str, str]
) -> Choice | None:
    """None where there are no two settings with the measure on both splits."""
    evaluation, metric = measure
    values: dict[tuple[float, ...], dict[tuple[str, int], dict[str, float]]] = {}
    for row in rows:
        base = row["evaluation"].removesuffix(VALIDATION)
        if (base, row["metric"]) == measure and math.isfinite(row["value"]):
            at = tuple(row[name] for name in swept)
            run = program_of(row["run"]), row["seed"]
            values.setdefault(at, {}).setdefault(run, {})[row["evaluation"]] = row["value"]
    settings = []
    for at, by_run in sorted(values.items()):
        both = [v for v in by_run.values() if len(v) == 2]
        if both:
            on = (_value([v[name] for v in both]) for name in (evaluation + VALIDATION, evaluation))
            settings.append(Setting(at, *on))
    moving = [i for i in range(len(swept)) if len({one.values[i] for one in settings}) > 1]
    if not moving:
        return None
    settings = [one._replace(values=tuple(one.values[i] for i in moving)) for one in settings]
    chosen = int(np.argmax([one.validation.mean for one in settings]))
    best = settings[chosen].validation
    near = sum(best.mean - one.validation.mean <= _error(best, one.validation) for one in settings) - 1
    return Choice(
        title,
        evaluation,
        metric,
        tuple(swept[i] for i in moving),
        tuple(settings),
        chosen,
        int(np.argmax([one.test.mean for one in settings])),
        near,
    )


def _value(values: Sequence[float]) -> Value:
    return Value(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan, len(values))


def _error(a: Value, b: Value) -> float:
    """Standard error of the difference of two means; 0 where a deviation is not known."""
    error = math.sqrt(a.deviation**2 / a.n + b.deviation**2 / b.n)
    return 0.0 if math.isnan(error) else error


def sentences(choice: Choice) -> list[tuple[str, str]]:
    """What the choice says, as (lead, text)."""
    ours, best = choice.settings[choice.chosen], choice.settings[choice.best_on_test]
    what = f"{choice.evaluation} {choice.metric}"
    text = (
        f"{told(choice, ours)}, with the highest mean {what} on the validation images ({shown(ours.validation)}, of "
        f"{len(choice.settings)} settings). On the test images it has {shown(ours.test)}."
    )
    if choice.near:
        text += f" {choice.near} other{'s lie' if choice.near > 1 else ' lies'} within one standard error of it on validation."
    found = [("Chosen on validation:", text)]
    if choice.best_on_test == choice.chosen:
        return [*found, ("Choosing on test", "would have said the same.")]
    gap = best.test.mean - ours.test.mean
    text = (
        f"would have said {told(choice, best)} with {shown(best.test)}, {number(gap)} more: that much of such a value is "
        "owed to looking."
    )
    return [*found, ("Choosing on test", text)]


def told(choice: Choice, setting: Setting) -> str:
    """ "loss_weights.first .4, loss_weights.second 1" """
    return ", ".join(f"{name} {value:g}" for name, value in zip(choice.addresses, setting.values, strict=True))


def shown(value: Value) -> str:
    """ ".412 ± .013" """
    return number(value.mean) + ("" if math.isnan(value.deviation) else f" ± {number(value.deviation)}")


def grid(choice: Choice, split: str) -> tuple[list[float], list[float], np.ndarray]:
    """Of two addresses: the values of the first, of the second, and the means [first, second]; NaN where there is no setting.

    Args:
      choice: of two addresses.
      split: "validation" or "test".
    """
    first, second = (sorted({one.values[i] for one in choice.settings}) for i in (0, 1))
    means = np.full((len(first), len(second)), np.nan)
    of: Mapping[tuple[float, ...], Setting] = {one.values: one for one in choice.settings}
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            if (a, b) in of:
                means[i, j] = getattr(of[a, b], split).mean
    return first, second, means
