"""What the figures show, read back from their pixels and axes; colours of images of any channel count."""

import matplotlib.image
import numpy as np
import pytest

from ssljax.report import figures


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, kept open for a look at their axes."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    yield kept
    for figure in kept:
        figures.plt.close(figure)


def test_display_image():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (4, 5, 1), dtype=np.uint8)
    np.testing.assert_allclose(figures.display_image(grey), np.repeat(grey, 3, 2) / 255)
    color = rng.random((4, 5, 3))
    np.testing.assert_array_equal(figures.display_image(color), color)
    np.testing.assert_array_equal(figures.display_image(rng.random((2, 2, 1)) * 0 + 1.5), np.ones((2, 2, 3)))
    many = rng.random((4, 5, 6))
    np.testing.assert_array_equal(figures.display_image(many), many[..., :3])
    two = np.zeros((1, 3, 2))
    two[0, 0, 0] = two[0, 1, 1] = two[0, 2] = 1
    orange, blue, both = figures.display_image(two)[0]
    assert orange[0] > orange[1] > orange[2] and blue[2] > blue[1] > blue[0]
    np.testing.assert_allclose(both, 1)


def test_views_sheet_shows_each_image_where_it_belongs(drawn, tmp_path):
    originals = np.array([10, 20], np.uint8)[:, None, None, None] * np.ones((2, 8, 6, 1), np.uint8)
    views = np.arange(6).reshape(2, 3, 1, 1, 1) / 10 * np.ones((2, 3, 4, 4, 1))
    figures.views_sheet(tmp_path / "v.png", originals, views, "title")
    (axis,) = drawn[0].axes
    seen = {}
    for image in axis.get_images():
        left, right, bottom, top = image.get_extent()
        seen[int((top + bottom) / 2), int((left + right) / 2)] = float(image.get_array().mean())
        # 8 x 6 stays 8 x 6
        assert (bottom - top) / (right - left) == pytest.approx(8 / 6 if int(left) == 0 else 1)
    expected = {(i, 0): (10 + 10 * i) / 255 for i in range(2)}
    expected |= {(i, v + 1): (3 * i + v) / 10 for i in range(2) for v in range(3)}
    assert seen == pytest.approx(expected)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["original", "view 1", "view 2", "view 3"]


def test_cluster_sheet_heads_and_gaps(drawn, tmp_path):
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 2, 2, 1), np.uint8)
    assignment, labels = np.array([0, 0, 0, 0, 1, 1]), np.array([1, 1, 1, 0, 0, 0])
    nearest = np.array([[2, 0, 3], [5, 4, -1]])
    figures.cluster_sheet(tmp_path / "c.png", images, nearest, assignment, labels, ["cat", "dog"], "title")
    (axis,) = drawn[0].axes
    heads = [text.get_text() for text in axis.get_yticklabels()]
    assert heads == ["cluster 0, n = 4\ndog: 75%", "cluster 1, n = 2\ncat: 100%"]
    shown = [round(float(image.get_array().mean()) * 255) for image in axis.get_images()]
    assert shown == [2, 0, 3, 5, 4]


def test_loss_curves_hold_runs_and_the_mean_of_the_lasting(drawn, tmp_path):
    losses = {"a": [3.0, 2.0, 1.0], "b": [5.0, 4.0, 2.0], "c": [4.0, np.nan, np.nan]}
    metrics = [
        {"program": "p", "run": run, "epoch": epoch, "loss": loss}
        for run, values in losses.items()
        for epoch, loss in enumerate(values, 1)
    ]
    figures.loss_curves(tmp_path / "l.png", metrics, {"p": "My set"})
    (axis,) = drawn[0].axes
    lines = [line.get_xydata().tolist() for line in axis.get_lines()]
    assert lines[0] == [[1, 3], [2, 2], [3, 1]] and lines[2] == [[1, 4]]
    assert lines[3] == [[1, 4]]  # the cross where it diverged
    assert lines[-1] == [[1, 4], [2, 3], [3, 1.5]]
    assert axis.get_title() == "My set, 3 runs"


def test_per_class_figure_keeps_the_classes_that_differ_most(drawn, tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    names = [f"class {i}" for i in range(50)]
    figures.per_class_figure(tmp_path / "p.png", [("A", a, a * 0), ("B", b, b * np.nan)], names, "accuracy")
    (axis,) = drawn[0].axes
    shown = [text.get_text() for text in axis.get_yticklabels()]
    assert shown == [names[i] for i in sorted(np.argsort(-abs(a - b))[:20])]
    means = axis.containers[0].lines[0].get_xdata()
    np.testing.assert_array_equal(means, [a[names.index(name)] for name in shown])


def test_tsne_keeps_planted_groups_apart_and_is_repeatable():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (np.eye(3)[labels] * 20) @ rng.normal(size=(3, 70)) + rng.normal(size=(60, 70))
    points = figures.tsne(features.astype(np.float32), 0)
    within = max(np.ptp(points[labels == k], axis=0).max() for k in range(3))
    centers = np.array([points[labels == k].mean(0) for k in range(3)])
    gaps = [np.linalg.norm(centers[i] - centers[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > within
    np.testing.assert_array_equal(points, figures.tsne(features.astype(np.float32), 0))


def test_tsne_figure_without_labels_and_of_a_collapsed_encoder(tmp_path):
    rng = np.random.default_rng(0)
    clusters = np.arange(40) % 3
    panels = [
        figures.Panel("one", rng.normal(size=(40, 4)) + clusters[:, None] * 9, None, clusters),
        figures.Panel("collapsed", np.ones((40, 4)), None, clusters * 0),
    ]
    path = figures.tsne_figure(tmp_path / "t.png", panels, ["a long name", "another"])
    pixels = matplotlib.image.imread(path)[..., :3]
    half = pixels.shape[1] // 2
    colored = np.ptp(pixels, axis=-1) > 0.2
    assert colored[:, :half].sum() > 100 and colored[:, half:].sum() == 0
