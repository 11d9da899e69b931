"""What the page shows of cells: dose, choice, claims, t-SNE by column, cluster sheets of k, batch effects, 16-bit images."""

import numpy as np
import pytest

from ssljax.report import choice, display, dose, figures, tables, words
from ssljax.report.page import write_page
from ssljax.report.workdir import Workdir, read_workdir


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, kept open for a look at their axes; a page finds an image in the place of each."""
    kept = []
    saved = figures.save

    def save(figure, path):
        kept.append(figure)
        return saved(figures.plt.figure(figsize=(1, 1)), path)

    monkeypatch.setattr(figures, "save", save)
    yield kept
    for figure in kept:
        figures.plt.close(figure)


def _row(seed=5, **columns):
    shared = dict(
        run=f"p/seed={seed}", seed=seed, method="byol", backbone="vgg13", dataset="cells", transforms="cell_crop"
    )
    return {**shared, "epoch": 1, "evaluation": "kmeans", "target": "label", "metric": "ami", **columns}


def _doses():
    """A trained and an untrained encoder over three concentrations, one text order and another as numbers."""
    rows = []
    for method, values in (("byol", {"10": 0.8, "0.3": 0.1, "3": 0.5}), ("random", {"10": 0.2, "0.3": 0.0, "3": 0.1})):
        for seed, (concentration, value) in ((s, v) for s in (5, 6) for v in values.items()):
            shared = _row(seed, method=method, run=f"{method}/seed={seed}", evaluation="dose", metric="ami")
            shared["class"] = concentration
            rows.append({**shared, "target": "treated", "value": value + 0.02 * (seed - 5)})
            rows.append({**shared, "target": "shuffled", "value": 0.01 if method == "byol" else 0.9})
    return rows


def test_dose_is_drawn_by_concentration_with_chance_dashed(tmp_path, drawn):
    html = dose.section(Workdir(tmp_path, [], _doses(), {}, [], []))
    (axis,) = drawn[0].axes
    lines = {container.get_label(): container.lines[0].get_xydata() for container in axis.containers}
    np.testing.assert_allclose(lines["cell_crop"], [[0.3, 0.11], [3, 0.51], [10, 0.81]])
    np.testing.assert_allclose(lines["Untrained encoder"], [[0.3, 0.01], [3, 0.11], [10, 0.21]])
    (dashed,) = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed.get_xydata(), [[0.3, 0.01], [3, 0.01], [10, 0.01]])  # of the trained alone
    assert axis.get_xscale() == "log"
    assert "cell_crop tells treated cells best (mean AMI .477), and most at 10 uM (AMI .810)" in html
    assert html.index('<th scope="col">0.3 uM') < html.index('<th scope="col">10 uM') and ".510 ± .014" in html
    assert dose.section(Workdir(tmp_path, [], [], {}, [], [])) == ""


def test_the_heat_map_holds_the_means_and_frames_the_choice(tmp_path, drawn):
    planted = {(1.0, 1.0): (0.2, 0.6), (1.0, 2.0): (0.5, 0.4), (3.0, 1.0): (0.1, 0.3), (3.0, 2.0): (0.3, 0.2)}
    rows = [
        _row(**{"a": a, "b": b}, run=f"p/{a}{b}", evaluation=name, value=value)
        for (a, b), values in planted.items()
        for name, value in zip(("kmeans@validation", "kmeans"), values)
    ]
    html = choice.section(Workdir(tmp_path, rows, [], {}, [], []))
    validation, test = drawn[0].axes[:2]
    for axis, split in ((validation, 0), (test, 1)):
        means = [[planted[a, b][split] for b in (1.0, 2.0)] for a in (1.0, 3.0)]
        np.testing.assert_allclose(axis.get_images()[0].get_array(), means)
        frames = {patch.get_linestyle(): np.round(patch.get_xy()).tolist() for patch in axis.patches}
        assert frames == {"-": [1, 0], "--": [0, 0]}  # column, row
        assert (axis.get_xlabel(), [t.get_text() for t in axis.get_xticklabels()]) == ("b", ["1", "2"])
    assert "a 1, b 2, with the highest mean kmeans ami" in html and "a 1, b 1 with .600, .200 more" in html
    other = [
        {**row, "evaluation": row["evaluation"].replace("kmeans", "kmeans@k4"), "value": -row["value"]} for row in rows
    ]
    by_four = choice.section(Workdir(tmp_path, [*rows, *other], [], {}, [], []), "kmeans@k4:ami")
    assert "a 3, b 1, with the highest mean kmeans@k4 ami" in by_four
    one = [row for row in rows if row["a"] == 1]
    assert "figure" not in choice.section(Workdir(tmp_path, one, [], {}, [], []))
    assert choice.section(Workdir(tmp_path, rows[:2], [], {}, [], [])) == ""


def test_sixteen_bit_images_are_stretched_together_and_nuclei_are_blue():
    images = np.zeros((3, 10, 10, 3), np.uint16)
    images[..., 0] = 500  # nuclei, nowhere brighter
    images[:2, ..., 1] = 1000
    images[1, ..., 2] = np.arange(100).reshape(10, 10) * 40
    visible = display.stretch(images)
    red, green, blue = np.moveaxis(visible(images[1]), -1, 0)
    low, high = np.percentile(images[..., 2], (0.5, 99.5))
    np.testing.assert_allclose(red, np.clip((images[1, ..., 2] - low) / (high - low), 0, 1))
    assert (green == 1).all() and (visible(images[2])[..., 1] == 0).all()
    assert (blue == 0).all()  # the same everywhere
    np.testing.assert_allclose(visible(images[1] / 65535), visible(images[1]))  # views are floats
    eight = images.astype(np.uint8)
    np.testing.assert_array_equal(display.stretch(eight)(eight[0]), eight[0])


def test_points_are_coloured_by_columns_and_numbers_in_their_order(tmp_path, drawn):
    rng = np.random.default_rng(0)
    clusters = np.arange(40) % 2
    dose_of = np.array(["10", "0", "5", "0"])[np.arange(40) % 4]
    plate = np.array(["p", "q"])[clusters]
    columns = {"concentration": dose_of, "plate": plate, "a": plate, "fourth": plate}
    panel = figures.Panel("one", rng.normal(size=(40, 4)) + clusters[:, None] * 9, clusters, clusters, columns)
    figures.tsne_figure(tmp_path / "t.png", [panel], ["x", "y"])
    axes = drawn[0].axes
    shown = ("label", *list(columns)[: figures.COLUMNS_SHOWN], "K-means cluster")
    assert [axis.get_ylabel() for axis in axes] == [f"coloured by {name}" for name in shown]
    by_name = {group.get_label(): len(group.get_offsets()) for group in axes[1].collections}
    assert by_name == {"0": 20, "5": 10, "10": 10} and list(by_name) == ["0", "5", "10"]
    assert [text.get_text() for text in axes[2].get_legend().get_texts()] == ["p", "q"]


def test_a_plate_that_clusters_follow_is_a_batch_effect():
    def told(plate, label):
        rows = [_row(s, value=label + s / 1000) for s in (5, 6)]
        rows += [_row(s, target="plate", value=plate) for s in (5, 6)]
        return [text for text in words.answer(tables.summary(rows)) if "plate" in text.lead]

    ((lead, text),) = told(0.4, 0.1)
    assert lead == "A batch effect: the plate." and "All rows have clusters that follow the plate" in text
    assert "AMI with the plate against AMI with the label: .400 against .106 (cell_crop)." in text
    ((lead, text),) = told(0.05, 0.4)
    assert lead == "No row follows the plate as much as the label." and "would mean a batch effect" in text
    ((lead, _),) = told(0.01, 0.0)  # both about what chance gives
    assert lead.startswith("No row")


def test_the_page_has_a_sheet_for_each_k_and_the_claims(study, tmp_path):
    with np.load(study.path / "artifacts" / "mnist_first.npz") as file:
        kept = dict(file)
    kept["clusters@k3"], kept["distance@k3"] = kept["clusters"] % 3, kept["distance"]
    kept["column_plate"] = np.array(["p", "q"])[np.arange(300) % 2]
    (tmp_path / "artifacts").mkdir()
    np.savez(tmp_path / "artifacts" / "mnist_first.npz", **kept)
    from ssljax.evaluate.results import write_results

    results = [r for r in study.results if r["run"].startswith("mnist_first")]
    results += [
        {**r, "run": r["run"].replace("mnist_first", name), "transforms": name}
        for name in ("cell_table_crop", "cell_table_rotation")
        for r in results
    ]
    write_results(tmp_path / "results.csv", results)
    (artifact,) = read_workdir(tmp_path).artifacts
    assert list(artifact.clusters) == ["", "k3"] and list(artifact.columns) == ["plate"]
    page = write_page(
        tmp_path, images=study.images, class_names=[str(i) for i in range(10)], title="t", command="c", config_rows=[]
    ).read_text()
    assert {path.name for path in (tmp_path / "figures").glob("clusters_*")} == {
        "clusters_mnist_first_0.png", "clusters_mnist_first_0_k3.png",
    }  # fmt: skip
    assert "k = 3: the images nearest" in page and "Coloured by label, plate, K-means cluster, from above." in page
    assert "What the papers say of cells" in page and "Random rotations separate treated" in page
