"""What the papers claim of the bias between classes, each held against what was measured here.

The claims are those of No Free Lunch in SSL (2023), appendix C. A verdict is "seen", "not seen", or "not measured here" where the
sweep that it needs is not there; the rules behind the verdicts are our choice and stand in each function.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.study.association import ALPHA
from ssljax.study.bias import Bias

SEEN, NOT_SEEN, NOT_MEASURED = "seen", "not seen", "not measured here"

Properties = Mapping[str, Any]  # a row of `groups.property_table`: property, f, p


class Finding(NamedTuple):
    """A claim, where it is from, what was measured of it, and the verdict."""

    claim: str
    source: str
    measured: str
    verdict: str


class Measured(NamedTuple):
    """One sweep, and its rows of `groups.property_table`; () where the classes' properties are not known."""

    bias: Bias
    properties: Sequence[Properties] = ()


def findings(sweeps: Sequence[Measured]) -> list[Finding]:
    """Every claim with its verdict, from the sweeps of any number of methods, data sets and addresses."""
    return [Finding(claim, source, *test(sweeps)) for claim, source, test in CLAIMS]


def _flat(sweeps: Sequence[Measured]) -> tuple[str, str]:
    """Seen in a sweep whose classes move more than chance moves them while the overall accuracy's range is less than half the
    median range of the classes that move (of means over seeds); "seen" when in most sweeps."""
    told, flat = [], 0
    for one in (sweep.bias for sweep in sweeps):
        if len(one.curves.seeds) < 2:
            continue
        overall = float(np.ptp(one.curves.overall.mean(axis=1)))
        moving = one.explained.q < ALPHA
        ranges = np.ptp(one.curves.accuracy.mean(axis=1), axis=0)[moving]
        median = float(np.median(ranges)) if moving.any() else 0.0
        flat += one.moved.p < ALPHA and overall < median / 2
        told.append(f"{_where(one)} {overall:.3f} against {median:.3f} for the {moving.sum()} classes that move")
    if not told:
        return "Needs a sweep of two seeds or more.", NOT_MEASURED
    text = f"In {flat} of {len(told)} sweeps. Range of the overall accuracy against the median class's: {_some(told)}."
    return text, SEEN if flat > len(told) / 2 else NOT_SEEN


def _crocodile(sweeps: Sequence[Measured]) -> tuple[str, str]:
    """Seen when caterpillar's curve falls and crocodile's rises with the crop size, each by its F-test."""
    told, seen, count = [], 0, 0
    for one in (sweep.bias for sweep in sweeps):
        names = [name.lower() for name in one.curves.classes]
        if not _crop(one) or one.curves.method != "vicreg" or not {"caterpillar", "crocodile"} <= set(names):
            continue
        count += 1
        signs = {}
        for name in ("caterpillar", "crocodile"):
            i = names.index(name)
            signs[name] = int(one.explained.sign[i])
            told.append(
                f"{name} has a slope of {one.trend.slope[i]:+.3f} over the crop size (q = {one.explained.q[i]:.3f})"
            )
        seen += signs["caterpillar"] < 0 < signs["crocodile"]
    if not count:
        return "Needs VICReg's sweep of the crop size on CIFAR-100.", NOT_MEASURED
    return f"{'; '.join(told)}.", SEEN if seen > count / 2 else NOT_SEEN


def _hue_on_cifar100(sweeps: Sequence[Measured]) -> tuple[str, str]:
    """Seen when the hue moves CIFAR-100's classes most: by the variance between its values, less what noise gives, mean over
    classes; more than another set's by two standard errors, in most of the comparisons within one method, backbone and sweep."""
    by_sweep: dict[tuple[object, ...], list[Bias]] = {}
    for one in (sweep.bias for sweep in sweeps):
        c = one.curves
        if "hue" in c.swept and len(c.seeds) > 1:
            by_sweep.setdefault((c.method, c.backbone, c.swept, c.fixed), []).append(one)
    told, verdicts = [], []
    for found in by_sweep.values():
        ours = [one for one in found if "cifar100" in one.curves.dataset]
        others = [one for one in found if "cifar100" not in one.curves.dataset]
        for one, other in ((one, other) for one in ours for other in others):
            (here, its_error), (there, their_error) = (_effect(each) for each in (one, other))
            told.append(
                f"{_where(one)} {here:.2g} ± {its_error:.1g}, {other.curves.dataset} {there:.2g} ± {their_error:.1g}"
            )
            verdicts.append(here - there > 2 * float(np.hypot(its_error, their_error)))
    if not told:
        return (
            "Needs sweeps of the hue on CIFAR-100 and another data set, of the same method and two seeds or more.",
            NOT_MEASURED,
        )
    text = (
        "Variance of a class's accuracy between the values, less that of noise (mean and standard error over classes): "
    )
    return f"{text}{_some(told)}.", SEEN if np.mean(verdicts) > 0.5 else NOT_SEEN


def _effect(one: Bias) -> tuple[float, float]:
    """The variance component of the swept value, (MS_value - MS_error) / S: mean over the classes, and its standard error.

    Unlike the share of classes that a test finds, it does not grow with the number of test images a class has.
    """
    values, seeds, classes = one.curves.accuracy.shape
    total = one.curves.accuracy.var(axis=(0, 1)) * values * seeds
    f = np.where(np.isnan(one.explained.f), 1.0, one.explained.f)
    between = np.nan_to_num(one.explained.share) * total / (values - 1)
    component = between * (1 - 1 / np.maximum(f, 1e-12)) / seeds
    return float(component.mean()), float(component.std(ddof=1) / np.sqrt(classes))


def _properties(
    wanted: Sequence[str], where: Callable[[Bias], bool], what: str
) -> Callable[[Sequence[Measured]], tuple[str, str]]:
    def test(sweeps: Sequence[Measured]) -> tuple[str, str]:
        """Seen when every wanted property differs between the trends' groups (ANOVA, p < .05) in most of the sweeps."""
        told, seen, count = [], 0, 0
        for sweep in sweeps:
            found = {row["property"]: row for row in sweep.properties if np.isfinite(row["f"])}
            if not where(sweep.bias) or not set(wanted) <= found.keys():
                continue
            count += 1
            seen += all(found[name]["p"] < ALPHA for name in wanted)
            values = ", ".join(
                f"{name.replace('_', ' ')} F = {found[name]['f']:.2f} (p = {found[name]['p']:.3f})" for name in wanted
            )
            told.append(f"{_where(sweep.bias)} {values}")
        if not count:
            return f"Needs class properties (--evaluations=...,properties) and a sweep of {what}.", NOT_MEASURED
        return f"In {seen} of {count} sweeps: {_some(told)}.", SEEN if seen > count / 2 else NOT_SEEN

    return test


def _crop(one: Bias) -> bool:
    return "crop" in one.curves.swept


def _colour(one: Bias) -> bool:
    return "hue" in one.curves.swept or "jitter" in one.curves.swept


def _where(one: Bias) -> str:
    return f"{one.curves.method} over {one.curves.swept} on {one.curves.dataset}:"


def _some(told: Sequence[str], most: int = 3) -> str:
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


_APPENDIX = "No Free Lunch in SSL (2023), appendix C"
CLAIMS: tuple[tuple[str, str, Callable[[Sequence[Measured]], tuple[str, str]]], ...] = (
    ("Overall accuracy stays flat while classes move.", f"{_APPENDIX}, Figure 3", _flat),
    ("Small crops help Caterpillar and hurt Crocodile under VICReg.", f"{_APPENDIX}, Figure 3", _crocodile),
    ("The bias of the hue is strongest on CIFAR-100.", f"{_APPENDIX}, Figure 4", _hue_on_cifar100),
    (
        "Intrinsic dimension and texture go with the effect of hue and colour jitter.",
        f"{_APPENDIX}, Table 3",
        _properties(("intrinsic_dimension", "texture"), _colour, "hue or colour jitter"),
    ),
    (
        "The Fourier spectrum goes with the effect of the crop size.",
        f"{_APPENDIX}, Table 3",
        _properties(("fourier",), _crop, "the crop size"),
    ),
)
