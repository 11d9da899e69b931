"""The figures of a report, each written as one PNG: representations, views, clusters, losses, classes."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib

if "MPLBACKEND" not in os.environ:  # a notebook has chosen one, and goes on drawing with it
    matplotlib.use("Agg")

import matplotlib.patheffects as patheffects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ssljax.report.display import display_image, stretch

# Paul Tol's "muted" scheme, made for colour-blind readers, with a dark grey for the tenth class.
COLORS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#DDAA33", "#882255", "#44AA99", "#999933", "#AA4499"),
    "#555555",
)
MARKERS = "os^Dv<>PX*"
TSNE_POINTS = 1500  # enough to show the clusters; a panel then takes some 5 s on one core (our choice)
COLUMNS_SHOWN = 3  # beside label and cluster (our choice)
CLASSES_SHOWN = 20  # a point plot with more rows than this is not read (our choice)
_DPI = 150
_TITLE = 38  # characters in a line above a panel of the t-SNE figure, which then does not touch the next
STYLE: Any = {  # Any: matplotlib's stubs want each key as a literal
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.frameon": False,
}


class Panel(NamedTuple):
    """One representation in the t-SNE figure.

    Attributes:
      title: above it.
      features: [n, d].
      labels: [n], or None.
      clusters: [n].
      columns: what else points are coloured by: name -> text [n].
      points: [n, 2], where they are laid out already; None for t-SNE.
    """

    title: str
    features: NDArray[np.floating]
    labels: NDArray[np.integer] | None
    clusters: NDArray[np.integer]
    columns: Mapping[str, NDArray[np.str_]] = MappingProxyType({})
    points: NDArray[np.floating] | None = None


def tsne_figure(
    path: str | os.PathLike[str],
    panels: Sequence[Panel],
    class_names: Sequence[str],
    random_state: int = 0,
) -> Path:
    """t-SNE (or another map) of each panel's features side by side, a row a colouring: label, each further column, K-means cluster.

    At most 1500 points of each panel, drawn with `random_state`, and the first three columns. Without labels there is no upper row.
    """
    labelled = any(panel.labels is not None for panel in panels)
    columns = list(dict.fromkeys(name for panel in panels for name in panel.columns))[:COLUMNS_SHOWN]
    names = {column: _values_of(panels, column) for column in columns}
    lines = [*(["label"] if labelled else []), *columns, "K-means cluster"]
    with plt.rc_context(STYLE):
        size = (3.1 * len(panels) + 0.2, 3.2 * len(lines))
        figure, axes = plt.subplots(len(lines), len(panels), squeeze=False, figsize=size, layout="constrained")
        for column, panel in enumerate(panels):
            chosen = np.arange(len(panel.features))
            if len(chosen) > TSNE_POINTS:
                rng = np.random.default_rng(random_state)
                chosen = np.sort(rng.choice(len(chosen), TSNE_POINTS, replace=False))
            points = (
                tsne(np.asarray(panel.features[chosen], dtype=np.float32), random_state)
                if panel.points is None
                else panel.points[chosen]
            )
            axes[0, column].set_title("\n".join(textwrap.fill(line, _TITLE) for line in panel.title.splitlines()))
            if labelled:
                classes = None if panel.labels is None else np.asarray(panel.labels)[chosen]
                _scatter_classes(axes[0, column], points, classes, class_names)
            for line, (name, values) in enumerate(names.items(), start=int(labelled)):
                codes = np.searchsorted(values.sorted, panel.columns[name][chosen]) if name in panel.columns else None
                ranks = None if codes is None else values.ranks[codes]
                _scatter_classes(axes[line, column], points, ranks, values.names, values.colors)
            _scatter_clusters(axes[-1, column], points, np.asarray(panel.clusters)[chosen])
            for axis in axes[:, column]:
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set(visible=True, color="#cccccc")
        for line, name in enumerate(lines):
            axes[line, 0].set_ylabel(f"coloured by {name}")
            shown = names[name].names if name in names else class_names if name == "label" else ()
            entries, texts = axes[line, 0].get_legend_handles_labels()
            if entries and (_names_need_legend(shown) or (name in names and len(shown) <= CLASSES_SHOWN)):
                axes[line, -1].legend(entries, texts, loc="center left", bbox_to_anchor=(1.02, 0.5), markerscale=1.5)
        return save(figure, path)


class _Values(NamedTuple):
    """The texts of a column in the order of the alphabet, the place of each among `names`, and the colours of these."""

    sorted: NDArray[np.str_]
    ranks: NDArray[np.integer]
    names: list[str]
    colors: Sequence[Any] | None


def _values_of(panels: Sequence[Panel], column: str) -> _Values:
    """All values of a column; numbers are in their order, with colours that say so."""
    found = np.unique(np.concatenate([panel.columns[column] for panel in panels if column in panel.columns]))
    try:
        order = np.argsort(found.astype(float), kind="stable")
        colors = list(plt.get_cmap("viridis")(np.linspace(0, 0.95, len(found))))
    except ValueError:
        order, colors = np.arange(len(found)), None
    return _Values(found, np.argsort(order), [name or "unknown" for name in found[order].tolist()], colors)


def tsne(features: NDArray[np.floating], random_state: int) -> NDArray[np.floating] | None:
    """t-SNE's positions [n, 2], or None where nothing can be laid out: too few points, all equal, or not finite."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(features) < 5 or not np.isfinite(features).all() or np.ptp(features, axis=0).max() == 0:
        return None
    if features.shape[1] > 50:  # van der Maaten and Hinton (2008) reduce to 30, scikit-learn advises 50
        features = PCA(min(50, len(features)), random_state=random_state).fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3)  # 30: scikit-learn's default
    init = "pca" if features.shape[1] > 1 else "random"
    with threadpool_limits(1):  # its threads spin while they wait: ten times slower where cores are shared
        return TSNE(init=init, perplexity=perplexity, random_state=random_state).fit_transform(features)


def _names_need_legend(class_names: Sequence[str]) -> bool:
    """One or two characters are drawn as the points themselves; too many classes are not named at all."""
    return max(map(len, class_names), default=0) > 2 and len(class_names) <= CLASSES_SHOWN


def _class_color(index: int, n_classes: int) -> Any:
    return COLORS[index] if n_classes <= len(COLORS) else plt.get_cmap("turbo")(index / (n_classes - 1))


def _scatter_classes(
    axis: Axes,
    points: NDArray[np.floating] | None,
    labels: NDArray[np.integer] | None,
    class_names: Sequence[str],
    colors: Sequence[Any] | None = None,
) -> None:
    if points is None or labels is None:
        _say(axis, "no labels" if labels is None else "nothing to lay out")
        return
    short = colors is None and max(map(len, class_names), default=0) <= 2
    for index, name in enumerate(class_names):
        own = points[labels == index]
        marker = f"${name}$" if short and name.isalnum() else MARKERS[index % len(MARKERS)]
        size = (22 if len(points) <= 600 else 12) if short else 9
        color = _class_color(index, len(class_names)) if colors is None else colors[index]
        axis.scatter(own[:, 0], own[:, 1], s=size, marker=marker, color=color, linewidths=0.2, label=name)


def _scatter_clusters(axis: Axes, points: NDArray[np.floating] | None, clusters: NDArray[np.integer]) -> None:
    if points is None:
        _say(axis, "nothing to lay out")
        return
    found = np.unique(clusters)
    for index in found:
        own = points[clusters == index]
        color = _class_color(int(index), int(found.max()) + 1)
        axis.scatter(own[:, 0], own[:, 1], s=7, color=color, linewidths=0)
        if len(found) <= CLASSES_SHOWN:
            x, y = np.median(own, axis=0)
            outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
            axis.text(x, y, str(index), ha="center", va="center", weight="bold", path_effects=outline)


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="#777777")


def views_sheet(
    path: str | os.PathLike[str],
    originals: NDArray[Any],
    views: NDArray[Any],
    title: str,
    heads: Sequence[str] = (),
) -> Path:
    """What a transform set does: a row an image, the original first and then its views.

    Args:
      originals: [n, h, w, c], whole numbers or floats in [0, 1].
      views: [n, v, s, s, c], whole numbers or floats in [0, 1].
      title: what is shown.
      heads: v names of the columns; numbered when not given.
    """
    n, v = views.shape[:2]
    heads = ["original", *(heads or (f"view {i + 1}" for i in range(v)))]
    visible = stretch(originals)
    rows = [[visible(image) for image in (originals[i], *views[i])] for i in range(n)]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(0.85 * (v + 1) + 0.3, 0.85 * n + 0.7), layout="constrained")
        _mosaic(axis, rows)
        axis.set_xticks(np.arange(v + 1) + 0.5, heads)
        axis.xaxis.tick_top()
        axis.set_title(title)
        axis.axvline(1.0, color="#777777", linewidth=1)
        return save(figure, path)


def cluster_sheet(
    path: str | os.PathLike[str],
    images: NDArray[Any],
    nearest: NDArray[np.integer],
    assignment: NDArray[np.integer],
    labels: NDArray[np.integer] | None,
    class_names: Sequence[str],
    title: str,
) -> Path:
    """The images nearest each cluster's centre, a row a cluster, nearest first.

    A row says how many images the cluster has and, with labels, its most frequent class and that one's share.

    Args:
      images: [m, h, w, c], or what reads such images by index.
      nearest: [k, count] indices of images, -1 for none.
      assignment: [n], the cluster of each image.
      labels: [n], or None.
      class_names: by label.
      title: what is shown.
    """
    visible = stretch(images[nearest[nearest >= 0]])
    rows = [[visible(images[i]) if i >= 0 else None for i in row] for row in nearest]
    heads = []
    for cluster in range(len(nearest)):
        own = assignment == cluster
        head = f"cluster {cluster}, n = {own.sum()}"
        if labels is not None and own.any():
            counts = np.bincount(labels[own], minlength=len(class_names))
            head += f"\n{class_names[int(counts.argmax())]}: {counts.max() / own.sum():.0%}"
        heads.append(head)
    count = nearest.shape[1]
    with plt.rc_context(STYLE):
        size = (0.62 * count + 1.4, 0.62 * len(rows) + 0.4)
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        _mosaic(axis, rows)
        axis.set_yticks(np.arange(len(rows)) + 0.5, heads)
        axis.set_title(title)
        return save(figure, path)


def _mosaic(axis: Axes, rows: Sequence[Sequence[NDArray[Any] | None]]) -> None:
    """Images in unit cells, with a margin; each keeps its own resolution and shape."""
    margin = 0.04
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            if image is None:
                continue
            pixels = display_image(image)
            longest = max(pixels.shape[:2])
            height, width = (side / longest * (0.5 - margin) for side in pixels.shape[:2])
            extent = (x + 0.5 - width, x + 0.5 + width, y + 0.5 + height, y + 0.5 - height)
            axis.imshow(pixels, extent=extent, interpolation="nearest")
    axis.set(xlim=(0, max(map(len, rows))), ylim=(len(rows), 0), aspect="equal", xticks=[], yticks=[])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def loss_curves(path: str | os.PathLike[str], metrics: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Path:
    """Training loss by epoch, a panel a program: a thin line each run, and the mean of those that last.

    A cross marks where a run diverged; it is not part of the mean.

    Args:
      metrics: dicts with program, run, epoch and loss, as in metrics.jsonl.
      titles: the panel's title for each program; a program without one is shown by its name.
    """
    programs = list(dict.fromkeys(row["program"] for row in metrics))
    columns = min(3, len(programs))
    lines = -(-len(programs) // columns)
    with plt.rc_context(STYLE):
        size = (3.6 * columns, 2.6 * lines + 0.2)
        figure, axes = plt.subplots(lines, columns, squeeze=False, figsize=size, layout="constrained")
        for axis, program in zip(axes.ravel(), programs, strict=False):
            curves: dict[str, dict[int, float]] = {}
            for row in metrics:
                if row["program"] == program:
                    curves.setdefault(row["run"], {})[row["epoch"]] = row["loss"]
            for curve in curves.values():
                finite = {epoch: loss for epoch, loss in curve.items() if np.isfinite(loss)}
                axis.plot(*_xy(finite), color=COLORS[3], linewidth=0.8, marker="." if len(finite) < 3 else "")
                if len(finite) < len(curve) and finite:
                    axis.plot(*_xy(dict([finite.popitem()])), color=COLORS[1], marker="X", linestyle="")
            whole = [curve for curve in curves.values() if np.isfinite(list(curve.values())).all()]
            shared = sorted(set.intersection(*map(set, whole))) if whole else []
            mean = {epoch: float(np.mean([curve[epoch] for curve in whole])) for epoch in shared}
            axis.plot(*_xy(mean), color=COLORS[0], linewidth=1.8)
            runs = f"{len(curves)} run" + "s" * (len(curves) > 1)
            axis.set(title=f"{titles.get(program, program)}, {runs}", xlabel="epoch", ylabel="training loss")
            axis.xaxis.get_major_locator().set_params(integer=True)
        for axis in axes.ravel()[len(programs) :]:
            axis.set_visible(False)
        return save(figure, path)


def _xy(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(curve), list(curve.values())


def per_class_figure(
    path: str | os.PathLike[str],
    values: Sequence[tuple[str, NDArray[np.floating], NDArray[np.floating]]],
    class_names: Sequence[str],
    quantity: str,
) -> Path:
    """One value a class for several rows of the table: points, with bars of one standard deviation.

    Above 20 classes only the 20 on which the rows differ most are shown; their order stays.

    Args:
      values: (title, means [n_classes], deviations [n_classes]), NaN where there is none.
      class_names: n_classes names.
      quantity: the axis title, with its unit.
    """
    means = np.array([mean for _, mean, _ in values])
    shown = np.arange(len(class_names))
    if len(shown) > CLASSES_SHOWN:
        spread = np.nan_to_num(np.nanmax(means, axis=0) - np.nanmin(means, axis=0))
        shown = np.sort(np.argsort(-spread, kind="stable")[:CLASSES_SHOWN])
    with plt.rc_context(STYLE):
        size = (7.0, 0.3 * len(shown) + 1.4)
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        places = np.arange(len(shown))
        for index, (title, mean, deviation) in enumerate(values):
            offset = (index - (len(values) - 1) / 2) * 0.5 / len(values)
            axis.errorbar(
                mean[shown],
                places + offset,
                xerr=np.nan_to_num(deviation[shown]),
                fmt=MARKERS[index % len(MARKERS)],
                color=COLORS[index % len(COLORS)],
                markersize=5,
                elinewidth=1.2,
                label=title,
            )
        axis.set_yticks(places, [class_names[int(i)] for i in shown])
        axis.set(xlabel=quantity, ylim=(len(shown) - 0.5, -0.5))
        axis.grid(axis="x", color="#e4e4e4")
        axis.set_axisbelow(True)
        longest = max(len(title) for title, _, _ in values)
        figure.legend(loc="outside upper left", ncols=max(1, min(len(values), 75 // (longest + 6))))
        return save(figure, path)


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, in a folder that is made if need be, and close it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No "Software" entry: the same figure is then the same file under any matplotlib.
    figure.savefig(target, dpi=_DPI, bbox_inches="tight", pad_inches=0.06, metadata={"Software": None})
    plt.close(figure)
    return target
