"""The project's pages: links lead somewhere, examples run as they stand, and the site builds without a warning."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from sphinx.util.inspect import signature as inspect_signature
from sphinx.util.inspect import stringify_signature

import ssljax
from ssljax import augment
from ssljax.cli import main
from ssljax.evaluate import scores, unlabelled
from ssljax.methods import METHODS
from ssljax.models import BACKBONES, _row

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
sys.path.insert(0, str(ROOT / "docs"))

from generator import experiments, measures, methods, reference  # noqa: E402
from generator.text import as_rest, prose, relinked, shortened, table  # noqa: E402

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page):
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, section = target.partition("#")
        if re.match(r"https?:", path) or path.startswith("generated/"):  # of the site: see the slow test
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if section:
            assert section in [anchor(h) for h in HEADING.findall(there.read_text(encoding="utf-8"))], (
                f"{page.name}: {target}"
            )


def test_every_page_of_the_docs_is_in_the_sites_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.split()}
    assert {path.stem for path in ROOT.glob("docs/*.md")} - {"index"} <= listed


# The examples of CONTRIBUTING.md


def examples():
    """Path of the file that an example is -> its code."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^`(ssljax/[\w/]+\.py)`\n\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """The three examples as modules, their rows in the tables while the test runs."""
    made = {}
    for path, code in examples().items():
        file = tmp_path / Path(path).name
        file.write_text(code)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        made[file.stem] = module
    for known in (METHODS, augment.TRANSFORMS, BACKBONES):
        for name in dict(known):
            monkeypatch.setitem(known, name, known[name])  # so that the tables are as before afterwards
    rows = re.findall(r"^((?:METHODS|TRANSFORMS|BACKBONES)\[.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    names = {"METHODS": METHODS, "TRANSFORMS": augment.TRANSFORMS, "BACKBONES": BACKBONES, "_row": _row}
    assert len(rows) == len(made) == 3
    yield (
        made,
        lambda: [
            exec(row, {**names, **made, **{n: getattr(m, n) for m in made.values() for n in vars(m)}}) for row in rows
        ],
    )
    for known, name in ((METHODS, "align_uniform"), (augment.TRANSFORMS, "posterize"), (BACKBONES, "strided")):
        known.pop(name, None)


def test_contributed_method_and_transform_compute_what_they_say(contributed):
    made, _ = contributed
    z = np.random.default_rng(0).normal(size=(2, 40, 7))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    np.testing.assert_allclose(made["align_uniform"].spread(jnp.float32(z[0])), unlabelled.uniformity(z[0]), rtol=1e-5)
    transform = made["posterize"].posterize(probability=1.0, levels=4)
    image = jnp.linspace(0, 1, 100).reshape(10, 10, 1)
    drawn = transform.sample(jax.random.key(0), transform.defaults)
    np.testing.assert_allclose(
        transform.apply(image, drawn), np.rint(np.linspace(0, 1, 100) * 3).reshape(10, 10, 1) / 3, atol=1e-6
    )


@pytest.mark.slow
def test_contributed_method_transform_and_backbone_train_together(contributed, tmp_path, capsys):
    _, add = contributed
    add()
    assert main(["run.py", "--help_method=align_uniform"]) == 0
    page = capsys.readouterr().out
    assert "Alignment and uniformity (Wang and Isola" in page and "weight of the uniformity term" in page
    config = ssljax.Config(
        method="align_uniform", backbone="strided", width=1 / 16, transforms="random_resized_crop+posterize(levels=4)",
        sweep=("uniformity=0,1",), epochs=2, batch_size=128, warmup_epochs=0, image_size=16, evaluations=("knn",),
    )  # fmt: skip
    study = ssljax.run(config, tmp_path / "w", stages=("pretrain", "evaluate"), progress=False)
    rows = [row for row in study.results if row["method"] == "align_uniform" and row["metric"] == "top1"]
    assert {row["uniformity"] for row in rows} == {0, 1}
    losses = [line for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(losses) >= 4 and "NaN" not in "".join(losses)
    # without uniformity the loss is the alignment alone, at least 0; with it, uniformity's pull makes it negative
    by_run = {}
    for line in map(json.loads, losses):
        by_run[line["run"]] = line["loss"]
    without, with_ = (next(v for k, v in by_run.items() if f"uniformity={n}" in k) for n in ("0", "1"))
    assert without >= 0 > with_


# What is generated


def test_docstrings_become_restructured_text():
    found = as_rest(
        [
            "Sum of |a - b| * c for `x|y`, of dim_ and rows.", "", "name   what", "other  thing", "",
            "| a | b |", "| --- | --- |", "| `k` | 1 |", "", "Args:", "  x: [n], *any*.",
        ]
    )  # fmt: skip
    assert found[0] == r"Sum of \|a - b\| \* c for `x|y`, of dim\_ and rows."
    assert found[2:6] == ["::", "", "    name   what", "    other  thing"]
    assert found[7:13] == [".. list-table::", "   :header-rows: 1", "", "   * - a", "     - b", "   * - `k`"]
    assert found[-2:] == ["Args:", r"  x: [n], \*any\*."]


def test_flags_in_prose_and_types_in_signatures_read_as_written():
    assert prose("add --method=byol, or `--x=1`; a*b_c (--stem=imagenet for 4x4)") == (
        r"add `--method=byol`, or `--x=1`; a\*b\_c (`--stem=imagenet` for 4x4)"
    )
    found = stringify_signature(inspect_signature(scores.top_k), unqualified_typehints=True)
    assert shortened(found) == "(scores: ArrayLike, labels: ArrayLike, k: int) -> float"


def test_links_of_a_file_lead_to_the_sites_pages():
    page = ROOT / "docs" / "generated" / "start.md"
    text = "[a](docs/mira.md) ![b](benchmarks/results/x.png) [c](benchmarks/README.md#one) [d](https://e.org) [f](#g) [h](ssljax)"
    assert relinked(text, ROOT / "README.md", page) == (
        "[a](/mira.md) ![b](../../benchmarks/results/x.png) [c](/generated/benchmarks.md#one) [d](https://e.org) [f](#g) h"
    )
    assert table(("a", "b"), [("x|y", 1)]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_a_page_for_every_method_flag_and_module(tmp_path):
    pages = {**methods.pages(tmp_path), **reference.pages(tmp_path)}
    for name, module in METHODS.items():
        assert f"[`{name}`](methods/{name}.md)" in pages["methods"]
        assert all(f"| `{swept}` |" in pages[f"methods/{name}"] for swept in module.HYPER)
    assert all(f"| `--{name}` |" in pages["flags"] for name in ssljax.config.fields())
    assert ".. automodule:: ssljax.augment.geometry" in pages["api/augment"]


def test_every_recorded_measure_is_explained():
    explained = {
        (base.strip().partition("@")[0], re.sub(r"\{\w+\}", "", metric.strip()))
        for evaluations, _, metrics, _ in measures.ROWS
        for base in evaluations.split(",")
        for metric in metrics.split(",")
    }
    for path in [*ROOT.glob("benchmarks/results/*.csv"), *ROOT.glob("experiments/flagfiles/**/*.csv")]:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if "class" in row or "metric" not in row or row["metric"].startswith(measures.OF_SWEEPS):
                    continue
                base = row["evaluation"].partition("@")[0]
                assert any(base == b and row["metric"].startswith(m) for b, m in explained), (path.name, row)


def test_every_evaluation_has_its_rows():
    explained = {base.strip().partition("@")[0] for evaluations, *_ in measures.ROWS for base in evaluations.split(",")}
    assert explained == set(ssljax.config.EVALUATIONS)
    of_unlabelled = {
        m.strip() for base, _, metrics, _ in measures.ROWS if base == "unlabelled" for m in metrics.split(",")
    }
    assert of_unlabelled == set(unlabelled.MEASURES)


def test_the_index_of_experiments_has_every_flagfile_with_its_values():
    pages = experiments.pages(Path())
    for path in experiments.FOLDER.rglob("*.cfg"):
        assert f"`{path.relative_to(experiments.FOLDER)}`" in pages["experiments"]
    # Table 4 of the first paper: 12 methods, 20 probabilities, 5 seeds, 1000 epochs; best and worst mean as printed there.
    row = next(line for line in pages["experiments"].splitlines() if "cifar/table4.cfg" in line)
    assert row.startswith("| Table 4 |") and row.endswith("| 1,200 | 1,000 |")
    with (experiments.FOLDER / "cifar" / "table4.csv").open() as file:
        values = [float(line["value"]) for line in csv.DictReader(file)]
    assert f"linear top1 {min(values):g} to {max(values):g}" in row
    assert "| linear | label | top1 | 0.8959 | 0.0073 |" in pages["experiments/cifar"].replace("\\", "")


def test_notebooks_are_committed_as_executed():
    for path in ROOT.glob("notebooks/*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert '"output_type"' in text and '"output_type": "error"' not in text
        assert not re.search(r"/(work|root|home|tmp|Users)/", text)


# The project's own files


def test_licence_and_citation_agree_with_the_package():
    assert (ROOT / "LICENSE").read_text().split()[:3] == ["Apache", "License", "Version"]
    assert "\nlicense = Apache-2.0\n" in (ROOT / "setup.cfg").read_text()
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format requires
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert cited["version"] == ssljax.__version__
    assert f"## {ssljax.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert all({"type", "title", "authors"} <= set(reference) for reference in cited["references"])
    assert {reference["title"].lower() for reference in cited["references"]} == {
        paper.lower() for paper in experiments.PAPERS
    }


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    places = [str(ROOT / "docs"), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees"), *places],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    site = tmp_path / "site"
    methods_page = (site / "generated" / "methods" / "mira.html").read_text(encoding="utf-8")
    assert "labels of greatest mutual information" in methods_page
    # Links from page to page: what they name is there, and so is the section.
    anchors = {
        page: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))) for page in site.rglob("*.html")
    }
    for page in anchors:
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8")):
            path, _, section = target.partition("#")
            if re.match(r"[a-z]+:", path) or path.startswith("//"):
                continue
            there = (page.parent / path.partition("?")[0]).resolve() if path else page
            assert there.exists(), (page.name, target)
            assert not section or there.suffix != ".html" or section in anchors[there], (page.name, target)
