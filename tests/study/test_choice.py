"""Choosing a setting on validation: planted sweeps whose best setting on test images is another one."""

import itertools

import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.study import choice


def _rows(values, evaluation="kmeans", metric="ami", seeds=(5, 6), **columns):
    """Rows of settings: (first, second) -> (validation values, test values), one a seed."""
    rows = []
    for (first, second), splits in values.items():
        for ending, own in zip(("@validation", ""), splits):
            for seed, value in zip(seeds, own):
                shared = dict(method="byol", backbone="vgg13", dataset="cells", transforms="a & b", epoch=3)
                shared |= {"run": f"byol/first={first},second={second},seed={seed}", "seed": seed, "target": "label"}
                swept = {"w.first": first, "w.second": second}
                rows.append(
                    {**shared, **swept, "evaluation": evaluation + ending, "metric": metric, "value": value, **columns}
                )
    return rows


PLANTED = {
    (0.2, 0.5): ((0.30, 0.34), (0.50, 0.54)),  # the best on test
    (0.2, 1.0): ((0.40, 0.44), (0.30, 0.36)),  # the best on validation
    (0.4, 0.5): ((0.41, 0.42), (0.20, 0.20)),  # near it
    (0.4, 1.0): ((0.10, 0.12), (0.10, 0.10)),
}


def test_the_best_on_validation_is_chosen_and_measured_on_test():
    (made,) = choice.choices(_rows(PLANTED))
    assert (made.evaluation, made.metric, made.addresses) == ("kmeans", "ami", ("w.first", "w.second"))
    assert [one.values for one in made.settings] == list(PLANTED)
    for one in made.settings:
        validation, test = PLANTED[one.values]
        assert one.validation == pytest.approx((np.mean(validation), np.std(validation, ddof=1), 2))
        assert one.test == pytest.approx((np.mean(test), np.std(test, ddof=1), 2))
    assert made.settings[made.chosen].values == (0.2, 1.0)
    assert made.settings[made.best_on_test].values == (0.2, 0.5)
    assert made.near == 1
    (_, first), (_, second) = choice.sentences(made)
    assert first.startswith("w.first 0.2, w.second 1, with the highest mean kmeans ami")
    assert "(.420 ± .028, of 4 settings). On the test images it has .330 ± .042." in first
    assert "w.first 0.2, w.second 0.5 with .520 ± .028, .190 more" in second
    first, second, means = choice.grid(made, "test")
    assert (first, second) == ([0.2, 0.4], [0.5, 1.0])
    np.testing.assert_allclose(means, [[0.52, 0.33], [0.2, 0.1]])


def test_baselines_other_images_and_lone_settings_are_no_part_of_a_sweep():
    one, two = dict(itertools.islice(PLANTED.items(), 2)), {(0.4, 1.0): PLANTED[0.4, 1.0]}
    rows = [
        *_rows(one, compound="taxol"),
        *_rows(PLANTED, compound="nocodazole"),
        *_rows(two, dataset="other"),
        *_rows({(0.9, 0.9): ((1, 1), (1, 1))}, method="random", compound="taxol"),
        *_rows(PLANTED, compound="taxol", target="plate"),
    ]
    taxol, nocodazole = choice.choices(rows)
    assert taxol.title == "byol, vgg13, cells, a & b, compound taxol" and nocodazole.title.endswith("nocodazole")
    assert taxol.addresses == ("w.second",)  # the first is the same in both settings
    assert [each.values for each in taxol.settings] == [(0.5,), (1.0,)]
    assert len(nocodazole.settings) == 4
    only_test = [row for row in _rows(PLANTED) if row["evaluation"] == "kmeans"]
    assert choice.choices(only_test) == []


def test_a_seed_counts_where_both_splits_have_it_and_any_measure_can_be_asked_for():
    rows = _rows(PLANTED)
    lost = [r for r in rows if not (r["seed"] == 6 and r["w.first"] == 0.2 and r["evaluation"] == "kmeans")]
    settings = choice.choices(lost)[0].settings
    assert [one.test.n for one in settings] == [one.validation.n for one in settings] == [1, 1, 2, 2]
    assert settings[1].validation.mean == 0.40 and np.isnan(settings[1].validation.deviation)
    knn = _rows({k: (t, v) for k, (v, t) in PLANTED.items()}, "knn", "top1")
    assert choice.choices([*rows, *knn])[0].evaluation == "kmeans"
    (made,) = choice.choices([*rows, *knn], ("knn", "top1"))
    assert made.settings[made.chosen].values == (0.2, 0.5)
    with pytest.raises(UserError, match="choice: no sweep has linear top1 on validation and test images"):
        choice.choices(rows, ("linear", "top1"))
    same = {k: (v, v) for k, (v, _) in PLANTED.items()}
    assert choice.sentences(choice.choices(_rows(same))[0])[1] == ("Choosing on test", "would have said the same.")
