import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.study.advice import advise
from ssljax.study.curves import Curves

VALUES = np.array([0.0, 0.1, 0.2, 0.3])
SEEDS = (5, 6, 7)
CLASSES = ("six", "nine", "zero", "one")


def curves(accuracy, evaluation, overall=None):
    whole = np.asarray(accuracy, np.float64)
    top1 = whole.mean(axis=2) if overall is None else overall
    return Curves(
        "simclr", "vgg", "digits", "rotation", evaluation, "label", "accuracy", (), "rotation.degrees", VALUES, SEEDS, CLASSES,
        whole, top1,
    )  # fmt: skip


@pytest.fixture
def planted():
    """Six and nine are best at .1, the others and all together at .3; on test images everything is .01 lower at seed 6."""
    of_value = np.array([[0.7, 0.6, 0.2, 0.1], [0.8, 0.9, 0.3, 0.2], [0.5, 0.5, 0.7, 0.8], [0.4, 0.5, 0.9, 0.9]])
    validation = np.repeat(of_value[:, None], 3, axis=1)
    test = validation - np.array([0, 0.01, 0])[None, :, None]
    test[1, 2, 0] += 0.03  # the group gains .03 / 2 more at one seed
    return curves(validation, "linear@validation"), curves(test, "linear")


def test_the_value_is_chosen_on_validation_and_told_on_test(planted):
    validation, test = planted
    found = advise(validation, test, ["six", "nine"])
    assert (found.value, found.reference) == (0.1, 0.3)
    assert (found.chosen_on, found.group, found.seeds) == ("linear@validation", ("six", "nine"), 3)
    gains = [0.85 - 0.45, 0.84 - 0.44, 0.865 - 0.45]
    group = found.group_accuracy
    assert group.at_value == pytest.approx((0.85 + 0.84 + 0.865) / 3)
    assert group.at_reference == pytest.approx((0.45 + 0.44 + 0.45) / 3)
    assert group.gain == pytest.approx(np.mean(gains)) and group.deviation == pytest.approx(np.std(gains, ddof=1))
    assert found.others_accuracy.gain == pytest.approx(0.25 - 0.9)
    assert found.others_accuracy.deviation == pytest.approx(0, abs=1e-12)
    assert found.overall.gain == pytest.approx((0.55 - 0.675) + 0.03 / 4 / 3)


def test_test_accuracies_do_not_choose(planted):
    validation, test = planted
    better = test.accuracy.copy()
    better[2, :, :2] = 1  # on test images another value would be the group's best
    found = advise(validation, test._replace(accuracy=better), ["six", "nine"])
    assert found.value == 0.1


def test_the_reference_is_the_best_overall_of_validation_or_the_given_one(planted):
    validation, test = planted
    overall = validation.overall.copy()
    overall[2] += 1  # top-1 as the results have it, not the mean over classes
    found = advise(validation._replace(overall=overall), test, ["six"])
    assert found.reference == 0.2 and found.group_accuracy.at_reference == pytest.approx(0.5 - 0.01 / 3)
    assert advise(validation, test, ["six"], reference=0.0).reference == 0
    with pytest.raises(
        UserError, match=r"reference 0\.15 is no value of rotation\.degrees, which has 0, 0\.1, 0\.2, 0\.3"
    ):
        advise(validation, test, ["six"], reference=0.15)


def test_all_classes_have_no_others(planted):
    found = advise(*planted, CLASSES)
    assert found.value == found.reference == 0.3
    assert found.group_accuracy.gain == 0 and np.isnan(found.others_accuracy).all()


def test_runs_that_one_of_the_two_lacks_are_left_out(planted):
    validation, test = planted
    lacking = test.accuracy.copy()
    lacking[0] = np.nan  # a value that no run reached
    lacking[2, 1] = np.nan  # and a run that diverged
    found = advise(validation, test._replace(accuracy=lacking), ["six", "nine"])
    assert (found.value, found.seeds) == (0.1, 2)
    assert found.group_accuracy.at_value == pytest.approx((0.85 + 0.865) / 2)
    whole = validation.accuracy.copy()
    whole[:, [0, 2]] = np.nan
    with pytest.raises(UserError, match="share no run"):
        advise(validation._replace(accuracy=whole), test._replace(accuracy=lacking), ["six"])


def test_classes_that_one_of_the_two_lacks_are_left_out(planted):
    """Two nines in a hundred validation images, say: none may be among them."""
    validation, test = planted
    order = [3, 2, 0]
    few = validation._replace(classes=("one", "zero", "six"), accuracy=validation.accuracy[..., order])
    found = advise(few, test, ["six", "nine"])
    expected = advise(validation, test, ["six"])
    assert found.group == ("six",) and found.value == 0.1 and found.reference == 0.3
    assert found.group_accuracy == expected.group_accuracy and found.overall == expected.overall
    others = test.accuracy[..., 2:].mean(axis=(1, 2))
    assert found.others_accuracy.gain == pytest.approx(others[1] - others[3])
    with pytest.raises(UserError, match="advice: no run has nine among both its validation and its test images"):
        advise(few, test, ["nine"])


def test_what_is_no_advice(planted):
    validation, test = planted
    with pytest.raises(UserError, match=r"given linear to choose on and to measure on; expected validation images"):
        advise(test, test, ["six"])
    with pytest.raises(UserError, match="advice: unknown class 'sx'; did you mean 'six'"):
        advise(validation, test, ["sx"])
    with pytest.raises(UserError, match="advice: no class given"):
        advise(validation, test, [])
    with pytest.raises(UserError, match="expected the same sweep$"):
        advise(validation._replace(swept="color_jitter.hue"), test, ["six"])
