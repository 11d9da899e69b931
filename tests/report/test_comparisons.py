"""The page's sections on pairs of settings and on measures without labels: planted numbers, and what is left out."""

import html
import re

import numpy as np
import pytest
from scipy import stats

from ssljax.errors import UserError
from ssljax.evaluate.results import write_results
from ssljax.report import comparisons
from ssljax.report.joined import write_joined


def row(method, seed, value, evaluation="linear", metric="top1", hue=0.0, target="label"):
    return {
        **{"run": f"{method}/hue={hue},seed={seed}", "seed": seed, "hue": hue, "method": method, "backbone": "vgg11"},
        **{"dataset": "digits", "transforms": "t", "epoch": 9, "evaluation": evaluation, "target": target},
        **{"metric": metric, "value": value},
    }


def cells_of(section):
    """The text of each table cell, a list a row."""
    rows = re.findall(r"(?s)<tr.*?</tr>", section)
    return [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"(?s)<t[hd].*?</t[hd]>", line)]
        for line in rows
    ]


def test_pairs_of_methods_with_interval_and_p():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.02, 6), rng.normal(0.7, 0.02, 6)
    rows = [row(method, seed, v) for method, values in (("simclr", b), ("byol", a)) for seed, v in enumerate(values)]
    rows += [row(method, seed, 0.1, "knn") for method in ("simclr", "byol") for seed in range(6)]
    heads, found = cells_of(comparisons.pairs(rows))
    assert heads == ["Setting", "against", "Difference in linear top1", "95 % interval", "p", "Seeds"]
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    numbers = [float(x.replace("−", "-")) for x in (found[2], *found[3].split(" to "))]
    np.testing.assert_allclose(numbers, [(a - b).mean(), *interval], atol=5.1e-4)
    assert found[:2] == ["method byol", "method simclr"] and found[4:] == [".0312", "6"]  # 2 of 64 flips
    # What the study is about is what is compared.
    (heads, found) = cells_of(comparisons.pairs(rows, study_of="knn"))
    assert heads[2] == "Difference in knn top1" and found[2] == ".000"


def test_what_is_asked_for_stands_in_words_too():
    rows = [row(method, seed, v + 0.1 * hue, hue=hue) for method, v in (("simclr", 0.5), ("byol", 0.7)) for seed in (1, 2)
            for hue in (0.0, 1.0)]  # fmt: skip
    section = comparisons.pairs(rows, "method=byol vs method=simclr")
    assert section.count("linear top1 is .200 higher for method byol, hue") == 2
    assert [line[2] for line in cells_of(section)[1:]] == ["hue 0", "hue 1"]
    with pytest.raises(UserError, match="--compare: a: no run has method mira"):
        comparisons.pairs(rows, "method=mira vs method=simclr")


def test_one_seed_or_one_setting_has_no_section():
    assert comparisons.pairs([row("simclr", 1, 0.5), row("byol", 1, 0.6)]) == ""
    assert comparisons.pairs([row("simclr", seed, 0.5) for seed in (1, 2, 3)]) == ""
    assert comparisons.pairs([]) == "" and comparisons.reliabilities([]) == ""


def sweep(method="simclr", runs=12):
    """Runs whose accuracy grows with the hue; a measure goes with it, one against it, one is noise."""
    rng, rows = np.random.default_rng(3), []
    noise = rng.permutation(runs)
    for i in range(runs):
        place = dict(method=method, seed=i % 2, hue=float(i))
        rows.append(row(value=0.5 + 0.01 * i, **place))
        for metric, value in (("rankme", 10 + i), ("alignment", 1 / (1 + i)), ("collapse", float(noise[i]))):
            rows.append(row(value=value, evaluation="unlabelled", metric=metric, target="", **place))
    return rows, stats.spearmanr(noise, np.arange(runs)).statistic


def test_the_measures_that_go_with_accuracy_come_first():
    rows, rho = sweep()
    heads, *lines = cells_of(comparisons.reliabilities(rows))
    assert heads == ["Measure", "Spearman's rho", "95 % interval", "Runs", "Verdict"]
    found = {line[0]: line[1:] for line in lines}
    assert found["rankme"] == ["1.000", "1.000 to 1.000", "12", "larger goes with more accurate"]
    assert found["alignment"] == ["−1.000", "−1.000 to −1.000", "12", "smaller goes with more accurate"]
    assert float(found["collapse"][0].replace("−", "-")) == pytest.approx(rho, abs=5.1e-4)
    assert found["collapse"][-1] == "not told from chance" and lines[-1][0] == "collapse"


def test_methods_stand_apart_and_few_runs_are_left_out():
    rows = sweep("simclr")[0] + sweep("byol", 4)[0] + [row("pixels", 1, 0.9)]
    heads, *lines = cells_of(comparisons.reliabilities(rows))
    assert heads[1] == "Runs of" and {line[1] for line in lines} == {"simclr"} and len(lines) == 3
    assert comparisons.reliabilities(sweep(runs=4)[0]) == ""
    assert comparisons.reliabilities([r for r in rows if r["evaluation"] == "unlabelled"]) == ""


def test_the_joined_page_compares_across_workdirs_and_lists_every_run(tmp_path):
    for method, value in (("simclr", 0.5), ("byol", 0.75)):
        (tmp_path / method).mkdir()
        rows = [row(method, seed, value + seed / 100) for seed in (1, 2, 3)]
        write_results(tmp_path / method / "results.csv", rows)
        write_results(
            tmp_path / method / "per_class.csv", [{**one, "class": "a", "metric": "accuracy"} for one in rows]
        )
    page = write_joined(
        [tmp_path / "simclr", tmp_path / "byol"], tmp_path / "both", compare="method=byol vs method=simclr"
    )
    text = page.read_text(encoding="utf-8")
    assert "Runs of 2 workdirs" in text and "linear top1 is .250 higher for method byol than for method simclr" in text
    lines = {line[0]: line for line in cells_of(text.split("<h2>Every run")[1])}
    assert lines["byol/hue=0.0,seed=3"][1:] == ["byol", "byol", "3", ".780"]  # workdir, method, seed, accuracy
    assert len((tmp_path / "both" / "runs.csv").read_text().splitlines()) == 7
