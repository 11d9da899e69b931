"""The sentences follow the numbers: planted cases of more, less and the same."""

import pytest

from ssljax.report.tables import Row, Setting, Stat
from ssljax.report.words import SAME, answer, compare

KEYS = {
    "silhouette": ("kmeans", "label", "silhouette"),
    "ami": ("kmeans", "label", "ami"),
    "linear": ("linear", "label", "top1"),
    "knn": ("knn", "label", "top1"),
}


def row(method, transforms="", dataset="digits", deviation=0.001, **values):
    backbone = "" if method in ("pixels", "shuffled") else "vgg11"
    stats = {KEYS[name]: Stat(value, deviation, 3) for name, value in values.items()}
    return Row(Setting(method, backbone, dataset, transforms), stats, ("a", "b", "c"))


def told(*rows):
    return {paragraph.lead: paragraph.text for paragraph in answer(rows)}


def test_compare_needs_more_than_the_spread():
    assert compare(Stat(0.5, None, 1), Stat(0.4, None, 1)) == 1
    assert compare(Stat(0.4, None, 1), Stat(0.5, None, 1)) == -1
    assert compare(Stat(0.5, None, 1), Stat(0.5 + SAME, None, 1)) == 0
    assert compare(Stat(0.5, 0.06, 3), Stat(0.4, 0.08, 3)) == 0  # the spread is exactly .1
    assert compare(Stat(0.5, 0.05, 3), Stat(0.4, 0.08, 3)) == 1


@pytest.mark.parametrize(
    ("ami", "expected"),
    [
        (
            0.80,
            "more than those of raw pixels (AMI .800, +.050) and more than those of the untrained encoder",
        ),
        (
            0.60,
            "less than those of raw pixels (AMI .600, −.150) and more than those of the untrained encoder",
        ),
        (0.752, "about as much as those of raw pixels (AMI .752, +.002)"),
        (0.50, "about as much as those of the untrained encoder (+.000)"),
    ],
)
def test_gains_over_the_baselines(ami, expected):
    text = told(row("byol", "mine", ami=ami), row("pixels", ami=0.75), row("random", ami=0.5))["mine."]
    assert expected in text


def test_accuracy_is_told_as_often():
    rows = [
        row("byol", "mine", linear=0.9, knn=0.7),
        row("pixels", linear=0.95, knn=0.6),
        row("random", knn=0.7),
    ]
    text = told(*rows)["mine."]
    assert "probe is right less often than on raw pixels (top-1 .900, −.050)." in text
    assert "vote is right more often than on raw pixels (top-1 .700, +.100) and about as often as on the" in text
    assert "AMI" not in text


def test_baselines_belong_to_the_data_set():
    rows = [row("byol", "mine", "cells", ami=0.5), row("pixels", dataset="digits", ami=0.1)]
    assert told(*rows)["mine (cells)."] == "Its clusters agree with the labels: AMI .500, nothing to compare with."


def test_baselines_belong_to_the_images_that_a_row_was_trained_on():
    def of(compound, one):
        return one._replace(setting=one.setting._replace(swept=(("compound", compound),)))

    rows = [of("taxol", row("byol", "mine", ami=0.5)), of("nocodazole", row("byol", "mine", ami=0.7))]
    rows += [of("nocodazole", row("pixels", ami=0.1)), of("taxol", row("pixels", ami=0.9))]
    text = told(*rows)
    assert "less than those of raw pixels (AMI .500, −.400)" in text["byol (compound taxol)."]
    assert "more than those of raw pixels (AMI .700, +.600)" in text["byol (compound nocodazole)."]


def test_range_over_the_sets():
    text = told(row("byol", "a", ami=0.4), row("byol", "b", ami=0.8))["The choice decides what is learned."]
    assert "nothing changed but the transformations" in text and "AMI .400, a, to .800, b." in text
    assert "The rows do not clearly differ." in told(row("byol", "a", ami=0.4), row("byol", "b", ami=0.402))
    assert "The rows differ." in told(row("byol", "a", ami=0.4), row("simclr", "a", ami=0.8))


SECOND = "The second set is meant to lose the digit."


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (
            {"ami": 0.37, "silhouette": 0.66},
            "It did: its clusters agree with the labels less (AMI .370 against .830",
        ),
        ({"ami": 0.37, "silhouette": 0.66}, "The silhouette falls less in proportion (.660 against .870)"),
        ({"ami": 0.37, "silhouette": 0.90}, "The silhouette does not fall (.900 against .870)"),
        ({"ami": 0.60, "silhouette": 0.20}, "falls at least as much (.200 against .870)"),
        (
            {"ami": 0.83, "silhouette": 0.66},
            "Here it did not: its clusters agree with the labels no less (AMI .830",
        ),
        ({"ami": 0.90, "silhouette": 0.66}, "Here it did not"),
        ({"ami": 0.37}, "It did"),
        ({"silhouette": 0.66}, "cannot be told here"),
    ],
)
def test_the_second_set(second, expected):
    rows = [row("byol", "mnist_first", ami=0.83, silhouette=0.87), row("byol", "mnist_second", **second)]
    assert expected in told(*rows)[SECOND]


def test_the_second_set_against_pixels_and_on_other_data():
    rows = [row("byol", "mnist_second", "cells", ami=0.2), row("pixels", dataset="cells", ami=0.5)]
    text = told(*rows)["The second set is meant to lose the label."]
    assert "(AMI .200 against .500 for raw pixels)" in text and "digit" not in text


def test_shuffled_labels():
    rows = [row("byol", "mine", ami=0.5), row("shuffled", ami=-0.003)]
    assert "AMI of −.003: about 0" in told(*rows)["Shuffled labels."]
    rows = [row("byol", "mine", ami=0.5), row("shuffled", ami=0.11)]
    assert "not about 0" in told(*rows)["Shuffled labels."]


def test_a_long_sweep_tells_its_ends():
    rows = [row("byol", f"set{i}", ami=0.1 * i) for i in range(1, 9)]
    assert {"set1.", "set8."} <= told(*rows).keys() and "set4." not in told(*rows)


def test_nothing_learned():
    assert answer([row("pixels", ami=0.5)])[0].lead == "No trained run was measured."
    assert answer([])[0].lead == "No trained run was measured."
