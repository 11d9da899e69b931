"""The table of every run of several workdirs: which settings it shows, its numbers, and its plot in a browser."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ssljax.errors import UserError
from ssljax.evaluate.results import write_results
from ssljax.report import frame, runs_table

MEASURES = ("linear top1", "kmeans plate ami", "features rankme")


def rows_of(program, seed, epoch=20, method="simclr", transforms="crop", backbone="vgg11", value=0.0, **swept):
    """A run's rows: three measures, value and multiples of it."""
    label = "".join(f"{address}={number}," for address, number in swept.items())
    run = {"run": f"{program}/{label}seed={seed}", "seed": seed, **swept, "method": method, "backbone": backbone}
    run |= {"dataset": "digits", "transforms": transforms, "epoch": epoch}
    told = (("linear", "label", "top1", 1), ("kmeans", "plate", "ami", -1), ("features", "", "rankme", 100))
    return [
        {**run, "evaluation": e, "target": t, "metric": m, "value": times * (value + seed / 1000)}
        for e, t, m, times in told
    ]


def config(**settings):
    """A resolved config as run.json has it."""
    usual = {
        "dataset": "digits",
        "method": "simclr",
        "backbone": "vgg11",
        "transforms": "crop",
        "second_transforms": "",
    }
    usual |= {"width": 0.25, "learning_rate": 0.001, "temperature": 0.2, "queue_size": None, "seeds": [5, 6]}
    return usual | {"sweep": [], "set": [], "run_axis": "map", "cache_dir": "/somewhere"} | settings


@pytest.fixture
def workdirs(tmp_path):
    """A sweep of a hue with baselines, and two programs of another width, method and hue by --set."""
    first, second = tmp_path / "sweep", tmp_path / "methods"
    rows = []
    for hue, value in ((0.0, 0.7), (0.5, 0.9)):
        for seed in (5, 6):
            own = {"value": value, "color_jitter.hue": hue}
            rows += rows_of("simclr", seed, epoch=10, **{**own, "value": 0.111}) + rows_of("simclr", seed, **own)
    rows += rows_of("pixels", 5, 0, "pixels", "", "", 0.3) + rows_of("random", 5, 0, "random", "", value=0.4)
    first.mkdir()
    write_results(first / "results.csv", rows)
    one = config(sweep=["color_jitter.hue=0,0.5"])
    (first / "run.json").write_text(json.dumps({"configs": [one]}))
    second.mkdir()
    rows = rows_of("simclr", 5, value=0.8) + rows_of("<byol>", 5, method="byol", value=0.85)
    write_results(second / "results.csv", rows)
    byol = config(method="byol", width=0.5, temperature=None, queue_size=64, run_axis="vmap")
    simclr = config(width=0.5, set=["color_jitter.hue=0.1"], learning_rate=1e-6)
    (second / "run.json").write_text(json.dumps({"configs": [simclr, byol]}))
    return [first, second]


class Cells(HTMLParser):
    """The rows of the table, as lists of text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")


def test_settings_that_differ_and_measures_of_the_last_epoch(workdirs, tmp_path):
    heads, *rows = Cells(runs_table.table(workdirs, tmp_path)).rows
    # The queue size is byol's alone and one number, the temperature simclr's; the rest is equal or not what was trained.
    settings = {"method", "width", "learning_rate", "color_jitter.hue"}
    assert heads[:2] == ["Run", "workdir"] and heads[-4:] == ["seed", *MEASURES]
    assert set(heads[2:-4]) == settings
    found = {row[0]: dict(zip(heads[1:], row[1:])) for row in rows if row[1] == "sweep"}
    assert found["simclr/color_jitter.hue=0.5,seed=6"] == {
        **{
            "workdir": "sweep",
            "method": "simclr",
            "width": "0.25",
            "learning_rate": "0.001",
            "color_jitter.hue": "0.5",
        },
        **{"seed": "6", "linear top1": ".906", "kmeans plate ami": "−.906", "features rankme": "90.6"},
    }
    other = {row[0]: dict(zip(heads[1:], row[1:])) for row in rows if row[1] == "methods"}
    assert other["simclr/seed=5"]["color_jitter.hue"] == "0.1"  # by --set
    assert other["simclr/seed=5"]["learning_rate"] == "1e-06"
    assert other["<byol>/seed=5"]["color_jitter.hue"] == "–" and other["<byol>/seed=5"]["width"] == "0.5"
    assert [row[0] for row in rows[-2:]] == ["pixels/seed=5", "random/seed=5"]  # after the trained ones
    assert set(rows[-1][3:-4]) == {"–"} and rows[-1][-3] == ".405"


def test_the_csv_has_every_digit_and_what_csv_readers_expect(workdirs, tmp_path):
    runs_table.table(workdirs, tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["workdir"] for row in rows} == {"sweep", "methods"}
    (run,) = (row for row in rows if row["run"] == "simclr/color_jitter.hue=0.5,seed=6")
    assert float(run["linear top1"]) == 0.9 + 6 / 1000 and float(run["kmeans plate ami"]) == -(0.9 + 6 / 1000)
    assert (run["color_jitter.hue"], run["width"], run["seed"]) == ("0.5", "0.25", "6")
    (byol,) = (row for row in rows if row["method"] == "byol")
    assert byol["color_jitter.hue"] == "" and float(byol["features rankme"]) == 100 * (0.85 + 5 / 1000)


def test_one_workdir_without_run_json(workdirs, tmp_path):
    (workdirs[0] / "run.json").unlink()
    heads, *rows = Cells(runs_table.table(workdirs[:1], tmp_path)).rows
    assert heads == ["Run", "color_jitter.hue", "seed", *MEASURES]
    assert len(rows) == 6


def test_programs_that_no_column_tells_apart_have_only_what_they_agree_in(tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    write_results(workdir / "results.csv", rows_of("w-a", 5) + rows_of("w-b", 5) + rows_of("c", 5, method="byol"))
    configs = [config(width=1.0), config(width=2.0), config(method="byol", width=3.0, learning_rate=9.0)]
    (workdir / "run.json").write_text(json.dumps({"configs": configs}))
    found = {run.name: run.settings for run in runs_table.runs([workdir])}
    assert "width" not in found["w-a/seed=5"] and found["w-b/seed=5"]["learning_rate"] == 0.001
    assert found["c/seed=5"]["width"] == 3.0
    # A column that tells of it decides.
    rows = rows_of("w-a", 5, width=1.0) + rows_of("w-b", 5, width=2.0)
    write_results(workdir / "results.csv", rows)
    (workdir / "run.json").write_text(
        json.dumps({"configs": [config(width=1.0), config(width=2.0, learning_rate=0.5)]})
    )
    found = {run.name: run.settings for run in runs_table.runs([workdir])}
    assert [found[f"w-{x}/width={n}.0,seed=5"]["learning_rate"] for x, n in (("a", 1), ("b", 2))] == [0.001, 0.5]


def test_two_losses_are_one_runs(tmp_path):
    rows = rows_of("two", 5, method="simclr & byol", transforms="crop & flip")
    write_results(tmp_path / "results.csv", rows)
    second = {"second_transforms": "flip", "second_method": "byol", "width": 0.7}
    (tmp_path / "run.json").write_text(json.dumps({"configs": [config(**second), config(width=0.9)]}))
    (run,) = runs_table.runs([tmp_path])
    assert run.settings["width"] == 0.7


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_in_a_browser_any_two_columns_are_drawn_and_the_table_sorts(workdirs, tmp_path):
    section = runs_table.table(workdirs, tmp_path)
    assert "<byol>" not in section
    clicks = """<script>
      const [up, across] = document.querySelectorAll("[data-runs] select"), said = document.body.dataset;
      const marks = () => [...document.querySelectorAll(".picture svg path")];
      const names = (menu) => [...menu.options].map((option) => option.text).join();
      said.columns = names(up); said.first = `${up.selectedOptions[0].text} against ${across.selectedOptions[0].text}`;
      said.marks = marks().length;
      const choose = (menu, name) => {
        menu.value = [...menu.options].findIndex((option) => option.text === name);
        menu.dispatchEvent(new Event("change"));
      };
      choose(across, "linear top1"); choose(up, "features rankme");
      const middle = (mark) => {
        const box = mark.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
      };
      const places = marks().map(middle), order = places.map((_, i) => i).sort((i, j) => places[i][0] - places[j][0]);
      const [x, y] = places[order[0]], [right, above] = places[order[7]];
      said.straight = Math.max(...places.map(([a, b]) => Math.abs((b - y) / (above - y) - (a - x) / (right - x))));
      said.rises = above < y;
      document.querySelector(".picture svg").dispatchEvent(new PointerEvent("pointermove", { clientX: x + 2, clientY: y - 2 }));
      said.read = document.querySelector(".say").textContent;
      choose(across, "learning_rate");
      said.ticks = [...document.querySelectorAll(".picture svg text")].map((text) => text.textContent).join();
      choose(across, "method");
      said.legend = [...document.querySelectorAll(".legend span")].map((key) => key.textContent).join();
      const table = document.querySelector("table.sortable"), head = [...table.tHead.rows[0].cells].at(-3);
      head.click(); head.click();
      said.sorted = [...table.tBodies[0].rows].map((row) => [...row.cells].at(-3).textContent).join();
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(frame.page("Runs", [section, clicks]), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    dom = subprocess.run(["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=60).stdout
    said = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search("<body[^>]*>", dom).group()))
    columns = said["columns"].split(",")
    assert {"method", "width", "color_jitter.hue", "seed", "workdir", *MEASURES} <= set(columns)
    assert said["first"] == "linear top1 against color_jitter.hue"
    assert said["marks"] == "5"  # the others have no hue of their own
    assert float(said["straight"]) < 1e-3 and said["rises"] == "true"  # one is a hundred times the other
    assert said["read"] == "sweep: pixels/seed=5: linear top1 .305, features rankme 30.5"
    assert "learning_rate (logarithmic)" in said["ticks"] and "1e−6" in said["ticks"]
    assert said["legend"].split(",") == ["simclr", "byol", "Raw pixels", "Untrained encoder"]
    values = [float(text) for text in said["sorted"].split(",")]
    assert values == [0.906, 0.905, 0.855, 0.805, 0.706, 0.705, 0.405, 0.305]


def test_what_cannot_be_a_table(workdirs, tmp_path):
    for given, part in (
        ([], "given no workdir"),
        ([workdirs[0], workdirs[0]], "each workdir once"),
        ([tmp_path / "none"], "cannot be read as a CSV"),
    ):
        with pytest.raises(UserError, match=part):
            runs_table.table(given, tmp_path)
    (workdirs[0] / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        runs_table.table(workdirs, tmp_path)
    (workdirs[0] / "run.json").write_text('{"configs": 3}')
    with pytest.raises(UserError, match="configs is no list"):
        runs_table.table(workdirs, tmp_path)
    assert not (tmp_path / "runs.csv").exists()
