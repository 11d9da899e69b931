"""One program's measurements: features, the evaluations that were asked for, and rows for the two result tables."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssljax import classifying, clustering, profiling
from ssljax.classifying import Measured
from ssljax.config import Config, evaluation_parts
from ssljax.data import Dataset
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.evaluate import unlabelled
from ssljax.evaluate.measure import ClassMeasurement, Measurement, means
from ssljax.files import replacing
from ssljax.models import lpips
from ssljax.representation import Representation
from ssljax.study import convergence, properties, similarity

log = logging.getLogger("ssljax")


def check(config: Config, dataset: Dataset, channels: int = 0) -> None:
    """Refuses, before anything is trained, evaluations that this data set cannot be given.

    Args:
      config: resolved.
      dataset: what is trained and measured on.
      channels: of the images that the network takes (0: the data set's).

    Raises:
      UserError: no test split, labels absent where a metric needs them, or another set that cannot be loaded.
    """
    if not config.evaluations:
        return
    test = dataset.splits.get("test")
    if test is None or not len(test.images):
        raise UserError(f"--evaluations: {config.dataset} has no test images to measure on; give --evaluations= (none)")
    classifying.check(config, dataset, channels or test.images.shape[-1])
    clustering.check(config, dataset)
    profiling.check(config, dataset)
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


def measure(
    config: Config, dataset: Dataset, shown: Representation, artifacts: Path | None, known: Sequence[Measurement] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every evaluation of a representation, and what the figures need of it.

    Args:
      config: resolved; its evaluations and their settings are used.
      dataset: with splits train and test.
      shown: the features.
      artifacts: `.npz` file to write, None for none: runs, seeds, index, and for the test images labels, features, the
        columns to score against (`column_plate`), clusters and distance (those of `kmeans@k4` as `clusters@k4`).
      known: measured already, the same for every run: rows beside the others.

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
    saved |= {f"column_{name}": test.columns[name] for name in config.score}
    rows: list[dict[str, Any]] = []
    class_rows: list[dict[str, Any]] = []
    asked = [evaluation_parts(name) for name in dict.fromkeys(config.evaluations)]
    found: list[tuple[list[Measured], dict[str, np.ndarray]]] = [([(known, ())] * len(shown.names), {})]
    for name, evaluate in _EVALUATE.items():
        details = [[detail] if detail else [] for base, detail in asked if base == name]
        found += [evaluate(config, dataset, shown, *detail) for detail in details]
    every = [[m for measured, _ in found for m in measured[i][0]] for i in range(len(shown.names))]
    found.append(([(classifying.average(own), ()) for own in every], {}))
    for measured, arrays in found:
        saved |= arrays
        for i, (overall, by_class) in enumerate(measured):
            shared = {"run": shown.names[i], "seed": shown.seeds[i], **shown.swept[i]}
            shared |= {"dataset": config.dataset, **shown.columns}
            rows += [{**shared, **m._asdict()} for m in overall]
            for one in by_class:
                values = one._asdict()
                class_rows.append({**shared, "class": values.pop("class_name"), **values})
    if artifacts is not None:
        artifacts.parent.mkdir(parents=True, exist_ok=True)
        with replacing(artifacts, "wb") as file:
            np.savez(file, allow_pickle=False, **saved)
    return rows, class_rows


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


def _convergence(
    config: Config, dataset: Dataset, shown: Representation
) -> tuple[list[Measured], dict[str, np.ndarray]]:
    trained = shown.trained
    if trained is None or trained.program.scores is None or not shown.columns["transforms"]:
        return [((), ())] * len(shown.names), {}  # pixels and untrained encoders
    found = convergence.of_runs(config, trained)
    return [(convergence.measurements(each), ()) for each in found], {
        "convergence": np.stack([f.errors for f in found])
    }


def _unlabelled(
    config: Config, dataset: Dataset, shown: Representation
) -> tuple[list[Measured], dict[str, np.ndarray]]:
    if shown.trained is None:
        return [((), ())] * len(shown.names), {}  # raw pixels have no encoder
    train, views = dataset.splits["train"], None
    places, _ = unlabelled.places(len(train.images))
    if shown.columns["transforms"]:  # encoders that are not trained here have no views of their own
        _, draw = extraction.watching(config, shown.trained.program, unlabelled.VIEWS)
        views = draw(shown.trained, np.asarray(train.images[places]), places)
    measured: list[Measured] = []
    for i, features in enumerate(shown.train):
        found = unlabelled.measures(features[places], None if views is None else views[i])
        measured.append(([Measurement("unlabelled", "", k, v) for k, v in found.items() if np.isfinite(v)], ()))
    return measured, {}


def _cka(config: Config, dataset: Dataset, shown: Representation) -> tuple[list[Measured], dict[str, np.ndarray]]:
    del config, dataset
    # The seeds of a setting may be in several programs: `similarity.settle` fills these in when all have been measured.
    row = Measurement(*similarity.KEY, float("nan"))
    return [((row,) if shown.trained is not None else (), ())] * len(shown.names), {}


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


# In the order of the tables. A new evaluation is a function and a row (and its name in config.EVALUATIONS); one that takes a
# detail, which stands after an @ in its name, has that as its fourth argument.
_EVALUATE: dict[str, Callable[..., tuple[list[Measured], dict[str, np.ndarray]]]] = {
    **classifying.EVALUATE,
    "kmeans": clustering.kmeans,
    "dose": clustering.dose,
    "profiles": profiling.measure,
    "views": _views,
    "properties": _properties,
    "convergence": _convergence,
    "unlabelled": _unlabelled,
    "cka": _cka,
}
