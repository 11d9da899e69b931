"""What a person opens of an embedding: a table with a line an image, and a picture of the map."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data import Dataset, Split
from ssljax.data.files import Decoded
from ssljax.report import figures


def ids(splits: Mapping[str, Split]) -> Iterator[str]:
    """What each image is known by: its path, else its split and its place in it."""
    for name, split in splits.items():
        path = split.columns.get("path")
        for row in range(len(split.images)):
            if path is not None:
                yield str(path[row])
            elif isinstance(split.images, Decoded):
                yield split.images.name_of(row)
            else:
                yield f"{name}/{row}"


def write_table(
    folder: Path,
    dataset: Dataset,
    splits: Mapping[str, Split],
    clusters: np.ndarray,
    distance: np.ndarray,
    positions: np.ndarray | None,
) -> None:
    """Writes `images.csv`, a line an image. `axis-0` and `axis-1` are what napari calls the places of points."""
    neighbours = np.load(folder / "neighbours.npy", mmap_mode="r") if (folder / "neighbours.npy").exists() else None
    names = dataset.class_names
    labelled = any(split.labels is not None for split in splits.values())
    columns = [c for c in dict.fromkeys(c for s in splits.values() for c in s.columns) if c != "path"]
    header = ["index", "id", "split", *(["label"] if labelled else []), *columns, "cluster", "distance"]
    header += ["axis-0", "axis-1"] if positions is not None else []
    header += [f"neighbour_{i + 1}" for i in range(0 if neighbours is None else neighbours.shape[1])]
    named, row = ids(splits), 0
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for split, data in splits.items():
            for i in range(len(data.images)):
                line: list[Any] = [row, next(named), split]
                if labelled:
                    label = None if data.labels is None else int(data.labels[i])
                    line.append("" if label is None else names[label] if names else label)
                line += [data.columns[c][i] if c in data.columns else "" for c in columns]
                line += [clusters[row], f"{distance[row]:.6g}"]
                if positions is not None:
                    line += [f"{v:.6g}" if np.isfinite(v) else "NaN" for v in positions[row]]
                if neighbours is not None:
                    line += neighbours[row].tolist()
                table.writerow(line)
                row += 1


def draw(
    path: Path,
    name: str,
    dataset: Dataset,
    splits: Mapping[str, Split],
    features: np.ndarray,
    clusters: np.ndarray,
    positions: np.ndarray,
    how: str,
) -> None:
    """The map coloured by label, by columns of few values, and by cluster."""
    there = np.flatnonzero(np.isfinite(positions).all(1))
    if not len(there):
        return
    parts = splits.values()
    labelled = all(split.labels is not None for split in parts)
    labels = np.concatenate([np.asarray(split.labels) for split in parts])[there] if labelled else None
    columns = {}
    for column in next(iter(parts)).columns:
        if column != "path" and all(column in split.columns for split in parts):
            values = np.concatenate([split.columns[column] for split in parts])[there]
            if 1 < len(np.unique(values)) <= figures.CLASSES_SHOWN:
                columns[column] = values
    title = f"{name}\n{dataset.name}: {len(features):,} images\n{'t-SNE' if how == 'tsne' else 'principal components'}"
    panel = figures.Panel(title, positions[there], labels, clusters[there], columns, positions[there])
    figures.tsne_figure(path, [panel], dataset.class_names or ())
