"""The evaluations that classify: linear probe, k-NN, fine-tuning and logistic regression, on all labels, a part, or another set."""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment
from ssljax import config as config_lib
from ssljax.config import Config, evaluation_parts
from ssljax.data import Dataset, Split, transfer
from ssljax.data.batches import order
from ssljax.data.labels import labelled_part
from ssljax.data.pixels import resize
from ssljax.data.splits import stratified
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.evaluate import logreg as logistic
from ssljax.evaluate.knn import knn_scores
from ssljax.evaluate.measure import ClassMeasurement, Measurement, classification, many_labels
from ssljax.representation import Representation, held_out
from ssljax.train import finetune as finetuning
from ssljax.train import probe
from ssljax.train.loop import Trained

log = logging.getLogger("ssljax")

Measured = tuple[Sequence[Measurement], Sequence[ClassMeasurement]]
"""What an evaluation says of one run: overall, and class by class."""

# Of the labelled training images, to choose the probe's learning rate by: our choice, the paper says "a local validation set".
CHOICE = 0.1
# Of the training images, to search the penalty of the logistic regression by, where a set has no validation images: as
# `ssljax.data.transfer` does for other sets.
SEARCH = transfer.VALIDATION_FRACTION
# Side in pixels of raw images in the logistic regression at most, CIFAR's: 3,072 numbers an image (our choice).
PIXELS_SIDE = 32


def check(config: Config, dataset: Dataset, channels: int) -> None:
    """Refuses, before anything is trained, the evaluations of this module that cannot be made. Parts and other sets are loaded.

    Args:
      config: resolved.
      dataset: what is trained and measured on.
      channels: of the images that the network takes.

    Raises:
      UserError: labels absent; a set that cannot be loaded or whose images the network does not take; transforms that are not
        defined for the images; too few images to choose a learning rate by.
    """
    train, test = dataset.splits["train"], dataset.splits["test"]
    part_of = functools.cache(lambda detail: np.asarray(_labelled(config, dataset, detail).labels))
    for name in config.evaluations:
        base, detail = evaluation_parts(name)
        if base not in EVALUATE:
            continue
        if base == "logreg" and detail:
            other = _transfer_set(config, detail)[0].splits["train"].images.shape[-1]
            if other not in (channels, 1):
                raise UserError(f"--evaluations: {name} has images of {other} channels, the network takes {channels}")
            continue
        if test.labels is None or train.labels is None:
            raise UserError(f"--evaluations: {name} needs labels and {config.dataset} has none; kmeans works without")
        labels = part_of(detail)
        held_is_needed = base == "linear" and config.probe_learning_rates and "validation" not in held_out(dataset)
        if held_is_needed and not len(stratified(len(labels), labels, CHOICE)[1]):
            count = f"{len(labels)} labelled images"
            raise UserError(f"--probe_learning_rates: {name}: {count} are too few to choose by; give none")
        if base == "finetune":
            for view in augment.parse(config.finetune_transforms).views:
                try:
                    augment.check(view, test.images.shape[-1])
                except UserError as error:
                    raise UserError(f"--finetune_transforms={config.finetune_transforms}: {error}") from None


def linear(config: Config, dataset: Dataset, shown: Representation, detail: str = "") -> tuple[list[Measured], dict]:
    """The linear probe on all labels or a part of them; with learning rates to choose from, each run has its own."""
    part, trained, features = _examples(config, dataset, shown, detail)
    labels, seen = np.asarray(part.labels), _probe_features(config, shown, trained, features)

    def fit(training: Any, labels: np.ndarray, rates: np.ndarray | float) -> dict[str, np.ndarray]:
        batch = min(config.probe_batch_size, len(labels))
        return probe.fit(
            training,
            labels,
            np.asarray(shown.seeds),
            n_classes=len(dataset.class_names or ()),
            dim=features.shape[-1],
            epochs=config.probe_epochs,
            batch_size=batch,
            learning_rate=np.multiply(rates, batch / 256 if config.probe_lr_scaling == "linear" else 1),
            schedule=config.probe_schedule,
            order=None if trained is None or trained.images is None else order,
        )

    chosen = None
    if config.probe_learning_rates:
        head, chosen = _with_chosen_rates(config, dataset, fit, seen, labels)
    else:
        head = fit(seen.training, labels, config.probe_learning_rate)
    name = _named("linear", detail)
    measured = _classified(name, dataset, {split: probe.scores(head, each) for split, each in seen.held.items()})
    if chosen is not None:
        for i, rate in enumerate(chosen.tolist()):
            measured[i] = ([*measured[i][0], Measurement(name, "label", "learning_rate", rate)], measured[i][1])
    return measured, {}


def knn(config: Config, dataset: Dataset, shown: Representation, detail: str = "") -> tuple[list[Measured], dict]:
    """The weighted k-NN, its neighbours from all training images or a part of them."""
    votes = partial(
        knn_scores,
        k=config.knn_k,
        temperature=config.knn_temperature,
        n_classes=len(dataset.class_names or ()),
    )
    part, _, features = _examples(config, dataset, shown, detail)
    scores = {
        split: [votes(bank, np.asarray(part.labels), each) for bank, each in zip(features, seen)]
        for split, seen in _held_features(shown).items()
    }
    return _classified(_named("knn", detail), dataset, scores), {}


def finetune(config: Config, dataset: Dataset, shown: Representation, detail: str = "") -> tuple[list[Measured], dict]:
    """Fine-tuning on all labels, or by the semi-supervised protocol on a part of them."""
    measured: list[Measured] = [((), ())] * len(shown.names)
    if shown.trained is None:
        return measured, {}  # raw pixels have no network
    part, name = _labelled(config, dataset, detail), _named("finetune", detail)
    tuned = finetuning.fit(
        config,
        _on(shown.trained, part) if detail else shown.trained,
        np.asarray(part.labels),
        n_classes=len(dataset.class_names or ()),
        protocol=finetuning.semi(config, _percent(detail)) if detail else finetuning.whole(config, len(part.images)),
        name=shown.names[0].partition("/")[0] + (f", {detail} of the labels" if detail else ""),
        progress=log.isEnabledFor(logging.INFO),
    )
    extract = extraction.extractor(tuned, image_size=config.image_size)
    scores = {split: extract(dataset.splits[split].images) for split in held_out(dataset)}
    sound = np.asarray(tuned.state.alive)
    for each in scores.values():
        sound = sound & np.isfinite(each).all((1, 2))
    for run in (run for run, good in zip(shown.names, sound) if not good):
        log.warning("%s: diverged in fine-tuning and has no such rows", run)
    rows = _classified(name, dataset, {split: each[sound] for split, each in scores.items()})
    for i, of_run in zip(np.flatnonzero(sound), rows):
        measured[i] = of_run
    return measured, {}


def logreg(config: Config, dataset: Dataset, shown: Representation, detail: str = "") -> tuple[list[Measured], dict]:
    """Logistic regression with a searched penalty on another data set, or on the data set itself."""
    name = _named("logreg", detail)
    searched, metric = _transfer_set(config, detail) if detail else (_with_validation(dataset), "top1")
    splits, classes = searched.splits, searched.class_names or ()
    assert shown.extract is not None
    features = {split: shown.extract(_seen(config, shown, part.images)) for split, part in splits.items()}
    measured: list[Measured] = []
    told = time.monotonic()
    for i in range(len(shown.names)):
        if i and all(np.array_equal(each[i], each[0]) for each in features.values()):
            measured.append(measured[0])  # raw pixels, or an encoder from a file: nothing hangs on the seed
            continue
        if time.monotonic() - told > 15:
            log.info("%s: %d of %d runs", name, i, len(shown.names))
            told = time.monotonic()
        scores, strength = logistic.fit_scores(
            features["train"][i],
            np.asarray(splits["train"].labels),
            features["validation"][i],
            np.asarray(splits["validation"].labels),
            features["test"][i],
            metric=metric,
            n_classes=len(classes),
        )
        judged = many_labels if metric == "map11" else classification
        rows, by_class = judged(name, scores, np.asarray(splits["test"].labels), classes)
        measured.append(([*rows, Measurement(name, "label", "lambda", strength)], by_class))
    return measured, {}


AVERAGE = "logreg@average"


def average(measured: Sequence[Measurement]) -> list[Measurement]:
    """The mean over the sets that one run is transferred to, each by its own metric (Table 5's last column); none of one set."""
    sets = [m for m in measured if m.evaluation.startswith("logreg@")]
    own = [m.value for m in sets if m.metric == transfer.metric_of(m.evaluation.partition("@")[2])]
    return [Measurement(AVERAGE, "label", "average", float(np.mean(own)))] if len(own) > 1 else []


# A function of (config, data set, representation, what stands after the @) for each evaluation of this module.
EVALUATE = {"linear": linear, "knn": knn, "finetune": finetune, "logreg": logreg}


def _named(base: str, detail: str) -> str:
    return f"{base}@{detail}" if detail else base


def _percent(detail: str) -> float:
    percent = config_lib.percent_of(detail)
    assert percent is not None  # `Config` refuses other names
    return percent


def _labelled(config: Config, dataset: Dataset, detail: str) -> Split:
    """The training images whose labels may be used: all, or the part that "10%" says."""
    if not detail:
        return dataset.splits["train"]
    return labelled_part(
        config.dataset,
        dataset,
        _percent(detail),
        data_dir=config.data_dir,
        manual_dir=config.manual_dir,
        cache_dir=config.cache_dir,
        image_size=config.resize,
    )


def _on(trained: Trained, part: Split) -> Trained:
    """The same runs with other training images."""
    if trained.images is not None:
        return trained._replace(images=part.images)
    return trained._replace(data=trained.data._replace(images=jnp.asarray(part.images)))


def _examples(
    config: Config, dataset: Dataset, shown: Representation, detail: str
) -> tuple[Split, Trained | None, np.ndarray]:
    """The labelled training images, the runs that have them as their training images, and their features."""
    part = _labelled(config, dataset, detail)
    if not detail:
        return part, shown.trained, shown.train
    assert shown.extract is not None
    return part, None if shown.trained is None else _on(shown.trained, part), shown.extract(part.images)


def _held_features(shown: Representation) -> dict[str, np.ndarray]:
    """Features of the images that classifiers are measured on, by split."""
    return {"test": shown.test, **({} if shown.validation is None else {"validation": shown.validation})}


class _Seen(NamedTuple):
    """What a probe sees.

    Attributes:
      fixed: [runs, n, dim], features of the labelled training images as they are.
      training: what it is trained on: `fixed`, or features of freshly transformed images, see `probe.fit`.
      held: [runs, m, dim] by split, of the images that it is measured on.
    """

    fixed: np.ndarray
    training: np.ndarray | Callable[[jax.Array, jax.Array], jax.Array]
    held: dict[str, np.ndarray]


def _probe_features(config: Config, shown: Representation, trained: Trained | None, features: np.ndarray) -> _Seen:
    """What the probe sees of the labelled images: features of its `trained` runs' images, and of those it is measured on."""
    mean, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
    if config.probe_features == "standardized":
        mean = features.mean(axis=1, keepdims=True)
        deviation = features.std(axis=1, keepdims=True)
        scale = np.where(deviation > 0, deviation, 1).astype(np.float32)
    held = {split: (each - mean) / scale for split, each in _held_features(shown).items()}
    fixed = (features - mean) / scale
    if config.probe_transforms == "none" or trained is None:
        return _Seen(fixed, fixed, held)
    draw = extraction.transformed(trained, config.probe_transforms, config.image_size)
    return _Seen(fixed, lambda index, keys: (draw(index, keys) - mean) / scale, held)


def _with_chosen_rates(
    config: Config,
    dataset: Dataset,
    fit: Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]],
    seen: _Seen,
    labels: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each run's classifier with the best of the learning rates to choose from, and those rates [runs].

    The best has the highest top-1, of equal ones the first given, on the validation images; where there are none, on a stratified
    tenth of the labelled images that is left out while the rates are tried.
    """
    rates = np.array([float(rate) for rate in config.probe_learning_rates])
    tried = np.broadcast_to(rates, (len(seen.fixed), len(rates)))
    runs = np.arange(len(seen.fixed))
    if "validation" in seen.held:
        heads = fit(seen.training, labels, tried)
        best = _best(heads, seen.held["validation"], np.asarray(dataset.splits["validation"].labels))
        return {name: leaf[runs, best] for name, leaf in heads.items()}, rates[best]
    kept, out = stratified(len(labels), labels, CHOICE)
    draw, places = seen.training, jnp.asarray(kept)
    some = (lambda index, keys: draw(places[index], keys)) if callable(draw) else draw[:, kept]
    best = _best(fit(some, labels[kept], tried), seen.fixed[:, out], labels[out])
    return fit(seen.training, labels, rates[best]), rates[best]


def _best(heads: Mapping[str, np.ndarray], features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which classifier of each run [runs] gives most images their class; one that diverged gives none."""
    counts = []
    for j in range(heads["kernel"].shape[1]):
        scores = probe.scores({name: leaf[:, j] for name, leaf in heads.items()}, features)
        right = (scores.argmax(axis=2) == labels).sum(axis=1)
        counts.append(np.where(np.isfinite(scores).all((1, 2)), right, -1))
    return np.argmax(counts, axis=0)


def _transfer_set(config: Config, name: str) -> tuple[Dataset, str]:
    """Another data set and its metric; where a study measures on validation images, its own play test here too."""
    dataset, metric = _loaded(name, config.data_dir, config.manual_dir, config.cache_dir, config.image_size)
    if config.evaluate_on == "validation":
        splits = {"train": dataset.splits["train"], "test": dataset.splits["validation"]}
        dataset = _with_validation(dataset._replace(splits=splits))
    return dataset, metric


@functools.cache
def _loaded(name: str, data_dir: str, manual_dir: str, cache_dir: str, image_size: int) -> tuple[Dataset, str]:
    """A transfer set, loaded once for all programs."""
    return transfer.load(name, data_dir=data_dir, manual_dir=manual_dir, cache_dir=cache_dir, image_size=image_size)


def _with_validation(dataset: Dataset) -> Dataset:
    """The data set with labelled validation images: its own, or a stratified part of its training images."""
    if "validation" in held_out(dataset):
        return dataset
    train = dataset.splits["train"]
    labels = np.asarray(train.labels)
    # Of many labels an image there is no class to stratify by.
    kept, held = stratified(len(labels), labels if labels.ndim == 1 else None, SEARCH)
    parts = {"train": train.rows(kept), "validation": train.rows(held)}
    return dataset._replace(splits={**parts, "test": dataset.splits["test"]})


def _seen(config: Config, shown: Representation, images: np.ndarray) -> np.ndarray:
    """The images as the features are made of: raw pixels are those of small images."""
    if shown.trained is not None:
        return images
    side = min(PIXELS_SIDE, config.image_size)
    return np.stack([resize(image, side) for image in images])


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
