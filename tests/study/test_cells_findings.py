"""The papers' claims of cells, from planted tables in which they hold and in which they do not."""

import numpy as np
import pytest
from scipy import stats

from ssljax.study import cells
from ssljax.study.findings import NOT_MEASURED, NOT_SEEN, SEEN

BOTH = "cell_crop & cell_center"
SHORT = "rotation(degrees=360)"


def _rows(values, method="byol", seeds=5, **columns):
    """One row a seed of each transform set, around its value."""
    noise = np.linspace(-0.01, 0.01, seeds)
    rows = []
    for transforms, value in values.items():
        one = f"{method} & {method}" if "&" in transforms else method
        for seed in range(seeds):
            row = dict(run=f"{transforms}/seed={seed}", seed=seed, method=one, backbone="vgg13", dataset="cells")
            row |= dict(transforms=transforms, epoch=1, evaluation="kmeans", target="label", metric="ami")
            rows.append({**row, "value": value + noise[seed] * (1 if "crop" in transforms else -1), **columns})
    return rows


def _verdicts(rows):
    return [one.verdict for one in cells.findings(rows)]


def test_claims_hold_where_they_were_planted():
    table = {"cell_table_crop": 0.2, "cell_table_rotation": 0.3, BOTH: 0.5}
    grown = {f"cell_crop & {SHORT}": 0.4, f"{SHORT} & cell_center": 0.5}
    file = _rows({"": 0.4}, "pretrained", backbone="resnet101", run="file/seed=0")
    rows = [*_rows(table | grown), *(file[:1] + [{**r, "run": "file/s"} for r in file[1:]])]
    found = cells.findings(rows)
    assert [one.verdict for one in found] == [SEEN] * 4
    difference = np.array([0.1 - 2 * each for each in np.linspace(-0.01, 0.01, 5)])
    low, high = stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference))
    assert f"byol, vgg13: +0.100 ({low:+.3f} to {high:+.3f}, 5 seeds)" in found[0].measured
    assert "In 3 of 3 comparisons" in found[1].measured and "over resnet101 from a file" in found[1].measured
    assert "+0.100" in found[2].measured


def test_claims_fail_where_the_opposite_was_planted():
    table = {"cell_table_crop": 0.3, "cell_table_rotation": 0.3, BOTH: 0.3}
    grown = {f"cell_crop & {SHORT}": 0.3, f"{SHORT} & cell_center": 0.1}
    assert _verdicts(_rows(table | grown)) == [NOT_SEEN] * 4


def test_only_like_is_compared_with_like():
    rows = [*_rows({"cell_table_crop": 0.2}), *_rows({"cell_table_rotation": 0.3}, "vicreg"), *_rows({BOTH: 0.5})]
    found = cells.findings(rows)
    assert [one.verdict for one in found] == [NOT_MEASURED, SEEN, NOT_MEASURED, NOT_MEASURED]
    assert "In 1 of 1" in found[1].measured
    other = [*_rows({"cell_table_crop": 0.2}, compound="taxol"), *_rows({"cell_table_rotation": 0.3}, compound="x")]
    assert _verdicts(other) == [NOT_MEASURED] * 4
    swept = [row for weight in (1.0, 2.0) for row in _rows({BOTH: weight / 4}, **{"loss_weights.first": weight})]
    assert len([1 for one in cells._encoders([*rows, *swept]) if one.transforms == BOTH]) == 3
    one_seed = _rows({"cell_table_crop": 0.2, "cell_table_rotation": 0.3}, seeds=1)
    assert "two seeds" in cells.findings(one_seed)[0].measured
    assert cells.findings(_rows({"mnist_first": 0.2})) == [] == cells.findings([])


@pytest.mark.parametrize("method", ["random", "pixels"])
def test_baselines_are_no_encoders(method):
    assert cells.findings(_rows({"cell_table_crop": 0.2, "cell_table_rotation": 0.3}, method)) == []
