"""Which settings are compared with which: planted differences, what is held, and what is left out."""

import numpy as np
import pytest
from result_rows import rows_of

from ssljax.errors import UserError
from ssljax.study import pairings
from ssljax.study.pairings import asked_for, of_study, parse

NOISE = np.random.default_rng(0).normal(0, 0.01, 4)


def setting(value, seeds=(5, 6, 7, 8), **columns):
    """Rows of one setting, its value plus a noise of each seed that all settings share."""
    return rows_of(columns, {seed: value + NOISE[seed - 5] for seed in seeds}, program=columns.get("method", "simclr"))


def shown(found):
    return {(pair.a, pair.b, pair.held): pytest.approx(pair.found.mean) for pair in found.pairs}


def test_of_a_sweep_each_value_goes_against_the_first():
    rows = [row for hue, value in ((0.0, 0.7), (0.25, 0.9), (0.5, 0.6)) for row in setting(value, hue=hue)]
    rows += rows_of({"method": "random", "hue": None}, {5: 0.1, 6: 0.1})  # no setting of training
    found = of_study(rows, "linear", "top1")
    assert found.left_out == 0
    assert shown(found) == {("hue 0.25", "hue 0", ""): 0.2, ("hue 0.5", "hue 0", ""): -0.1}
    assert [pair.found.seeds for pair in found.pairs] == [(5, 6, 7, 8)] * 2
    assert of_study(rows, "knn", "top1").pairs == []


def test_methods_go_against_each_other_at_each_value_of_a_sweep():
    planted = {("simclr", 0.0): 0.5, ("simclr", 0.5): 0.7, ("byol", 0.0): 0.6, ("byol", 0.5): 0.65, ("mira", 0.0): 0.9}
    rows = [row for (method, hue), value in planted.items() for row in setting(value, method=method, hue=hue)]
    expected = {
        ("method byol", "method simclr", "hue 0"): 0.1,
        ("method mira", "method simclr", "hue 0"): 0.4,
        ("method mira", "method byol", "hue 0"): 0.3,
        ("method byol", "method simclr", "hue 0.5"): -0.05,
        ("hue 0.5", "hue 0", "method simclr"): 0.2,
        ("hue 0.5", "hue 0", "method byol"): 0.05,
    }
    assert shown(of_study(rows, "linear", "top1")) == expected


def test_many_methods_go_against_the_first_alone_and_more_pairs_than_are_shown_are_counted(monkeypatch):
    rows = [row for i in range(7) for row in setting(0.1 * i, method=f"m{i}")]
    found = of_study(rows, "linear", "top1")
    assert shown(found) == {(f"method m{i}", "method m0", ""): 0.1 * i for i in range(1, 7)}
    monkeypatch.setattr(pairings, "MOST", 4)
    assert (len(of_study(rows, "linear", "top1").pairs), of_study(rows, "linear", "top1").left_out) == (4, 2)


def test_what_cannot_be_paired_is_left_out():
    one_seed = setting(0.5, seeds=(5,), method="simclr") + setting(0.6, seeds=(5, 6), method="byol")
    assert of_study(one_seed, "linear", "top1").pairs == []
    # Two programs that no column tells apart.
    twice = setting(0.5) + [{**row, "run": f"other/{row['run']}"} for row in setting(0.7)] + setting(0.6, method="byol")
    assert of_study(twice, "linear", "top1").pairs == []
    # Data sets are not settings of one study.
    assert of_study(setting(0.5) + setting(0.6, dataset="mnist"), "linear", "top1").pairs == []


def test_pairs_asked_for_at_every_value_of_what_they_leave_open():
    planted = {("simclr", 0.0): 0.5, ("simclr", 0.5): 0.7, ("byol", 0.0): 0.6, ("byol", 0.5): 0.65, ("mira", 0.9): 0.9}
    rows = [row for (method, hue), value in planted.items() for row in setting(value, method=method, hue=hue)]
    rows += rows_of({"method": "random"}, {5: 0.1 + NOISE[0], 6: 0.1 + NOISE[1]})
    found = asked_for(rows, "method=byol vs method=simclr")
    assert shown(found) == {
        ("method byol", "method simclr", "hue 0"): 0.1,
        ("method byol", "method simclr", "hue 0.5"): -0.05,
    }
    # A side that has no such value is held to nothing; what is named is not open.
    found = asked_for(rows, "method=byol, hue=.5 vs method=random; method=mira vs method=simclr,hue=0")
    assert shown(found) == {
        ("method byol, hue 0.5", "method random", ""): 0.55,
        ("method mira", "method simclr, hue 0", ""): 0.4,
    }
    assert found.pairs[0].found.seeds == (5, 6)
    knn = [{**row, "evaluation": "knn", "value": row["value"] / 2} for row in rows]
    found = asked_for(rows + knn, "method=byol,hue=0 vs method=simclr,hue=0")
    assert [(p.found.measure, round(p.found.mean, 9)) for p in found.pairs] == [
        ("linear top1", 0.1),
        ("knn top1", 0.05),
    ]


def test_a_definition_with_commas_and_equal_signs_is_one_value():
    transforms = "rotation(degrees=25,probability=.5)+horizontal_flip"
    assert parse(f"transforms={transforms} vs transforms=none,hue=.25") == [
        ({"transforms": transforms}, {"transforms": "none", "hue": 0.25})
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method=simclr", "expected A vs B"),
        ("method=simclr vs", "expected A vs B"),
        ("method=simclr vs method=", "expected A vs B"),
        ("method=simclr vs method=simclr", "expected A vs B"),
        ("a=1 vs b=2 vs c=3", "expected A vs B"),
        ("metod=simclr vs method=byol", "--compare: a: unknown column 'metod'; did you mean 'method'"),
        ("method=simclr vs method=dino", "--compare: b: no run has method dino; there are simclr, byol"),
        ("method=simclr vs method=byol", "expected a seed in common"),
        ("method=simclr vs method=mira", "method simclr and method mira have no value of hue in common"),
    ],
)
def test_pairs_that_cannot_be_had_are_one_line(text, message):
    rows = setting(0.5, seeds=(5, 6), hue=0.0) + setting(0.5, seeds=(5, 6), hue=0.5)
    rows += setting(0.6, seeds=(7, 8), method="byol", hue=0.5)
    if "mira" in text:
        rows += [row for hue in (0.6, 0.7) for row in setting(0.6, method="mira", hue=hue)]
    with pytest.raises(UserError) as error:
        asked_for(rows, text)
    assert message in str(error.value) and "\n" not in str(error.value)
