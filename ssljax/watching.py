"""A look at the features of all runs of a program while they are trained: measures with and without labels, collapse said at once.

The look is at a fixed sample of training images, so that nothing can be chosen on test labels, and changes nothing of the training.
It is a quick one: the tables' protocols are other ones.
"""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from threadpoolctl import threadpool_limits

from ssljax import processes
from ssljax.config import Config
from ssljax.data import Split
from ssljax.evaluate import features as extraction
from ssljax.evaluate import unlabelled
from ssljax.evaluate.knn import knn_scores
from ssljax.methods import METHODS
from ssljax.planning import Program
from ssljax.train import loop
from ssljax.train.step import State

log = logging.getLogger("ssljax")

LABELLED = ("knn", "ridge")  # measured where there are labels, before `unlabelled.MEASURES`

FEW = 256  # images that collapse is looked for on, after an epoch without a whole look (our choice)
# Penalty of the ridge classifier per image, on features of deviation 1: a hundredth of what it shrinks (our choice).
RIDGE = 0.01

_NEAR = 0.005  # a loss within half a percent of its trivial value is at it (our choice)
_CARRIED = ("queue", "bank")  # parts of a method's memory that hold features


class Sample(NamedTuple):
    """The images that are looked at.

    Attributes:
      places: [n], of the images among the training images.
      images: integers [n, height, width, channels].
      bank: [m], places of the further images.
      bank_images: [m, height, width, channels].
      labels, bank_labels: whole numbers, or None.
    """

    places: np.ndarray
    images: np.ndarray
    bank: np.ndarray
    bank_images: np.ndarray
    labels: np.ndarray | None = None
    bank_labels: np.ndarray | None = None


def sample(train: Split) -> Sample:
    """The images that are looked at; the bank is empty where there are no labels, or more than one of an image."""
    own, further = unlabelled.places(len(train.images), unlabelled.BANK)
    labels = None if train.labels is None else np.asarray(train.labels)
    if labels is None or labels.ndim != 1 or len(np.unique(labels[further])) < 2:
        return Sample(own, np.asarray(train.images[own]), further[:0], np.asarray(train.images[further[:0]]))
    images, bank = (np.asarray(train.images[each]) for each in (own, further))
    return Sample(own, images, further, bank, labels[own], labels[further])


def of_program(program: Program, trained: loop.Trained) -> loop.Watch:
    """What `loop.pretrain` takes to look at a program's runs, every `config.eval_every` epochs and after the last one.

    Between these collapse is looked for after every epoch, where one process trains; before the first step the images and what
    the method carries are looked at. Of several processes the first one looks, and the others wait.

    Args:
      program: from `plan`.
      trained: its runs, at any step.

    Returns:
      A function of (state, epochs done, metrics of the last) that gives each run's numbers by name, none of a run that is frozen.
    """
    config, runs, name = program.config, trained.runs, program.name
    seen = sample(program.dataset.splits["train"])
    # Neither the images on the device nor the state that is trained away is held here.
    nothing: Any = ()
    bare = trained._replace(state=nothing, images=None, data=extraction.without_images(trained.data))
    encoders: dict[Mesh, tuple[extraction.Encode, extraction.Encode]] = {}
    told: set[tuple[str, int]] = set()

    def say(what: str, wrong: np.ndarray, texts: Sequence[str]) -> None:
        """Says of a run what is wrong with it when it begins to be."""
        for i, run in enumerate(runs):
            if wrong[i] and (what, i) not in told:
                log.warning("%s: run %s %s", name, run.name, texts[i])
            (told.add if wrong[i] else told.discard)((what, i))

    def before(state: State, epoch: int) -> None:
        """What can be said without an encoder."""
        if not epoch and (seen.images == seen.images[:1]).all():
            count = len(seen.images)
            log.warning(
                "%s: %d training images that were looked at are all alike: nothing can be learned of them", name, count
            )
        when = f"after epoch {epoch}" if epoch else "before the first step"
        for part, spread in carried(state).items():
            texts = [
                f"holds nearly the same features throughout in its {part} {when} (collapse {each:.4f}, below "
                f"{unlabelled.COLLAPSED}): they tell nothing apart"
                for each in spread
            ]
            say(part, np.asarray(state.alive) & (spread < unlabelled.COLLAPSED), texts)

    def looked(mine: loop.Trained, epoch: int, values: loop.Metrics, whole: bool) -> list[dict[str, Any]]:
        """The rows of an epoch."""
        if mine.mesh not in encoders:
            encoders[mine.mesh] = extraction.watching(
                config, mine.program, unlabelled.VIEWS, how=config.run_axis, mesh=mine.mesh
            )
        encode, views = encoders[mine.mesh]
        alive, part = np.asarray(mine.state.alive), slice(None if whole else FEW)
        features = encode(mine, seen.images[part], seen.places[part])
        spread = np.array([_collapse(each) for each in features])
        wrong = alive & ~(spread >= unlabelled.COLLAPSED)
        say("collapse", wrong, [_told(config, epoch, each, values, i) for i, each in enumerate(spread)])
        rows: list[dict[str, Any]] = [{"collapsed": True} if each else {} for each in wrong]
        if not whole:
            return rows
        drawn = views(mine, seen.images, seen.places)
        bank = encode(mine, seen.bank_images, seen.bank) if len(seen.bank) else None
        for i in np.flatnonzero(alive).tolist():
            with_labels = {} if bank is None else labelled(config, seen, bank[i], features[i], program.dataset.classes)
            found = {**with_labels, **unlabelled.measures(features[i], drawn[i])}
            rows[i] |= {f"{unlabelled.PREFIX}{k}": v if math.isfinite(v) else None for k, v in found.items()}
        return rows

    def watch(state: State, epoch: int, values: loop.Metrics) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in runs]
        whole = epoch % config.eval_every == 0 or epoch == config.epochs
        if processes.several() and epoch and not whole:  # the whole state would have to go from one to the other
            return rows
        mine = loop.here(bare._replace(state=state))
        if mine is not None:
            before(mine.state, epoch)
            rows = looked(mine, epoch, values, whole) if epoch else rows
        processes.wait()
        return rows

    return watch


def labelled(config: Config, seen: Sample, bank: np.ndarray, features: np.ndarray, classes: int) -> dict[str, float]:
    """Top-1 of two quick classifiers that are fitted on the bank and scored on the sample, by the names in `LABELLED`.

    The weighted k-NN is the tables' own; the ridge classifier is the least-squares fit of the classes' indicators to features of
    mean 0 and deviation 1, in closed form.

    Args:
      config: resolved; its k and temperature are used.
      seen: with labels.
      bank, features: [m, dim] and [n, dim] of one run.
      classes: of the labels.

    Returns:
      Fractions; NaN where features are not finite.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert seen.labels is not None and seen.bank_labels is not None
    if not (np.isfinite(bank).all() and np.isfinite(features).all()):
        return {name: math.nan for name in LABELLED}
    with threadpool_limits(1):  # as in `unlabelled`
        votes = knn_scores(
            bank, seen.bank_labels, features, k=config.knn_k, temperature=config.knn_temperature, n_classes=classes
        )
        ridge = make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE * len(bank)))
        guessed = ridge.fit(bank.astype(np.float64), seen.bank_labels).predict(features.astype(np.float64))
    return {
        "knn": float((votes.argmax(axis=1) == seen.labels).mean()),
        "ridge": float((guessed == seen.labels).mean()),
    }


def carried(state: State) -> dict[str, np.ndarray]:
    """How spread the features are that a method carries in a queue or bank, by its path: `unlabelled.collapse` of each run [runs].

    Of several queues the least. One that is empty yet, all zeros, counts as infinitely spread.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.memory):
        names = [str(getattr(key, "key", key)) for key in path]
        if names[-1] in _CARRIED and leaf.ndim >= 3:
            found["/".join(names)] = np.asarray(_spread(leaf))
    return found


@jax.jit
def _spread(rows: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    deviation = (rows / jnp.where(length > 0, length, 1)).std(axis=-2)
    spread = jnp.where((length > 0).any((-1, -2)), rows.shape[-1] ** 0.5 * deviation.mean(axis=-1), jnp.inf)
    return spread.reshape(len(rows), -1).min(axis=1)


def _collapse(features: np.ndarray) -> float:
    return float(unlabelled.collapse(features)) if np.isfinite(features).all() else math.nan


def _told(config: Config, epoch: int, spread: float, values: loop.Metrics, i: int) -> str:
    if math.isnan(spread):
        return f"has features that are not finite after epoch {epoch}"
    told = (
        f"has collapsed after epoch {epoch}: the features of all images all but share one direction (collapse {spread:.4f}, below "
        f"{unlabelled.COLLAPSED})"
    )
    loss, trivial = float(np.asarray(values["loss"])[-1, i]), trivial_loss(config)
    if trivial is not None and abs(loss - trivial[0]) <= _NEAR * trivial[0]:
        told += f"; its loss {loss:.3f} is {trivial[1]}, that of a guess"
    return told


def trivial_loss(config: Config) -> tuple[float, str] | None:
    """The InfoNCE of an encoder that tells nothing apart, and how it is made up; None for other losses."""
    candidates = getattr(METHODS[config.method], "candidates", None)
    if config.second is not None or candidates is None:
        return None
    count = candidates(config)
    return math.log(count), f"log {count}"
