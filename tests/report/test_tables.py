"""Summaries against numpy, labels, the text table and published values."""

import csv

import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.report import tables

AMI = ("kmeans", "label", "ami")


def row(value, seed=5, transforms="mnist_first", method="mocov2plus", **changes):
    base = {
        **{"run": f"{method}-{transforms}/seed={seed}", "seed": seed, "method": method, "backbone": "vgg11"},
        **{
            "dataset": "digits",
            "transforms": transforms,
            "epoch": 20,
            "evaluation": "kmeans",
            "target": "label",
        },
        **{"metric": "ami", "value": value},
    }
    return base | changes


def test_means_and_deviations_are_numpys(study):
    rows = tables.summary(study.results)
    assert [r.setting.method for r in rows] == ["mocov2plus", "mocov2plus", "pixels", "random", "shuffled"]
    assert [r.setting.transforms for r in rows] == ["mnist_first", "mnist_second", "", "", ""]
    checked = 0
    for found in rows[:4]:
        for (evaluation, target, metric), stat in found.stats.items():
            values = [
                r["value"]
                for r in study.results
                if r["run"] in found.runs
                and (r["evaluation"], r["target"], r["metric"]) == (evaluation, target, metric)
            ]
            assert len(values) == stat.n == 3
            assert stat.mean == pytest.approx(np.mean(values), abs=1e-12)
            assert stat.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            checked += 1
    assert checked == 4 * (3 + 2 * 4)
    learned = [r["value"] for r in study.results if r["target"] == "shuffled" and r["method"] == "mocov2plus"]
    assert rows[4].stats[AMI].mean == pytest.approx(np.mean(learned)) and rows[4].stats[AMI].n == 6


def test_last_epoch_one_seed_and_nan():
    rows = [row(0.1, epoch=10), row(0.7), row(float("nan"), seed=6)]
    (found,) = tables.summary(rows)
    assert found.stats[AMI] == tables.Stat(0.7, None, 1)
    assert tables.cell(found.stats[AMI], len(found.runs)) == ".700 (n=1)"
    (nothing,) = tables.summary([row(float("nan"))])
    assert tables.cell(nothing.stats[AMI], 1) == "–"


def test_swept_values_make_rows_and_baselines_ignore_them():
    rows = [row(0.5, run=f"r{hue}", **{"hue": hue}) for hue in (0.0, 0.25)]
    rows += [row(0.3, method="random", run="u", hue=None), row(0.2, method="pixels", backbone="x", run="p")]
    found = tables.summary(rows)
    assert [r.setting.swept for r in found] == [(("hue", 0.0),), (("hue", 0.25),), (), ()]
    assert [tables.full_label(label) for label in tables.labels(found)] == [
        "First set (mnist_first, hue 0)",
        "First set (mnist_first, hue 0.25)",
        "Raw pixels",
        "Untrained encoder",
    ]


def test_baselines_of_different_images_are_rows_of_their_own():
    rows = [
        row(value, method=method, run=f"{method}-{compound}", compound=compound, transforms=transforms)
        for method, transforms in (("mocov2plus", "mine"), ("random", ""))
        for compound, value in (("taxol", 0.5), ("nocodazole", 0.25))
    ]
    found = tables.summary(rows)
    labels = [tables.full_label(label) for label in tables.labels(found)]
    assert {label: row.stats[AMI].mean for label, row in zip(labels, found, strict=True)} == {
        "mocov2plus (compound taxol)": 0.5,
        "mocov2plus (compound nocodazole)": 0.25,
        "Untrained encoder (compound taxol)": 0.5,
        "Untrained encoder (compound nocodazole)": 0.25,
    }


def test_labels_tell_only_what_differs():
    rows = [
        row(0.1, transforms="mine"),
        row(0.2, transforms="mine", method="byol"),
        row(0.3, transforms="mine", method="byol", backbone="resnet18", run="x"),
    ]
    labels = [tables.full_label(label) for label in tables.labels(tables.summary(rows))]
    assert labels == ["mine (mocov2plus, vgg11)", "mine (byol, vgg11)", "mine (byol, resnet18)"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8124, ".812"), (-0.0044, "−.004"), (1.0, "1.000"), (0.9996, "1.000"), (-0.0001, ".000")]
    + [(12.5, "12.5"), (float("nan"), "–"), (10.0, "10.0"), (1380.2, "1380"), (9.9996, "10.000"), (-1.5, "−1.500")],
)
def test_number(value, text):
    assert tables.number(value) == text


def test_signed_number():
    assert [tables.number(v, sign=True) for v in (0.05, -0.05, 1.25)] == ["+.050", "−.050", "+1.250"]


def test_text_table():
    rows = [
        row(0.80, 5),
        row(0.90, 6),
        row(0.4, 5, "mnist_second"),
        row(0.25, method="pixels", transforms=""),
    ]
    rows += [row(-0.002, 5, target="shuffled")]
    targets = [
        {
            "transforms": "mnist_first",
            "method": "",
            "backbone": "vgg11",
            "evaluation": "kmeans",
            "target": "label",
        }
        | {"metric": "ami", "value": "0.83", "source": "Table 1"}
    ]
    text = tables.format_text(tables.summary(rows), targets, [tables.Column("AMI", AMI)])
    assert text.splitlines() == [
        "                                    AMI  seeds",
        "First set (mnist_first)     .850 ± .071      2",
        "  published                 .830",
        "Second set (mnist_second)   .400             1",
        "Raw pixels                  .250             1",
        "Shuffled labels            −.002",
    ]


def test_targets_fit_only_their_rows(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text(
        "transforms,method,backbone,evaluation,target,metric,value,source\n"
        "mnist_first,mocov2plus,vgg11,kmeans,label,ami,.83,Table 1\n"
        "mnist_first,,,linear,label,top1,.996,Table 1\n"
    )
    targets = tables.read_targets(path)
    first, second, pixels = tables.summary(
        [row(0.1), row(0.1, transforms="mnist_second"), row(0.1, method="pixels", transforms="mnist_first")]
    )
    assert tables.published(first, AMI, targets) == (0.83, "Table 1")
    assert tables.published(first, ("linear", "label", "top1"), targets) == (0.996, "Table 1")
    assert tables.published(first, ("linear", "label", "f1"), targets) is None
    assert tables.published(second, AMI, targets) is None
    assert tables.published(pixels, AMI, targets) is None
    heads = ",".join(tables.TARGET_COLUMNS)
    for bad, says in (
        ("\na,b,c,d,e,f,high,g", "row 2, column value: given 'high', expected a number"),
        (",more\na,b,c,d,e,f,1,g", None),
    ):
        path.write_text(heads + bad)
        if says is None:
            assert tables.read_targets(path)[0]["value"] == "1"
            continue
        with pytest.raises(UserError, match=says):
            tables.read_targets(path)
    path.write_text(heads.replace("source", "origin") + "\na,b,c,d,e,f,1,g")
    with pytest.raises(UserError, match="targets.csv: column source is missing"):
        tables.read_targets(path)


def test_table_csv_holds_every_mean(study, tmp_path):
    rows = tables.summary(study.results)
    tables.write_table_csv(tmp_path / "table.csv", rows)
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(r.stats) for r in rows)
    ami = {
        (line["method"], line["transforms"]): float(line["mean"])
        for line in lines
        if (line["evaluation"], line["target"], line["metric"]) == AMI
    }
    assert ami == {(r.setting.method, r.setting.transforms): r.stats[AMI].mean for r in rows}


def test_a_column_that_was_asked_for_says_why_it_is_empty(tmp_path):
    """Of two trained rows one has the measure, which is scored against no label; baselines have none to have."""
    rows = [
        *(row(0.8), row(0.4, transforms="mnist_second"), row(0.25, method="pixels", transforms="")),
        row(0.33, evaluation="views", target="", metric="lpips"),
    ]
    target = {"transforms": "mnist_second", "method": "", "backbone": "", "evaluation": "views", "target": ""}
    targets = [target | {"metric": "lpips", "value": "0.51", "source": "Table 1"}]
    column = tables.LPIPS._replace(absent="weights not given", note="LPIPS: where they are.")
    found = tables.summary(rows)
    text = tables.format_text(found, targets, [tables.Column("AMI", AMI), column])
    assert text.splitlines() == [
        "                                   AMI              LPIPS  seeds",
        "First set (mnist_first)    .800               .330             1",
        "Second set (mnist_second)  .400         weights not given      1",
        "  published                                   .510",
        "Raw pixels                 .250                  –             1",
        "LPIPS: where they are.",
    ]
    tables.write_table_csv(tmp_path / "table.csv", found, targets, [column])
    with open(tmp_path / "table.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] == "lpips"]
    told = [
        (x["transforms"], x["evaluation"], x["target"], x["mean"], x["n"], x["published"], x["note"]) for x in lines
    ]
    assert told == [
        ("mnist_first", "views", "", "0.33", "1", "", ""),
        ("mnist_second", "views", "", "", "0", "0.51", "weights not given"),
    ]
