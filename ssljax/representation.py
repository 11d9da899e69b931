"""What is measured: features of a data set's images under some runs, or raw pixels in their place, and what rows say of them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ssljax.config import Config
from ssljax.data import Dataset
from ssljax.evaluate import features as extraction
from ssljax.train import memory
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
      extract: integers [m, height, width, channels] -> float32 [runs, m, dim], the features of other images.
    """

    train: np.ndarray
    test: np.ndarray
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    swept: tuple[dict[str, float], ...]
    columns: dict[str, Any]
    trained: Trained | None
    validation: np.ndarray | None = None
    extract: Callable[[np.ndarray], np.ndarray] | None = None


def represent(config: Config, trained: Trained, dataset: Dataset, program: str) -> Representation | None:
    """The features of a trained program, without the runs that diverged; None when all did."""
    extract = extraction.extractor(trained, image_size=config.image_size)
    features = {split: extract(dataset.splits[split].images) for split in ("train", *held_out(dataset))}
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
        extract = extraction.extractor(trained, image_size=config.image_size)
    return Representation(
        features["train"],
        features["test"],
        tuple(f"{program}/{run.name}" for run in trained.runs),
        tuple(run.seed for run in trained.runs),
        tuple(run.swept for run in trained.runs),
        {**columns(config), "epoch": trained.epoch},
        trained,
        features.get("validation"),
        extract,
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


def pixels_fit(dataset: Dataset) -> bool:
    """Whether raw pixels of all images, as floats, take at most half of the memory that is free (our choice)."""
    values = sum(split.images.nbytes // split.images.dtype.itemsize for split in dataset.splits.values())
    return values * np.dtype(np.float32).itemsize <= memory.available() / 2


def pixels(dataset: Dataset, seeds: Sequence[int], program: str) -> Representation:
    """Raw pixels in [0, 1] as features, once a seed: K-means and the probe still depend on it."""

    def flat(images: np.ndarray) -> np.ndarray:
        scaled = np.asarray(images).reshape(len(images), -1).astype(np.float32) / np.iinfo(images.dtype).max
        return np.broadcast_to(scaled, (len(seeds), *scaled.shape))

    columns = {"method": "pixels", "backbone": "", "transforms": "", "epoch": 0}
    names = tuple(f"{program}/seed={seed}" for seed in seeds)
    features = {split: flat(dataset.splits[split].images) for split in ("train", *held_out(dataset))}
    return Representation(
        features["train"],
        features["test"],
        names,
        tuple(seeds),
        ({},) * len(seeds),
        columns,
        None,
        features.get("validation"),
        flat,
    )
