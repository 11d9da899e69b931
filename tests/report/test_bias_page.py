"""The page of a bias study says what was planted: who rises, who falls, what is chance, what it costs; also in a browser."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy import stats

from ssljax.errors import UserError
from ssljax.evaluate.results import write_results
from ssljax.report import bias, bias_figures, bias_sweeps, bias_tables, bias_words, frame, joined
from ssljax.report.bias_data import script
from ssljax.report.joined import write_joined
from ssljax.report.page import write_page
from ssljax.report.tables import number
from ssljax.study import findings as findings_lib
from ssljax.study.chance import Chance

NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "<truck>"]
RISES, FALLS = NAMES[:3], NAMES[3:6]
SLOPES = np.array([0.6, 0.5, 0.4, -0.4, -0.5, -0.6, 0, 0, 0, 0])  # per unit of the swept value
VALUES = np.linspace(0, 0.5, 8)
SEEDS = (5, 6, 7)
ADDRESS = "color_jitter.hue"
DRAWS = 30


def rows_of(
    method,
    dataset="cifar10",
    address=ADDRESS,
    names=NAMES,
    slopes=SLOPES,
    bends=0.0,
    noise=0.01,
    evaluations=("linear",),
    metric="accuracy",
):
    """Rows of results.csv and per_class.csv whose classes have these slopes and bends; the accuracies [evaluation, V, S, C]."""
    rng = np.random.default_rng(1 + sum(map(ord, method + dataset + address)))
    results, per_class, planted = [], [], {}
    base = np.linspace(0.45, 0.75, len(names))
    for evaluation in evaluations:
        x = VALUES[:, None, None] - 0.25
        accuracy = base + slopes * x + bends * (x**2 - 0.027) + rng.normal(0, noise, (8, 3, len(names)))
        planted[evaluation] = accuracy
        for v, value in enumerate(VALUES):
            for s, seed in enumerate(SEEDS):
                shared = {"run": f"p/{address}={value:.12g},seed={seed}", "seed": seed, address: float(value)}
                shared |= {
                    "method": method,
                    "backbone": "resnet18",
                    "dataset": dataset,
                    "transforms": "crops",
                    "epoch": 9,
                }
                shared |= {"evaluation": evaluation, "target": "label"}
                results.append({**shared, "metric": "top1", "value": accuracy[v, s].mean()})
                per_class += [
                    {**shared, "class": name, "metric": metric, "value": accuracy[v, s, c]}
                    for c, name in enumerate(names)
                ]
    return results, per_class, planted


def properties(texture):
    """Rows of the evaluation `properties`: the texture of the classes, from the raw pixels."""
    shared = {
        "run": "pixels/seed=5",
        "seed": 5,
        "method": "pixels",
        "backbone": "",
        "dataset": "cifar10",
        "transforms": "",
    }
    shared |= {"epoch": 0, "evaluation": "properties", "target": "label", "metric": "texture"}
    return [{**shared, "class": name, "value": value} for name, value in zip(NAMES, texture)]


TEXTURE = np.array([9, 9.5, 10, 4, 4.5, 5.5, 6, 7, 7.5, 6.5])


def plain(text):
    return text.replace("\u00a0", " ")


def text_of(html):
    return " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(script|style).*?</\1>", "", html)).replace("&lt;", "<").split()
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One study of two methods: its folder, sections, groups and planted accuracies."""
    folder = tmp_path_factory.mktemp("bias")
    evaluations = ("linear", "linear@validation", "finetune")
    first = rows_of("simclr", evaluations=evaluations)
    second = rows_of("vicreg", slopes=np.zeros(10))  # every class flat
    per_class = first[1] + second[1] + properties(TEXTURE)
    results = first[0] + second[0]
    parts = bias.sections(per_class, results, NAMES, folder, draws=DRAWS)
    groups, left_out = bias_sweeps.groups(per_class, results, NAMES, draws=DRAWS)
    assert len(groups) == 1 and left_out == []
    return folder, parts, groups[0], first[2], second[2]


def cells(table, head):
    return next([plain(cell) for cell in row.cells] for row in table.rows if row.head == head)


def test_the_first_sentence_is_what_is_more_than_chance(made):
    _, parts, group, *_ = made
    one, flat = (sweep.runs for sweep in group.sweeps)
    # Of the planted method exactly the six classes that move are explained; nothing is of the flat one.
    assert one.moved.measured == 0.6 and flat.moved.measured <= 0.1
    assert text_of(parts[0]).startswith("Hue intensity on cifar10, resnet18: In ")
    expected = f"{bias_words.percent(one.moved.measured)} where chance alone gives {bias_words.percent(one.moved.mean)}"
    assert f"explains (F-test over seeds) are {plain(expected)}" in text_of(parts[0])
    alone = bias_words.answer([group._replace(sweeps=group.sweeps[:1])])
    assert len(alone) == 1 and "of the classes" in alone[0].lead


@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (
            Chance(0.8, 0.42, 0.1, 0.7, 0.005),
            "38 points more of the classes have an opposite partner than by chance, and ",
        ),
        (
            Chance(0.97, 0.96, 0.9, 1.0, 0.4),
            "not clearly more classes have an opposite partner than by chance, and ",
        ),
    ],
)
def test_a_share_is_more_than_chance_only_where_its_p_says_so(made, share, sentence):
    group = made[2]
    sweep = group.sweeps[0]
    (told,) = bias_words.answer([group._replace(sweeps=(sweep._replace(runs=sweep.runs._replace(share=share)),))])
    assert told.lead.startswith(f"Hue intensity on cifar10, resnet18: {sentence}")
    moved = sweep.runs.moved
    assert told.lead.endswith(
        f"{100 * (0.6 - moved.mean):.0f} points more of the classes change with the value than by chance."
    )
    span = f"{100 * share.low:.0f}–{100 * share.high:.0f} %"
    assert f"{100 * share.measured:.0f} % where chance alone gives {100 * share.mean:.0f} % ({span})" in plain(
        told.text
    )


def test_the_summary_names_who_is_helped_and_hurt_steepest_first(made):
    _, parts, group, *_ = made
    # The horse is flat: one false discovery that the test of a line makes.
    expected = "Raising hue intensity helps plane, car and bird; hurts dog, deer, cat and horse. Of the other 3 classes this test "
    expected += "tells no change from noise (24 runs)."
    assert bias_words.helps_and_hurts(group.sweeps[0], group).text == expected
    assert expected in text_of(parts[2])


def test_trends_hold_change_direction_and_explained_share(made):
    _, _, group, first, _ = made
    table = bias_tables.trend_table(group)
    for c, name in enumerate(NAMES):
        line = stats.linregress(np.repeat(VALUES, 3), first["linear"][..., c].ravel())
        change, explained = cells(table, name)[:2]
        direction = "random" if line.pvalue >= 0.05 else "ascending" if line.slope > 0 else "descending"
        assert change.startswith(f"{number(line.slope / 2, sign=True)}\n{direction}, p ")
        y = first["linear"][..., c]
        between = 3 * ((y.mean(1) - y.mean()) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        assert explained.startswith(f"{100 * between:.0f} %\nq ")


def test_opposed_pairs_are_of_one_that_rises_and_one_that_falls(made):
    _, _, group, first, _ = made
    rows = [row.cells for row in bias_tables.pair_table(group).rows if row.head == "simclr"]
    three = {"Pearson": stats.pearsonr, "Kendall": stats.kendalltau, "Spearman": stats.spearmanr}
    # Three that rise times three that fall; a flat one may come after them by accident.
    assert len(rows) >= 9
    for one, other, coefficient, _ in rows[:9]:
        assert (one in RISES) != (other in RISES) and (one in FALLS) != (other in FALLS)
        a, b = (first["linear"][..., NAMES.index(name)].ravel() for name in (one, other))
        lowest, name = min((test(a, b)[0], name) for name, test in three.items())
        assert coefficient == f"{number(lowest)}\n{name}"


def test_published_values_stand_beside_the_measured_ones_that_they_are_of(made):
    group, shared = made[2], {"backbone": "resnet18", "dataset": "cifar10", "swept": ADDRESS, "source": "a paper"}
    given = [("simclr", "linear", "opposite_classes", "97"), ("simclr", "finetune", "behave_alike", ".45")]
    given += [("", "linear", "shared_classes_5", "0"), ("", "linear", "anova_texture", "7")]
    names = ("method", "evaluation", "metric", "value")
    targets = [shared | dict(zip(names, one)) for one in given]
    targets += [{**targets[0], "dataset": "cifar100", "value": "1"}, {**targets[0], "swept": "crop", "value": "2"}]
    targets += [{**targets[0], "metric": "top1", "value": ".9", "deviation": ".01", "swept": ""}]
    row = cells(bias_tables.table6([group], targets[::-1]), "simclr")
    assert [cell.endswith("\npaper 97") for cell in row] == [True, True, False, False, False]
    assert row[4].endswith("\npaper 45 %")
    five = []
    for i in range(5):
        its = [one._replace(curves=one.curves._replace(method=f"m{i}")) for one in group.sweeps[0][1:3]]
        five.append(group.sweeps[0]._replace(runs=its[0], mean=its[1]))
    as_many = cells(bias_tables.table5([group._replace(sweeps=tuple(five))], targets), "in all 5 methods")
    assert all(cell.endswith("\npaper 0") for cell in as_many)
    # Beside fewer methods than the paper's five its counts would not compare.
    four = bias_tables.table5([group._replace(sweeps=tuple(five[:4]))], targets)
    assert not any("paper" in cell for row in four.rows for cell in row.cells)
    mean, deviation = cells(bias_tables.table4([group], targets), "simclr")
    assert mean.endswith("\npaper .900") and deviation.endswith("\npaper .010")
    assert not any("paper" in cell for cell in cells(bias_tables.table4([group], targets), "vicreg"))
    tests = [(group, group.sweeps[0], [{"property": "texture", "f": 2.5, "p": 0.2}])]
    assert cells(bias_tables.table3(tests, targets), "texture") == ["2.50*\np = .200\npaper 7.00"]
    by_f1 = bias_tables.table6([group._replace(metric="f1")], targets)  # another metric than the paper's
    assert not any("paper" in cell for row in by_f1.rows for cell in row.cells)


def test_superclasses_are_chosen_as_their_classes_and_unknown_ones_refused(made):
    group = made[2]._replace(superclasses={"cat": "pets", "dog": "pets", "ship": "vehicles"})
    assert bias._classes(["ship", "pets", "cat"], [group]) == ["ship", "cat", "dog"]
    with pytest.raises(UserError, match="--focus: unknown class 'pet'; did you mean 'pets'"):
        bias._classes(["pet"], [group])


def test_the_papers_tables_hold_the_planted_numbers(made):
    folder, parts, group, first, _ = made
    by_value = first["linear"].mean(axis=(1, 2))
    assert cells(bias_tables.table4([group]), "simclr") == [number(by_value.mean()), number(by_value.std(ddof=1))]
    one, flat = (sweep.runs.opposite.any(axis=1) for sweep in group.sweeps)
    shared = cells(bias_tables.table5([group]), "in all 2 methods")
    assert shared[0].startswith(f"{(one & flat).sum()} of 10\nchance ")
    # The fine-tuned classes have the same slopes, so the six that move behave alike for certain.
    tuned = group.sweeps[0].finetuned[0]
    same = np.mean([a == b for a, b in zip(group.sweeps[0].runs.trend.direction, tuned.trend.direction)])
    row = cells(bias_tables.table6([group]), "simclr")
    assert row[-1].startswith(f"{100 * same:.0f} %\nchance ") and same >= 0.6
    assert row[0].startswith(f"{one.sum()} of 10\n")
    direction = group.sweeps[0].runs.trend.direction
    several = [[x for x, d in zip(TEXTURE, direction) if d == name] for name in set(direction)]
    f, p = stats.f_oneway(*(part for part in several if len(part) > 1))
    assert f"{f:.2f}" in text_of(parts[3]) and p < 0.05
    with open(folder / "study_tables.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    found = {(x["table"], x["method"], x["points"], x["quantity"]): x for x in lines if x["evaluation"] == "linear"}
    assert float(found["4", "simclr", "", "overall"]["value"]) == pytest.approx(by_value.mean(), abs=1e-12)
    assert float(found["3", "simclr", "runs", "texture"]["value"]) == pytest.approx(f)
    assert float(found["chance", "simclr", "runs", "explained"]["value"]) == 0.6
    with open(folder / "study_pairs.csv", newline="") as file:
        pairs = [
            x
            for x in csv.DictReader(file)
            if (x["method"], x["evaluation"], x["points"]) == ("simclr", "linear", "mean")
        ]
    assert len(pairs) == 45
    r = np.corrcoef(first["linear"].mean(axis=1).T)
    for pair in pairs:
        expected = r[NAMES.index(pair["class"]), NAMES.index(pair["other"])]
        assert float(pair["pearson"]) == pytest.approx(expected, rel=1e-5)


def test_advice_is_chosen_on_validation_and_costed_on_test(made):
    _, parts, group, first, _ = made
    table = bias_tables.advice_table(group, ["plane", "car"])
    (row,) = table.rows
    assert row.head == "plane and car\nsimclr"
    best = int(first["linear@validation"][..., :2].mean(axis=(1, 2)).argmax())
    usual = int(first["linear@validation"].mean(axis=(1, 2)).argmax())
    assert row.cells[:2] == [f"{VALUES[best]:.4g}", f"{VALUES[usual]:.4g}"] and best == 7
    test = first["linear"]
    gain = (test[best, :, :2] - test[usual, :, :2]).mean(axis=1)
    cost = (test[best, :, 2:] - test[usual, :, 2:]).mean()
    assert row.cells[2].startswith(f"{number(gain.mean(), sign=True)} ± {number(gain.std(ddof=1))}\n")
    assert row.cells[3].startswith(number(cost, sign=True))
    # Without chosen classes it advises on those that rise and those that fall on validation images.
    heads = [row.head for row in bias_tables.advice_table(group, ()).rows]
    assert [head.split(":")[0] for head in heads] == ["classes that rise", "classes that fall"]
    for head, names in zip(heads, (RISES, FALLS)):
        assert set(names) <= set(re.split(r": |, | and |\n", head))
    assert "Advice: which hue intensity suits which classes." in text_of(parts[2])


def test_the_figures_draw_the_planted_numbers(made, monkeypatch, tmp_path):
    _, _, group, first, _ = made
    kept = []
    monkeypatch.setattr(bias_figures, "save", lambda figure, path: kept.append(figure) or path)
    sweep = group.sweeps[0]
    bias_figures.curves_figure(tmp_path / "c.png", [bias._lines(sweep, [0, 5])], "hue", "accuracy")
    lines = {line.get_label(): line for line in kept[0].axes[0].get_lines()}
    overall = first["linear"].mean(axis=(1, 2))
    np.testing.assert_allclose(lines["all classes"].get_ydata(), overall, atol=1e-12)
    bars = dict(zip(("plane", "dog"), kept[0].axes[0].containers))
    for name, bar in bars.items():
        y = first["linear"][..., NAMES.index(name)]
        np.testing.assert_allclose(bar.lines[0].get_ydata(), y.mean(axis=1), atol=1e-12)
        heights = [np.ptp(segment[:, 1]) / 2 for segment in bar.lines[2][0].get_segments()]
        np.testing.assert_allclose(heights, y.std(axis=1, ddof=1), atol=1e-9)
    share = Chance(0.8, 0.4, 0.1, 0.7, 0.01)
    bias_figures.chance_figure(tmp_path / "p.png", ["simclr"], [("opposite", [share])])
    (bar,) = kept[1].axes[0].patches
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((10, 70))
    assert [line.get_xdata()[0] for line in kept[1].axes[0].get_lines()] == pytest.approx([40, 80])


def test_classes_of_like_curves_stand_side_by_side(made):
    group = made[2]
    order = [NAMES[i] for i in bias_sweeps.clustered_order(group._replace(sweeps=group.sweeps[:1]))]
    assert sorted(order) == sorted(NAMES)
    for names in (RISES, FALLS):
        places = sorted(order.index(name) for name in names)
        assert places == list(range(places[0], places[0] + 3))


def data_of(html):
    return json.loads(re.search(r'(?s)id="bias-data">(.*?)</script>', html).group(1))


def test_the_interactive_data_is_the_planted_one(made):
    _, parts, group, first, _ = made
    (found,) = data_of(parts[-1])["groups"]
    assert found["classes"] == NAMES and "<truck>" not in parts[-1].split("bias-data")[1].split("</script>")[0]
    method = found["methods"][0]
    np.testing.assert_allclose(method["mean"], first["linear"].mean(axis=1).T, atol=5.1e-5)
    np.testing.assert_allclose(method["sd"], first["linear"].std(axis=1, ddof=1).T, atol=5.1e-5)
    np.testing.assert_allclose(method["validation"]["mean"], first["linear@validation"].mean(axis=1).T, atol=5.1e-5)
    r = np.corrcoef(first["linear"].reshape(-1, 10).T)
    np.testing.assert_allclose(np.array(method["r"]) / 100, r[np.triu_indices(10, 1)], atol=0.0051)
    assert found["methods"][1]["validation"] is None
    chosen = data_of(script([group], ["dog", "plane", "no such class"]))["groups"][0]["chosen"]
    assert chosen == [5, 0]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_in_a_browser_tables_sort_and_the_advice_is_that_of_the_table(made, tmp_path):
    _, parts, group, first, _ = made
    clicks = """<script>
      const table = document.querySelectorAll("table.sortable")[1], head = table.tHead.rows[0].cells[1];
      const column = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(",");
      head.click(); document.body.dataset.up = column();
      head.click(); document.body.dataset.down = column();
      const add = document.querySelector('select[aria-label="class"]');
      const chips = () => [...document.querySelectorAll(".chips button")];
      while (chips().length) chips()[0].click();
      const canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect();
      const move = (to, x, y) => to.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
      move(canvas, box.left + 0.95 * box.height, box.top + 0.05 * box.height); // first row, last column
      document.body.dataset.cell = canvas.parentElement.nextSibling.textContent;
      for (const c of [0, 1]) { add.value = c; add.dispatchEvent(new Event("change")); }
      const dot = document.querySelectorAll("circle")[8].getBoundingClientRect(); // the second class at the first value
      move(document.querySelector("svg"), dot.left + 3, dot.top + 3);
      document.body.dataset.point = document.querySelector(".say").textContent;
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(frame.page("A study", [*parts, clicks]), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run(["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=60).stdout
    changes = group.sweeps[0].runs.trend.slope / 2  # over a range of .5
    # The table shows three digits, and equal ones keep their order.
    expected = [NAMES[i] for i in np.argsort(np.round(changes, 3), kind="stable")]
    unescape = re.search(r'data-up="([^"]*)"', dom).group(1).replace("&lt;", "<").replace("&gt;", ">")
    assert unescape.split(",") == expected
    assert re.search(r'data-down="([^"]*)"', dom).group(1).split(",")[0] == expected[-1]
    (row,) = bias_tables.advice_table(group, ["plane", "car"]).rows
    gain, cost = (cell.split(" ")[0] for cell in row.cells[2:4])
    assert f"hue intensity {row.cells[0]} suits these classes best" in dom
    assert f"On test images that is {gain} for these classes and {cost} for the others." in dom
    data = data_of(parts[-1])["groups"][0]
    a, b = data["order"][0], data["order"][-1]
    r = np.round(group.sweeps[0].runs.found["pearson"].coefficient[a, b], 2)
    cell = re.search(r'data-cell="([^"]*)"', dom).group(1).replace("&lt;", "<").replace("&gt;", ">")
    assert cell == f"{NAMES[a]} and {NAMES[b]}: r = {number(r, 2)}"
    y = first["linear"][0, :, 1]
    assert f'data-point="car at 0: {number(y.mean())} ± {number(y.std(ddof=1))}"' in dom
    live = dom.split('class="live"')[1].split("</svg>")[0]
    assert live.count("<polyline") == 3  # the two classes, and all of them together
    assert live.count("<circle") == 2 * len(VALUES)


def test_superclasses_are_drawn_and_advised_on(tmp_path):
    results, per_class, planted = rows_of("simclr", evaluations=("linear", "linear@validation"))
    above = {name: "rising" if name in RISES else "other" for name in NAMES}
    parts = bias.sections(per_class, results, NAMES, tmp_path, superclasses=above, draws=2)
    assert (tmp_path / "figures" / "bias_superclasses_0.png").exists()
    (group,), _ = bias_sweeps.groups(per_class, results, NAMES, above, draws=2)
    mean = bias_sweeps.class_means(group.sweeps[0].superclass)[0]
    at = group.sweeps[0].superclass.classes.index("rising")
    np.testing.assert_allclose(mean[:, at], planted["linear"][..., :3].mean(axis=(1, 2)), atol=1e-12)
    heads = [row.head for row in bias_tables.advice_table(group, ()).rows]
    assert heads == ["other\nsimclr", "rising\nsimclr"]
    assert data_of(parts[-1])["groups"][0]["superclasses"]["rising"] == [0, 1, 2]


def test_findings_have_verdicts():
    def verdicts(*rows, tests=()):
        groups, _ = bias_sweeps.groups([row for each in rows for row in each[1]], [], draws=DRAWS)
        sweeps = [sweep.runs for group in groups for sweep in group.sweeps]
        measured = [findings_lib.Measured(one, tests) for one in sweeps]
        return [finding.verdict for finding in findings_lib.findings(measured)]

    seen, not_seen, unknown = findings_lib.SEEN, findings_lib.NOT_SEEN, findings_lib.NOT_MEASURED
    hue = rows_of("simclr")
    assert verdicts(hue) == [seen, unknown, unknown, unknown, unknown]
    # All classes rise together: the overall accuracy does too.
    assert verdicts(rows_of("simclr", slopes=np.full(10, 0.5)))[0] == not_seen
    crops = {"address": "random_resized_crop.area_low", "dataset": "cifar100"}
    names = ["caterpillar", "crocodile", *NAMES[2:]]
    falls_first = np.array([-0.5, 0.5, *np.zeros(8)])
    assert verdicts(rows_of("vicreg", names=names, slopes=falls_first, **crops))[1] == seen
    assert verdicts(rows_of("vicreg", names=names, slopes=-falls_first, **crops))[1] == not_seen
    assert verdicts(rows_of("byol", names=names, slopes=falls_first, **crops))[1] == unknown
    more = rows_of("simclr", dataset="cifar100", slopes=np.where(SLOPES == 0, 0.8, 1.5 * SLOPES))
    less = rows_of("simclr", dataset="cifar100", slopes=np.zeros(10))
    assert verdicts(hue, more)[2] == seen and verdicts(hue, less)[2] == not_seen
    # As strong an effect is not stronger, however few images blur it: what a test finds is not what there is.
    blurred = rows_of("simclr", noise=0.05)
    assert verdicts(blurred, rows_of("simclr", dataset="cifar100"))[2] == not_seen
    goes = [{"property": name, "f": 9.0, "p": 0.001} for name in ("intrinsic_dimension", "texture", "fourier")]
    assert verdicts(hue, tests=goes)[3:] == [seen, unknown]
    against = [{**test, "p": 0.2} for test in goes]
    assert verdicts(rows_of("simclr", address="random_resized_crop.area_low"), tests=against)[3:] == [unknown, not_seen]


def test_workdirs_are_joined(tmp_path):
    for method in ("simclr", "vicreg"):
        results, per_class, _ = rows_of(method)
        (tmp_path / method).mkdir()
        write_results(tmp_path / method / "per_class.csv", per_class)
        if method == "simclr":  # the other is as another program might leave it
            write_results(tmp_path / method / "results.csv", results)
    page = write_joined([tmp_path / "simclr", tmp_path / "vicreg"], tmp_path / "both", draws=DRAWS)
    text = text_of(page.read_text(encoding="utf-8"))
    assert "in all 2 methods" in text and f"{tmp_path / 'vicreg'} 24 runs" in text
    assert [m["name"] for m in data_of(page.read_text(encoding="utf-8"))["groups"][0]["methods"]] == [
        "simclr",
        "vicreg",
    ]
    shutil.copytree(tmp_path / "simclr", tmp_path / "again")
    both = r"simclr and .*again both hold simclr on cifar10, color_jitter.hue 0.0, seed 5"
    with pytest.raises(UserError, match=both):
        write_joined([tmp_path / "simclr", tmp_path / "again"], tmp_path / "both")
    with pytest.raises(UserError, match="expected each workdir once"):
        write_joined([tmp_path / "simclr", tmp_path / "simclr"], tmp_path / "both")


def test_a_page_leads_with_the_study_and_says_what_is_left_out(tmp_path):
    results, per_class, _ = rows_of("simclr")
    byol = rows_of("byol")[1]
    hurt = [row for row in byol if row[ADDRESS] in {5: VALUES[:2], 6: VALUES[2:4], 7: VALUES[4:6]}[row["seed"]]]
    # Of the third method a value lacks two seeds.
    hurt += [row for row in rows_of("vicreg")[1] if row["seed"] == 5 or row[ADDRESS] != VALUES[3]]
    write_results(tmp_path / "per_class.csv", per_class + hurt)
    write_results(tmp_path / "results.csv", results)
    settings = {"images": None, "class_names": NAMES, "title": "A sweep", "command": "python run.py", "config_rows": []}
    html = write_page(tmp_path, **settings, choose=["dog"]).read_text(encoding="utf-8")
    text = text_of(html)
    assert text.index("than by chance") < text.index("The table") < text.index("How much is more than chance")
    assert "A linear probe is right" not in text  # there is nothing to compare it with
    assert "Left out: linear accuracy of byol" in text and "no seed has 3 of the 6 values" in text
    assert (
        "Left out: linear accuracy of vicreg" in text and f"{ADDRESS} {VALUES[3]:g}: 2 of 3 seeds have no run" in text
    )
    with open(tmp_path / "study_classes.csv", newline="") as file:
        kept = {(row["method"], row["values"], row["seeds"]) for row in csv.DictReader(file)}
    assert kept == {("simclr", "8", "3"), ("vicreg", "7", "3")}
    assert data_of(html)["groups"][0]["chosen"] == [5]
    assert "http://" not in re.sub(r"http://www.w3.org/2000/svg", "", html) and "https://" not in html
    # Two values are no sweep.
    two = [row for row in per_class if row[ADDRESS] in VALUES[:2]]
    assert bias.sections(two, [], NAMES, tmp_path) == []


def test_where_every_sweep_is_left_out_the_reason_is_said(tmp_path):
    results, per_class, _ = rows_of("simclr", names=NAMES[:1], slopes=0.5)
    before, section, after = bias.sections(per_class, results, NAMES, tmp_path)
    assert before == after == ""
    reason = "given 1 class, expected at least 2"
    assert "Left out: linear accuracy of simclr" in section and reason in section
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        write_results(folder / "per_class.csv", per_class)
        write_results(folder / "results.csv", results)
    settings = {"images": None, "class_names": NAMES[:1], "title": "", "command": "", "config_rows": []}
    text = text_of(write_page(tmp_path, **settings).read_text(encoding="utf-8"))
    # The page is then that of a study without sweeps, and says why.
    assert "A linear probe is right" in text and "Class by class" in text and text.count(reason) == 1
    joined_page = text_of(write_joined([tmp_path / "a"], tmp_path / "joined").read_text(encoding="utf-8"))
    assert "Runs of a" in joined_page and joined_page.count(reason) == 1 and "Every run" in joined_page
    assert (tmp_path / "joined" / "runs.csv").read_text().count("\n") == 1 + len({row["run"] for row in results})
    (tmp_path / "a" / "results.csv").unlink()
    with pytest.raises(UserError, match=f"a: linear accuracy of simclr.*{reason}"):
        write_joined([tmp_path / "a"], tmp_path / "none")


def test_a_class_that_bends_goes_neither_up_nor_down():
    bends = np.array([0, 0, 0, -4, 0, 0, 0, 0, 0, 0])
    _, per_class, planted = rows_of("simclr", slopes=np.array([0.6, *np.zeros(9)]), bends=bends)
    (group,), _ = bias_sweeps.groups(per_class, [], NAMES, draws=2)
    best = VALUES[planted["linear"][..., 3].mean(axis=1).argmax()]
    assert abs(best - 0.25) < 0.04
    assert bias_words.helps_and_hurts(group.sweeps[0], group).text == (
        f"Raising hue intensity helps plane; changes cat, neither up nor down (best near {best:.3g}). Of the other 8 classes this "
        "test tells no change from noise (24 runs)."
    )
    bends[5] = 4  # best at an end
    _, per_class, planted = rows_of("simclr", slopes=np.zeros(10), bends=bends)
    (group,), _ = bias_sweeps.groups(per_class, [], NAMES, draws=2)
    at = {c: VALUES[planted["linear"][..., c].mean(axis=1).argmax()] for c in (3, 5)}
    assert at[5] in (0, 0.5)
    told = bias_words.helps_and_hurts(group.sweeps[0], group).text
    assert "changes, neither up nor down, " in told
    assert f"cat (best near {at[3]:.3g})" in told and f"dog (best near {at[5]:.3g})" in told
    # By the table: two of ten classes are explained by the value, none rises or falls.
    row = cells(bias_tables.chance_table([group]), "simclr")
    assert row[:2] == ["8", "3"]
    assert row[5].startswith("20 %\nchance ") and row[6].startswith("0 %\nchance ")
    twice = group._replace(sweeps=(group.sweeps[0]._replace(validation=group.sweeps[0].runs.curves),))
    assert list(bias_tables._advised(twice, twice.sweeps[0], ())) == [
        ("classes that change, neither up nor down: cat and dog", ["cat", "dog"])
    ]


def test_each_sweep_is_studied_by_what_it_has(tmp_path):
    both = rows_of("simclr", evaluations=("knn", "linear"))
    nearest = rows_of("byol", evaluations=("knn", "knn@validation"))
    by_f1 = rows_of("vicreg", evaluations=("linear",), metric="f1")
    per_class = [*both[1], *nearest[1], *by_f1[1]]
    text = " ".join(map(text_of, bias.sections(per_class, [], NAMES, tmp_path, draws=2)))
    assert "Hue intensity on cifar10, resnet18, nearest-neighbour evaluation, accuracy" in text
    assert "Hue intensity on cifar10, resnet18, linear evaluation, f1" in text
    assert "vicreg: overall f1 lies between" in text and "dashed, the f1 over all classes" in text
    with open(tmp_path / "study_classes.csv", newline="") as file:
        found = {(x["method"], x["evaluation"], x["metric"], x["class"]): x for x in csv.DictReader(file)}
    measures = {key[:3] for key in found}
    assert measures == {("simclr", "linear", "accuracy"), ("byol", "knn", "accuracy"), ("vicreg", "linear", "f1")}
    for (method, evaluation, _, name), row in found.items():
        planted = {"simclr": both, "byol": nearest, "vicreg": by_f1}[method][2][evaluation]
        assert float(row["accuracy"]) == pytest.approx(planted[..., NAMES.index(name)].mean(), rel=1e-5)
    groups, _ = bias_sweeps.groups(per_class, [], NAMES, draws=2, study_of="knn")
    by_knn = [(group.evaluation, [sweep.label for sweep in group.sweeps]) for group in groups]
    assert by_knn == [("knn", ["simclr", "byol"]), ("linear", ["vicreg"])]
    np.testing.assert_array_equal(groups[0].sweeps[0].runs.curves.accuracy, both[2]["knn"])
    validation = bias_sweeps.groups(per_class, [], NAMES, draws=2, study_of="knn@validation")[0]
    assert [group.evaluation for group in validation] == ["linear", "knn@validation", "linear"]
    for asked, message in (
        ("kmeans", "--study_of: no sweep has an evaluation 'kmeans'; there is knn, linear, knn@validation"),
        ("knn:f1", "--study_of: knn has no metric 'f1'; there is accuracy"),
    ):
        with pytest.raises(UserError, match=message):
            bias_sweeps.groups(per_class, [], NAMES, draws=2, study_of=asked)


def test_one_seed_has_no_test_over_seeds(tmp_path):
    results, per_class, _ = rows_of("simclr")
    alone = [row for row in per_class if row["seed"] == 5]
    parts = bias.sections(alone, results, NAMES, tmp_path, draws=5)
    (group,), _ = bias_sweeps.groups(alone, results, NAMES, draws=5)
    row = cells(bias_tables.chance_table([group]), "simclr")
    assert row[:2] == ["8", "1"] and "chance" in row[2] and row[5:] == ["–", "–"]
    assert "With a single seed the F-test over seeds cannot be made." in text_of(parts[0])
    quantities = {line[9] for line in bias_tables.csv_lines([group], []) if line[0] == "chance"}
    assert quantities == {"opposite_partner", "opposite_partner_corrected"}
    # Beside a sweep of three seeds, only that one counts among those that were tested.
    answer = bias_words.answer([group, bias_sweeps.groups(per_class, [], NAMES, draws=DRAWS)[0][0]])
    assert "and in 1 of 1 more change with the swept value" in answer[0].lead


def test_the_chance_figure_leaves_out_what_was_not_measured(monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(bias_figures, "save", lambda figure, path: kept.append(figure) or path)
    share, nothing = Chance(0.8, 0.4, 0.1, 0.7, 0.01), Chance(*(float("nan"),) * 5)
    some = [("opposite", [share, share]), ("explained", [nothing, share]), ("directed", [nothing, nothing])]
    bias_figures.chance_figure(tmp_path / "p.png", ["a", "b"], some)
    assert [axis.get_title() for axis in kept[0].axes] == ["opposite", "explained"]
    points = kept[0].axes[1].get_lines()[1].get_xdata()
    assert np.isnan(points[0]) and points[1] == pytest.approx(80)


def test_what_noise_alone_explains(made):
    group = made[2]
    y = np.random.default_rng(0).normal(size=(8, 3, 20_000))
    between = 3 * ((y.mean(axis=1) - y.mean(axis=(0, 1))) ** 2).sum(axis=0)
    share = (between / ((y - y.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1))).mean()
    assert share == pytest.approx(7 / 23, abs=0.003)
    assert plain(bias_words.noise_explains(group)).endswith("on average: 30 % for 8 values and 3 seeds.")


def test_classes_are_those_of_all_methods_and_numbers_stand_in_order():
    numbers = [str(i) for i in (10, 9, 2, 100, 1, 30, 4, 5, 6, 7)]
    first, second = rows_of("simclr", names=numbers), rows_of("byol", names=numbers)
    fewer = [row for row in second[1] if row["class"] not in ("9", "100")]
    (group,), notes = bias_sweeps.groups([*first[1], *fewer], [], draws=2)
    expected = [name for name in ("1", "2", "4", "5", "6", "7", "10", "30")]
    assert notes == [
        f"linear accuracy over {ADDRESS} (cifar10): 9, 100 are classes of some methods only; compared are the 8 of all"
    ]
    for sweep, planted in zip(group.sweeps, (first[2], second[2])):
        assert list(sweep.runs.curves.classes) == expected
        order = [numbers.index(name) for name in expected]
        np.testing.assert_array_equal(sweep.runs.curves.accuracy, planted["linear"][..., order])
    # A class that no validation image is of keeps the advice on the others.
    results, per_class, planted = rows_of("simclr", evaluations=("linear", "linear@validation"))
    lacking = [row for row in per_class if row["class"] != "cat" or row["evaluation"] == "linear"]
    (group,), notes = bias_sweeps.groups(lacking, results, NAMES, draws=2)
    assert len(notes) == 1 and notes[0].endswith("no image of cat")
    (row,) = bias_tables.advice_table(group, ["plane", "cat"]).rows
    assert row.cells[0] == f"{VALUES[planted['linear@validation'][..., 0].mean(axis=1).argmax()]:.4g}"
    mean = data_of(script([group], []))["groups"][0]["methods"][0]["validation"]["mean"]
    assert mean[3] is None and mean[4] == pytest.approx(planted["linear@validation"][..., 4].mean(axis=1), abs=5.1e-5)


def test_sweeps_are_labelled_by_what_tells_them_apart(made):
    one = made[2].sweeps[0].runs.curves
    a, b = one._replace(variant="epoch 9"), one._replace(variant="epoch 99")
    assert bias_sweeps._labels([a, b]) == ["simclr, epoch 9", "simclr, epoch 99"]
    assert bias_sweeps._labels([a, one._replace(method="byol", variant="x")]) == ["simclr", "byol"]
    other = one._replace(transforms="flips")
    assert bias_sweeps._labels([one, other]) == ["simclr, crops", "simclr, flips"]
    assert bias_sweeps._labels([a, b, other])[:2] == ["simclr, crops, epoch 9", "simclr, crops, epoch 99"]


def test_superclasses_that_fit_no_sweep_are_refused():
    _, per_class, _ = rows_of("simclr")
    above = {name: "thing" if i % 2 else "other" for i, name in enumerate(NAMES[:-1])}
    with pytest.raises(UserError, match=r"--superclasses: class '<truck>' of cifar10 has none \(1 of the 10 classes"):
        bias_sweeps.groups(per_class, [], NAMES, above, draws=2)


def workdir(folder, rows, results=()):
    folder.mkdir(parents=True)
    write_results(folder / "per_class.csv", rows)
    if results:
        write_results(folder / "results.csv", results)
    return folder


def test_a_joined_run_counts_with_the_last_epoch_of_its_own_workdir(tmp_path):
    """The same run in two workdirs, of which one trained longer: two sweeps, each with its own overall accuracy."""
    short, long = rows_of("simclr"), rows_of("simclr", slopes=-SLOPES)
    early = [{**row, "epoch": 5} for row in short[1]]
    later = [[{**row, "epoch": 20} for row in rows] for rows in long[:2]]
    middle = [{**row, "epoch": 10, "value": 0.5} for row in long[1]]  # of the longer one, passed over
    a = workdir(tmp_path / "a", early, [{**row, "epoch": 5} for row in short[0]])
    b = workdir(tmp_path / "b", [*middle, *later[1]], later[0])
    page = write_joined([a, b], tmp_path / "both", class_names=NAMES, draws=2).read_text(encoding="utf-8")
    methods = data_of(page)["groups"][0]["methods"]
    assert [one["name"] for one in methods] == ["simclr, epoch 5", "simclr, epoch 20"]
    for one, planted in zip(methods, (short[2], long[2])):
        np.testing.assert_allclose(one["mean"], planted["linear"].mean(axis=1).T, atol=5.1e-5)
        np.testing.assert_allclose(one["overall"], planted["linear"].mean(axis=(1, 2)), atol=5.1e-5)


def test_rows_to_compare_with_stand_once_unless_they_differ(tmp_path):
    def encoder(value):
        shared = {"run": "pretrained/seed=5", "method": "pretrained", "backbone": "resnet50", "metric": "fourier"}
        return [{**row, **shared, "value": value + i} for i, row in enumerate(properties(TEXTURE))]

    a = workdir(tmp_path / "a", [*rows_of("simclr")[1], *properties(TEXTURE), *encoder(1)])
    b = workdir(tmp_path / "b", [*rows_of("byol")[1], *properties(TEXTURE), *encoder(2)])
    rows = joined._joined([a, b], "per_class.csv")
    assert sum(row["metric"] == "texture" for row in rows) == 10
    values = {}
    for row in rows:
        if row["method"] == "pretrained":
            values.setdefault(row["run"], []).append(row["value"])
    assert values == {"pretrained/seed=5": list(range(1, 11)), "b/pretrained/seed=5": list(range(2, 12))}


def test_workdirs_are_told_apart_by_the_folders_above(tmp_path, monkeypatch):
    places = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "y" / "other"]
    assert joined.told_apart(places[1:]) == ["run", "other"]
    assert joined.told_apart(places) == ["x-run", "y-run", "y-other"]
    workdir(places[0], rows_of("simclr")[1])
    monkeypatch.chdir(places[0])
    assert joined.told_apart([joined.Path(".")]) == ["run"]
    page = write_joined(["."], "study", draws=2).read_text(encoding="utf-8")
    assert "<title>Bias study of run</title>" in page
