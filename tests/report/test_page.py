"""The page says what the tables hold, escapes names, stands alone, and survives missing parts."""

import html.parser
import json
import re

import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.evaluate.results import write_results
from ssljax.report import tables
from ssljax.report.page import write_page

NAMES = [str(digit) for digit in range(10)]


class Reader(html.parser.HTMLParser):
    """The text of each table cell, of the headings and of everything; checks that tags close."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows, self.heads, self.images, self.text = [], [], [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        if tag in ("meta", "img"):
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.heads.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"style", "script"} & {*self.open}:
            return
        self.text += data
        if "tr" in self.open and self.open[-1] != "tr":
            self.rows[-1][-1] += ("|" if self.open[-1] == "small" else "") + data
        if "h2" in self.open:
            self.heads[-1] += data


def page_of(path, images, **changes):
    arguments = {"images": images, "class_names": NAMES, "title": "A study", "command": "python run.py"}
    arguments |= {"config_rows": [("epochs", "20")]} | changes
    page = write_page(path, **arguments).read_text(encoding="utf-8")
    return page, Reader(page)


@pytest.fixture(scope="module")
def read(study):
    target = {
        "transforms": "mnist_first",
        "method": "mocov2plus",
        "backbone": "vgg11",
        "evaluation": "kmeans",
    }
    target |= {"target": "label", "metric": "ami", "value": "0.83", "source": "Table 1 <of> a paper"}
    return page_of(
        study.path,
        study.images,
        title="Digits & <b>sets</b>",
        command="python run.py --transforms='a|b' && echo <done>",
        config_rows=[("transforms", "<script>alert(1)</script>")],
        targets=[target],
        notes=["k-NN on unit-length features, k 20, T .07."],
    )


def test_the_table_holds_the_numbers(study, read):
    _, reader = read
    at = next(i for i, row in enumerate(reader.rows) if row[0] == "Representation")
    lines = reader.rows[at + 1 : at + 6]
    summary = tables.summary(study.results)
    assert [line[0] for line in lines] == [
        *(
            "First set|mnist_first",
            "Second set|mnist_second",
            "Raw pixels",
            "Untrained encoder",
            "Shuffled labels",
        )
    ]
    compared = 0
    for line, row in zip(lines, summary, strict=True):
        for cell, column in zip(line[1:5], tables.TABLE1, strict=True):
            stat = row.stats.get(column.key)
            if stat is None:
                assert cell == "–"
                continue
            mean, deviation = (float(x.replace("−", "-")) for x in cell.split("|")[0].split(" ± "))
            assert mean == pytest.approx(stat.mean, abs=5.1e-4)
            assert deviation == pytest.approx(stat.deviation, abs=5.1e-4)
            compared += 1
    assert compared == 17
    assert lines[0][2].endswith("|published .830") and "published" not in lines[1][2]


def test_order_and_sentences(read):
    _, reader = read
    assert reader.heads == [
        *("The table", "Two settings against each other", "What the representations look like"),
        *("What the transformations do", "What the clusters hold", "Training", "Class by class", "Every run"),
        *("How it was measured", "Settings", "To reproduce it"),
    ]
    assert reader.text.index("The choice decides what is learned.") < reader.text.index("The table")
    assert "The second set is meant to lose the digit." in reader.text
    assert "1 run diverged: mnist_second, seed=8 (epoch 5)." in reader.text
    assert "k-NN on unit-length features, k 20, T .07." in reader.text
    assert ["versions.jax", "0.10.2"] in reader.rows and ["seconds", "101.25"] in reader.rows


def test_per_class_table(study, read):
    _, reader = read
    at = next(i for i, row in enumerate(reader.rows) if row[0] == "Class")
    assert reader.rows[at][1:] == [
        *("First set (mnist_first)", "Second set (mnist_second)", "Raw pixels", "Untrained encoder")
    ]
    for name, line in zip(NAMES, reader.rows[at + 1 : at + 11], strict=True):
        values = [
            r["value"]
            for r in study.per_class
            if (r["evaluation"], r["metric"], r["class"], r["transforms"])
            == ("linear", "accuracy", name, "mnist_second")
        ]
        assert line[0] == name and len(values) == 3
        assert float(line[2].split(" ± ")[0]) == pytest.approx(np.mean(values), abs=5.1e-4)


def test_names_are_escaped_and_nothing_is_fetched(read):
    page, reader = read
    assert "<script>alert" not in page and "<b>" not in page and "<done>" not in page
    assert "Digits & <b>sets</b>" in reader.text and "&& echo <done>" in reader.text
    assert "Published: Table 1 <of> a paper." in reader.text
    page = page.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|https?://", page)


def test_figures_are_inside_and_beside(study, read):
    _, reader = read
    # t-SNE, two sheets of views, three of clusters, losses, classes
    assert len(reader.images) == 8
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") and image["alt"] for image in reader.images)
    found = {path.name for path in (study.path / "figures").iterdir()}
    assert {"tsne.png", "loss.png", "per_class.png", "views_mnist_first.png"} <= found
    assert sum(name.startswith("clusters_") for name in found) == 3


def test_an_empty_workdir_says_what_is_missing(tmp_path):
    _, reader = page_of(tmp_path, None, class_names=[])
    for sentence in (
        *("No trained run was measured.", "Nothing was evaluated", "No t-SNE", "No sheet of views"),
        *("No cluster sheets", "No loss curves", "No per-class accuracy", "run.json is missing"),
    ):
        assert sentence in reader.text


def test_no_labels_and_no_kmeans(study, tmp_path):
    """A set without labels has silhouettes alone; a study without K-means has no clusters to show."""
    results = [r for r in study.results if r["metric"] == "silhouette"]
    for kmeans in (True, False):
        path = tmp_path / str(kmeans)
        (path / "artifacts").mkdir(parents=True)
        with np.load(study.path / "artifacts" / "mnist_second.npz") as file:
            kept = {k: file[k] for k in file if k != "labels" and (kmeans or k not in ("clusters", "distance"))}
        np.savez(path / "artifacts" / "mnist_second.npz", **kept)
        write_results(path / "results.csv", results)
        _, reader = page_of(path, study.images, class_names=[])
        assert "Not evaluated: AMI, Linear top-1, k-NN top-1." in reader.text
        assert ("Coloured by K-means cluster." in reader.text) == kmeans
        assert ("No cluster sheets" in reader.text) == (not kmeans)


def test_a_broken_file_is_named(study, tmp_path):
    for name, content in (
        ("run.json", "{"),
        ("results.csv", "run,seed\n"),
        ("artifacts/a.npz", "PK nonsense"),
    ):
        path = tmp_path / name.replace("/", "_")
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text(content)
        with pytest.raises(UserError) as error:
            page_of(path, study.images)
        assert name in str(error.value) and not (path / "report.html").exists()


def test_every_run_diverged_at_once(tmp_path):
    """A loss that was never finite, written as null: curves without a point, the run named."""
    row = {"program": "p", "run": "seed=1", "seed": 1, "epoch": 1, "loss": None, "diverged": True}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    _, reader = page_of(tmp_path, None)
    assert "1 run diverged: p, seed=1 (epoch 1)." in reader.text and len(reader.images) == 1
