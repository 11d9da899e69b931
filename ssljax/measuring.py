"""One program's measurements: features, the evaluations that were asked for, and rows for the two result tables."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax import augment
from ssljax.config import Config
from ssljax.data import Dataset
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.evaluate.knn import knn_scores
from ssljax.evaluate.measure import ClassMeasurement, Measurement, classification, clustering_measurements, means
from ssljax.files import replacing
from ssljax.models import lpips
from ssljax.study import properties
from ssljax.train import finetune, probe
from ssljax.train.loop import Trained

log = logging.getLogger("ssljax")


class Representation(NamedTuple):
    """Features of the training and test images under some runs, with what their rows say of them.

    Attributes:
      train, test: float32 [runs, n, dim].
      names, seeds, swept: one entry a run.
      columns: method, backbone, transforms and epoch, as in the tables.
      trained: the runs themselves, for a probe that transforms its images; None for what has no encoder.
      validation: float32 [runs, n, dim] of the labelled validation images; None where the data set has none.
    """

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    swept: tuple[dict[str, float], ...]
    columns: dict[str, Any]
    trained: Trained | None
    validation: np.ndarray | None = None


def check(config: Config, dataset: Dataset) -> None:
    """Refuses, before anything is trained, evaluations that this data set cannot be given.

    Raises:
      UserError: no test split, or labels absent where a metric needs them.
    """
    if not config.evaluations:
        return
    test = dataset.splits.get("test")
    if test is None or not len(test.images):
        raise UserError(f"--evaluations: {config.dataset} has no test images to measure on; give --evaluations= (none)")
    for name in config.evaluations:
        if name in ("linear", "knn", "finetune") and (test.labels is None or dataset.splits["train"].labels is None):
            raise UserError(f"--evaluations: {name} needs labels and {config.dataset} has none; kmeans works without")
    if "kmeans" in config.evaluations:
        count = config.clusters or len(dataset.class_names or ())
        if not count:
            raise UserError(
                f"--clusters: {config.dataset} has no classes to count; say how many clusters kmeans looks for"
            )
        if count > len(test.images):
            raise UserError(f"--clusters: {count} is more than the {len(test.images)} test images of {config.dataset}")

    if "finetune" in config.evaluations:
        for view in augment.parse(config.finetune_transforms).views:
            try:
                augment.check(view, test.images.shape[-1])
            except UserError as error:
                raise UserError(f"--finetune_transforms={config.finetune_transforms}: {error}") from None
    if "views" in config.evaluations:
        lpips.check_channels(test.images.shape[-1], f"--evaluations: views of {config.dataset}")
        _lpips_weights(config)
    if "properties" in config.evaluations:
        if dataset.splits["train"].labels is None:
            raise UserError(f"--evaluations: properties are of classes and {config.dataset} has no labels")
        properties.check_installed()


def _lpips_weights(config: Config) -> lpips.Weights | None:
    """The weights of LPIPS; None where none are given.

    Raises:
      UserError: one file given without the other, or a bad one.
    """
    files = {"--lpips_backbone": config.lpips_backbone, "--lpips_heads": config.lpips_heads}
    missing = [flag for flag, file in files.items() if not file]
    if len(missing) == 1:
        raise UserError(
            f"{missing[0]}: LPIPS needs the weights of its backbone and of its heads; give both files or none"
        )
    return None if missing else lpips.load(*files.values())


def represent(config: Config, trained: Trained, dataset: Dataset, program: str) -> Representation | None:
    """The features of a trained program, without the runs that diverged; None when all did."""
    features = {
        split: extraction.extract(trained, dataset.splits[split].images, image_size=config.image_size)
        for split in ("train", *held_out(dataset))
    }
    sound = np.asarray(trained.state.alive)
    for each in features.values():
        sound = sound & np.isfinite(each).all((1, 2))
    for run in (run for run, good in zip(trained.runs, sound) if not good):
        log.warning("%s: run %s diverged and is left out of the tables", program, run.name)
    if not sound.any():
        return None
    if not sound.all():
        state, hyper = jax.tree.map(lambda leaf: leaf[sound], (trained.state, trained.hyper))
        runs = tuple(run for run, good in zip(trained.runs, sound) if good)
        trained = trained._replace(state=state, hyper=hyper, runs=runs)
        features = {split: each[sound] for split, each in features.items()}
    return Representation(
        features["train"],
        features["test"],
        tuple(f"{program}/{run.name}" for run in trained.runs),
        tuple(run.seed for run in trained.runs),
        tuple(run.swept for run in trained.runs),
        {**columns(config), "epoch": trained.epoch},
        trained,
        features.get("validation"),
    )


def held_out(dataset: Dataset) -> tuple[str, ...]:
    """The splits that classifiers are measured on: test, and validation where it is there and labelled."""
    validation = dataset.splits.get("validation")
    return ("test",) if validation is None or validation.labels is None else ("test", "validation")


def columns(config: Config) -> dict[str, Any]:
    """What the tables call a resolved config's method, backbone and transforms; two losses' with an & between."""
    if config.pretrained:
        method = "random" if config.pretrained == "random" else "pretrained"
        return {"method": method, "backbone": config.backbone, "transforms": ""}
    losses = [config] if config.second is None else [config, config.second]
    return {
        "method": " & ".join(loss.method for loss in losses),
        "backbone": config.backbone,
        "transforms": " & ".join(loss.transforms for loss in losses),
    }


def pixels(dataset: Dataset, seeds: Sequence[int], program: str) -> Representation:
    """Raw pixels in [0, 1] as features, once a seed: K-means and the probe still depend on it."""

    def flat(split: str) -> np.ndarray:
        images = dataset.splits[split].images
        scaled = images.reshape(len(images), -1).astype(np.float32) / np.iinfo(images.dtype).max
        return np.broadcast_to(scaled, (len(seeds), *scaled.shape))

    columns = {"method": "pixels", "backbone": "", "transforms": "", "epoch": 0}
    names = tuple(f"{program}/seed={seed}" for seed in seeds)
    train, test, *validation = map(flat, ("train", *held_out(dataset)))
    return Representation(train, test, names, tuple(seeds), ({},) * len(seeds), columns, None, *validation)


Measured = tuple[Sequence[Measurement], Sequence[ClassMeasurement]]
"""What an evaluation says of one run: overall, and class by class."""


def measure(
    config: Config, dataset: Dataset, shown: Representation, artifacts: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every evaluation of a representation, and what the figures need of it.

    Args:
      config: resolved; its evaluations and their settings are used.
      dataset: with splits train and test.
      shown: the features.
      artifacts: `.npz` file to write: runs, seeds, index, labels, and for the test images features, clusters and distance.

    Returns:
      Rows of results.csv and of per_class.csv.
    """
    test = dataset.splits["test"]
    saved: dict[str, np.ndarray] = {
        "runs": np.array(shown.names),
        "seeds": np.array(shown.seeds),
        "features": shown.test.astype(np.float32),
        "index": np.arange(len(test.images)),
    }
    if test.labels is not None:
        saved["labels"] = test.labels
    rows: list[dict[str, Any]] = []
    class_rows: list[dict[str, Any]] = []
    for name, evaluate in _EVALUATE.items():
        if name not in config.evaluations:
            continue
        measured, arrays = evaluate(config, dataset, shown)
        saved |= arrays
        for i, (overall, by_class) in enumerate(measured):
            shared = {"run": shown.names[i], "seed": shown.seeds[i], **shown.swept[i]}
            shared |= {"dataset": config.dataset, **shown.columns}
            rows += [{**shared, **m._asdict()} for m in overall]
            for one in by_class:
                values = one._asdict()
                class_rows.append({**shared, "class": values.pop("class_name"), **values})
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    with replacing(artifacts, "wb") as file:
        np.savez(file, allow_pickle=False, **saved)
    return rows, class_rows


def _linear(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    features, held = _probe_features(config, shown)
    head = probe.fit(
        features,
        np.asarray(dataset.splits["train"].labels),
        np.asarray(shown.seeds),
        n_classes=len(dataset.class_names or ()),
        dim=shown.train.shape[-1],
        epochs=config.probe_epochs,
        batch_size=config.probe_batch_size,
        learning_rate=config.probe_learning_rate,
    )
    return _classified("linear", dataset, {split: probe.scores(head, each) for split, each in held.items()}), {}


def _knn(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    votes = partial(
        knn_scores,
        k=config.knn_k,
        temperature=config.knn_temperature,
        n_classes=len(dataset.class_names or ()),
    )
    labels = np.asarray(dataset.splits["train"].labels)
    scores = {
        split: [votes(train, labels, each) for train, each in zip(shown.train, features)]
        for split, features in _held_features(shown).items()
    }
    return _classified("knn", dataset, scores), {}


def _finetune(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    measured: list[Measured] = [((), ())] * len(shown.names)
    if shown.trained is None:
        return measured, {}  # raw pixels have no network
    tuned = finetune.fit(
        config,
        shown.trained,
        np.asarray(dataset.splits["train"].labels),
        n_classes=len(dataset.class_names or ()),
        name=shown.names[0].partition("/")[0],
        progress=log.isEnabledFor(logging.INFO),
    )
    scores = {
        split: extraction.extract(tuned, dataset.splits[split].images, image_size=config.image_size)
        for split in held_out(dataset)
    }
    sound = np.asarray(tuned.state.alive)
    for each in scores.values():
        sound = sound & np.isfinite(each).all((1, 2))
    for name in (name for name, good in zip(shown.names, sound) if not good):
        log.warning("%s: diverged in fine-tuning and has no such rows", name)
    rows = _classified("finetune", dataset, {split: each[sound] for split, each in scores.items()})
    for i, of_run in zip(np.flatnonzero(sound), rows):
        measured[i] = of_run
    return measured, {}


def _classified(
    evaluation: str, dataset: Dataset, scores: Mapping[str, Sequence[np.ndarray] | np.ndarray]
) -> list[Measured]:
    """Rows of a classifier, one entry a run: `linear` on the test images, `linear@validation` where there are any.

    Args:
      evaluation: as in the tables.
      dataset: with labels of every split in `scores`.
      scores: of "test" and perhaps "validation": one array [n, n_classes] a run.
    """
    measured: list[Measured] = [([], [])] * len(scores["test"])
    for split, of_runs in scores.items():
        name, labels = evaluation if split == "test" else f"{evaluation}@{split}", dataset.splits[split].labels
        for i, each in enumerate(of_runs):
            rows, by_class = classification(name, each, np.asarray(labels), dataset.class_names or ())
            measured[i] = ([*measured[i][0], *rows], [*measured[i][1], *by_class])
    return measured


def _kmeans(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    clustered = [
        clustering_measurements(
            features,
            dataset.splits["test"].labels,
            n_clusters=config.clusters or len(dataset.class_names or ()),
            random_state=seed % 2**31,  # scikit-learn takes no larger one
            normalize="l2" if config.kmeans_features == "l2" else "none",
        )
        for features, seed in zip(shown.test, shown.seeds)
    ]
    arrays = {
        "clusters": np.stack([found.assignment for _, found in clustered]).astype(np.int32),
        "distance": np.stack([found.distance for _, found in clustered]).astype(np.float32),
    }
    return [(rows, ()) for rows, _ in clustered], arrays


def _views(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    measured: list[Measured] = [((), ())] * len(shown.names)
    if shown.trained is None or not shown.columns["transforms"]:
        return measured, {}  # pixels and untrained encoders: no views were drawn for them
    weights = _lpips_weights(config)
    if weights is None:
        return measured, {}
    for evaluation, loss in {"views": "", "views@second": "second"}.items():
        if loss and config.second is None:
            continue
        distances = extraction.view_distances(config, shown.trained, weights, loss=loss)
        for i, each in enumerate(distances):
            rows, by_class = means(evaluation, "lpips", each, dataset.splits["train"].labels, dataset.class_names or ())
            measured[i] = ([*measured[i][0], *rows], [*measured[i][1], *by_class])
    return measured, {}


def _properties(
    config: Config, dataset: Dataset, shown: Representation
) -> tuple[list[Measured], dict[str, np.ndarray]]:
    train, names = dataset.splits["train"], dataset.class_names or ()
    labels = np.asarray(train.labels)
    if shown.trained is None:  # raw pixels: the images' own properties, the same for every seed
        of_runs = [properties.of_images(train.images, labels, names)] * len(shown.names)
    else:
        of_runs = []
        told = time.monotonic()
        for i, features in enumerate(shown.train):
            if time.monotonic() - told > 15:
                log.info("class properties: %d of %d runs", i, len(shown.names))
                told = time.monotonic()
            of_runs.append(properties.of_features(features, labels, names))
    measured: list[Measured] = [
        (
            (),
            [
                ClassMeasurement("properties", "label", name, metric, float(value))
                for metric, values in found.items()
                for name, value in zip(names, values)
                if np.isfinite(value)
            ],
        )
        for found in of_runs
    ]
    return measured, {}


# In the order of the tables. A new evaluation is a function and a row (and its name in config.EVALUATIONS).
_EVALUATE = {
    "linear": _linear,
    "knn": _knn,
    "finetune": _finetune,
    "kmeans": _kmeans,
    "views": _views,
    "properties": _properties,
}


def _held_features(shown: Representation) -> dict[str, np.ndarray]:
    """Features of the images that classifiers are measured on, by split."""
    return {"test": shown.test, **({} if shown.validation is None else {"validation": shown.validation})}


def _probe_features(config: Config, shown: Representation) -> tuple[Any, dict[str, np.ndarray]]:
    """What the probe trains on, and the features of the images that it is measured on, by split."""
    mean, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
    if config.probe_features == "standardized":
        mean = shown.train.mean(axis=1, keepdims=True)
        deviation = shown.train.std(axis=1, keepdims=True)
        scale = np.where(deviation > 0, deviation, 1).astype(np.float32)
    held = {split: (features - mean) / scale for split, features in _held_features(shown).items()}
    if config.probe_transforms == "none" or shown.trained is None:
        return (shown.train - mean) / scale, held
    draw = extraction.transformed(shown.trained, config.probe_transforms, config.image_size)
    return lambda index, keys: (draw(index, keys) - mean) / scale, held
