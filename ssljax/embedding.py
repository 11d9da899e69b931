"""Every image of a set under one encoder, as files: features, clusters, nearest neighbours and a map (`--stages=embed`, `embed`).

Images are read in pieces, and features are written to the disk and read back in pieces: neither has to fit in memory.
"""

import contextlib
import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ssljax import serving
from ssljax.data import Dataset, Split
from ssljax.data.build import channel_statistics
from ssljax.data.cache import NpyWriter
from ssljax.data.files import Decoded
from ssljax.embedding_table import draw, write_table
from ssljax.encoders import count_of
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.evaluate import large
from ssljax.neighbours import nearest
from ssljax.report import figures
from ssljax.serving import Served

log = logging.getLogger("ssljax")

NEIGHBOURS = 10
CLUSTERS = 10  # where the images have no classes to count (our choice)
MAPS = ("pca", "tsne", "none")
MAPPED = 10_000  # images that t-SNE lays out at most: some two minutes on one core (our choice)
STATISTICS = 10_000  # images that a mean and a deviation are taken from where nothing else gives them (our choice)
BATCH = 256  # images at a time in the encoder, as in the evaluations
_FILE = "embedding.json"  # written last: a folder that has it is whole


class Settings(NamedTuple):
    """What is made of the features.

    Attributes:
      clusters: of K-means; 0 for the number of classes, or 10 without classes.
      neighbours: nearest images kept of each image; 0 for none.
      map: "pca", "tsne" or "none".
    """

    clusters: int = 0
    neighbours: int = NEIGHBOURS
    map: str = "pca"


class Embedding(NamedTuple):
    """An embedding on the disk, a row an image: arrays are memory maps, and None where they were not asked for.

    Attributes:
      folder: that holds the files; `images.csv` is the table, `map.png` the picture.
      ids: of each image: its path, else its split and its place in it.
      features: float32 [n, dim].
      clusters: int32 [n].
      neighbours: int32 [n, k], rows of the most similar other images (cosine), most similar first.
      similarities: float32 [n, k], their cosines.
      positions: float32 [n, 2] on the map; NaN for images that t-SNE did not lay out.
    """

    folder: Path
    ids: tuple[str, ...]
    features: np.ndarray
    clusters: np.ndarray
    neighbours: np.ndarray | None
    similarities: np.ndarray | None
    positions: np.ndarray | None


def embed(
    images: Any,
    workdir: str | Path,
    *,
    run: str = "",
    folder: str | Path | None = None,
    ids: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    image_size: int = 0,
    clusters: int = 0,
    neighbours: int = NEIGHBOURS,
    map: str = "pca",
    progress: bool = True,
) -> Embedding:
    """Embeds images with a trained encoder and writes what comes of it.

    Args:
      images: uint8 or uint16 [n, height, width, channels], or anything with `shape`, `dtype`, `len()` and slices that give such
        arrays (a memory map, zarr, h5py): it is read 256 images at a time. Or a `Dataset`, all of its splits.
      workdir: of a study, or the file of an encoder: an export of ours or another project's.
      run: which of the workdir's runs, as its tables name it; "" where there is one.
      folder: what is written, a new folder; None for WORKDIR/embedding/RUN@images, which takes a workdir.
      ids, labels, class_names, columns: what is known of the images, for the table and the picture.
      image_size: side in pixels that the network sees (0: as in training; where a file does not say, that of the images).
      clusters, neighbours, map: see `Settings`.
      progress: whether progress is drawn on standard error.

    Raises:
      UserError: no such run, images that the encoder does not take, or a folder that holds something else.

    Example:
      >>> found = ssljax.embed(images, "runs/study", run="simclr/seed=5")  # doctest: +SKIP
      >>> images[found.neighbours[0]]  # the ten most similar to the first  # doctest: +SKIP
    """
    dataset = images if isinstance(images, Dataset) else _as_dataset(images, ids, labels, class_names, columns)
    with serving.opened(Path(workdir), run, dataset, image_size) as encoder:
        if folder is None and not Path(workdir).is_dir():
            raise UserError(f"embed: {workdir} is a file; say by folder= where the embedding is to be written")
        target = Path(folder) if folder else Path(workdir) / "embedding" / f"{encoder.name}@images"
        return write(target, encoder, dataset, Settings(clusters, neighbours, map), progress=progress)


def write(
    target: Path,
    encoder: Served,
    dataset: Dataset,
    settings: Settings,
    splits: Sequence[str] = (),
    progress: bool = True,
) -> Embedding:
    """Writes the embedding of a data set, or finds it there.

    Args:
      target: the folder. One that holds the same embedding is left as it is, an unfinished one is done anew.
      encoder: what embeds.
      dataset: the images.
      settings: what is made of the features.
      splits: of the data set; () for all.
      progress: whether progress is drawn on standard error.

    Raises:
      UserError: channels that the encoder does not take, settings out of range, features that are not finite, a folder that
        holds something else or cannot be written.
    """
    chosen = {name: dataset.splits[name] for name in splits or dataset.splits}
    about = _about(encoder, dataset, chosen, settings)
    if target.exists() or target.is_symlink():
        _refuse_other(target, about)
        log.info("%s: is there already", target)
        return read(target)
    unfinished = target.parent / f".{target.name}.unfinished"
    with _writing(target):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            _write(unfinished, encoder, dataset, chosen, settings, progress)
            (unfinished / _FILE).write_text(json.dumps({"from": encoder.source, **about}, indent=2) + "\n")
            unfinished.rename(target)
        except UserError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    log.info("%s: %d images embedded by %s", target, sum(about["data"]["splits"].values()), encoder.name)
    return read(target)


def read(folder: str | Path) -> Embedding:
    """An embedding that was written before.

    Raises:
      UserError: the folder holds none.
    """
    folder = Path(folder)
    if not (folder / _FILE).is_file():
        raise UserError(f"{folder}: holds no embedding")

    def array(name: str) -> np.ndarray | None:
        path = folder / f"{name}.npy"
        return np.load(path, mmap_mode="r") if path.exists() else None

    with (folder / "images.csv").open(newline="", encoding="utf-8") as file:
        ids = tuple(row["id"] for row in csv.DictReader(file))
    features, clusters = array("features"), array("clusters")
    assert features is not None and clusters is not None
    return Embedding(folder, ids, features, clusters, array("neighbours"), array("similarities"), array("map"))


def _as_dataset(
    images: Any,
    ids: Sequence[str] | None,
    labels: Sequence[int] | None,
    class_names: Sequence[str] | None,
    columns: Mapping[str, Sequence[str]] | None,
) -> Dataset:
    """Images from Python as a data set of one split, `images`; its mean and deviation are those of a part of it."""
    shape, dtype = tuple(getattr(images, "shape", ())), getattr(images, "dtype", None)
    if len(shape) != 4 or dtype not in (np.uint8, np.uint16) or not shape[0]:
        raise UserError(
            f"embed: expected images uint8 or uint16 [n, height, width, channels], given {dtype} of shape {shape}"
        )
    known = {} if columns is None else {name: np.asarray(values).astype(str) for name, values in columns.items()}
    if ids is not None:
        known = {"path": np.asarray(ids).astype(str), **known}
    own = None if labels is None else np.asarray(labels, np.int32)
    for name, values in {"labels": own, **known}.items():
        if values is not None and values.shape != (shape[0],):
            name = "ids" if name == "path" else name
            raise UserError(f"embed: {name}: expected one for each of {shape[0]} images, given shape {values.shape}")
    if own is not None and class_names is None:
        class_names = tuple(map(str, range(int(own.max()) + 1)))
    digest = hashlib.sha256(f"{shape} {dtype}".encode())
    few = max(1, STATISTICS // -(-shape[0] // BATCH))  # of each batch
    sample = []
    for start in range(0, shape[0], BATCH):
        batch = np.ascontiguousarray(images[start : start + BATCH])
        digest.update(batch.data)
        sample.append(batch[:few])
    mean, std = channel_statistics(np.concatenate(sample))
    split = Split(images, own, known)
    return Dataset("images", {"images": split}, tuple(class_names or ()) or None, mean, std, digest.hexdigest())


def _about(encoder: Served, dataset: Dataset, splits: Mapping[str, Split], settings: Settings) -> dict[str, Any]:
    """What `embedding.json` says: what two embeddings share if they are the same. Checks what can be checked before any work."""
    count, channels = sum(len(split.images) for split in splits.values()), next(iter(splits.values())).images.shape[-1]
    if channels != encoder.channels and not (encoder.repeats_grey and (encoder.channels, channels) == (3, 1)):
        raise UserError(
            f"{encoder.name}: the encoder takes images of {count_of(encoder.channels)}, {dataset.name} has {channels}"
        )
    if settings.map not in MAPS:
        raise UserError(f"--map: expected {', '.join(MAPS)}, given '{settings.map}'")
    clusters = settings.clusters or len(dataset.class_names or ()) or CLUSTERS
    if settings.clusters > count:
        raise UserError(f"--clusters: {settings.clusters} is more than the {count} images that are embedded")
    return {
        "encoder": encoder.about,
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "splits": {name: len(split.images) for name, split in splits.items()},
        },
        "image_size": encoder.image_size,
        "layer": extraction.LAYER,
        "clusters": min(clusters, count),
        "neighbours": min(settings.neighbours, count - 1),
        "map": settings.map,
    }


def _refuse_other(target: Path, about: Mapping[str, Any]) -> None:
    """Raises unless the folder holds the same embedding, whole."""
    try:
        there = json.loads((target / _FILE).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{target}: is there already and holds no embedding; move it, or give another --workdir"
        ) from None
    for name, value in json.loads(json.dumps(about)).items():
        if there.get(name) != value:
            said = f"{there.get(name)}, asked for {value}" if isinstance(value, int | str) else "others"
            raise UserError(
                f"{target}: holds an embedding of another '{name}' ({said}); move it, or give another --workdir"
            )


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


def _write(
    folder: Path, encoder: Served, dataset: Dataset, splits: Mapping[str, Split], settings: Settings, progress: bool
) -> None:
    _write_features(folder / "features.npy", encoder, splits, progress)
    features = np.load(folder / "features.npy", mmap_mode="r")
    count = min(settings.clusters or len(dataset.class_names or ()) or CLUSTERS, len(features))
    clusters, distance = large.clusters(features, count, random_state=encoder.seed % 2**31)
    np.save(folder / "clusters.npy", clusters)
    kept = min(settings.neighbours, len(features) - 1)
    if kept:
        _write_neighbours(folder, features, kept, progress)
    positions = _positions(features, settings.map)
    if positions is not None:
        np.save(folder / "map.npy", positions)
    write_table(folder, dataset, splits, clusters, distance, positions)
    if positions is not None:
        draw(folder / "map.png", encoder.name, dataset, splits, features, clusters, positions, settings.map)


def _write_features(path: Path, encoder: Served, splits: Mapping[str, Split], progress: bool) -> None:
    """The features of every image of the splits, one after another: those that the evaluations see, to the bit."""
    in_pieces = extraction.pieces(encoder.trained, image_size=encoder.image_size, batch_size=BATCH)
    total = sum(len(split.images) for split in splits.values())
    writer: NpyWriter | None = None
    shown = tqdm(
        total=total, desc=f"{encoder.name}: embedding", unit="image", delay=2, disable=None if progress else True
    )
    try:
        with shown as bar:
            for split in splits.values():
                for (found,) in in_pieces(split.images):
                    if not np.isfinite(found).all():
                        raise UserError(f"{encoder.name}: features are not finite (did the run diverge?)")
                    writer = writer or NpyWriter(str(path), found.shape[1:], found.dtype)
                    writer.append(found)
                    bar.update(len(found))
                if isinstance(split.images, Decoded):
                    split.images.tell()
    finally:
        if writer is not None:
            writer.close()


def _write_neighbours(folder: Path, features: np.ndarray, count: int, progress: bool) -> None:
    writers = (
        NpyWriter(str(folder / "neighbours.npy"), (count,), np.dtype(np.int32)),
        NpyWriter(str(folder / "similarities.npy"), (count,), np.dtype(np.float32)),
    )
    with tqdm(total=len(features), desc="neighbours", unit="image", delay=2, disable=None if progress else True) as bar:
        for index, similarity in nearest(features, count):
            for writer, rows in zip(writers, (index, similarity)):
                writer.append(rows)
            bar.update(len(index))
    for writer in writers:
        writer.close()


def _positions(features: np.ndarray, how: str) -> np.ndarray | None:
    """Where the images lie on the map, [n, 2]; NaN for those that t-SNE is not given."""
    if how == "none":
        return None
    if how == "pca":
        return large.projected(features, *large.principal_components(features, 2))
    positions = np.full((len(features), 2), np.nan, np.float32)
    chosen = np.arange(len(features))
    if len(chosen) > MAPPED:
        log.info(
            "--map=tsne: lays out %d images, drawn from all %d; the others have no place on it", MAPPED, len(chosen)
        )
        chosen = np.sort(np.random.default_rng(0).choice(len(chosen), MAPPED, replace=False))
    found = figures.tsne(np.asarray(features[chosen]), 0)
    if found is not None:
        positions[chosen] = found
    return positions
