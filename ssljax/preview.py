"""What the network will see: a sheet of a program's images and of what its transform sets make of them, before any training."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment, sweeps
from ssljax.planning import Program
from ssljax.report import figures
from ssljax.sweeps import Run
from ssljax.train.step import check_channels, sizes, sources, to_unit, transform_values

log = logging.getLogger("ssljax")

_HEADS = {
    "view1": "view 1",
    "view2": "view 2",
    "weak": "weak view",
    "local": "local crop",
    "second.view1": "2nd set, 1",
    "second.view2": "2nd set, 2",
    "second.weak": "2nd, weak",
    "second.local": "2nd, local",
}


def preview(program: Program, path: Path, *, images: int = 8, draws: int = 4) -> None:
    """A sheet of what a program's transform sets do: a row an image, the original first, then draws of each view.

    Of a sweep, half of the draws are at the values of its first run and half at those of its last.

    Args:
      program: whose traced values, sets and data are shown.
      path: PNG to write.
      images, draws: rows, and draws of each view.
    """
    config, split = program.config, program.dataset.splits["train"]
    index = np.linspace(0, len(split.images) - 1, min(images, len(split.images))).astype(int)
    originals = np.asarray(split.images[index])
    views = sources(config)
    check_channels(config, originals.shape[-1])
    plan_sizes = sizes(config)
    first, last = program.runs[0], program.runs[-1]
    shown = [first] * draws if first.swept == last.swept else [first] * (draws // 2) + [last] * (draws - draws // 2)

    @jax.jit
    def draw(key: jax.Array, hyper: dict[str, Any]) -> list[jax.Array]:
        unit = to_unit(jnp.asarray(originals))
        return [
            augment.apply_view(
                view,
                jax.random.fold_in(key, i),
                unit,
                transform_values(hyper, source),
                image_size=plan_sizes.get(source, config.image_size),
            )
            for i, (source, view) in enumerate(views.items())
        ]

    drawn = [
        [np.asarray(each) for each in draw(jax.random.key(number), sweeps.hyper(config, run))]
        for number, run in enumerate(shown)
    ]
    sheet = np.stack([_enlarged(d[i], config.image_size) for i in range(len(views)) for d in drawn], axis=1)
    heads = [_head(source, run) for source in views for run in shown]
    named = " and ".join(filter(None, (config.transforms, config.second_transforms)))
    between = f" ({', '.join(first.swept)} as given above the columns)" if len(set(heads)) > len(views) else ""
    figures.views_sheet(path, originals, sheet, title=f"{named}: what the network sees{between}", heads=heads)
    log.info("%s: %s", program.name, path)


def _head(source: str, run: Run) -> str:
    return "\n".join([_HEADS.get(source, source), *(f"{value:.4g}" for value in run.swept.values())])


def previewed(programs: Sequence[Program]) -> list[Program]:
    """The programs that get a sheet: of those that are trained, the first of all whose sheets would look alike."""
    return list({_shown(p): p for p in reversed(programs) if not p.config.pretrained}.values())


def _shown(program: Program) -> tuple:
    """What two programs must share for their previews to look alike."""
    config = program.config
    drawn = tuple(sizes(config).items())
    return (
        config.dataset,
        config.resize,
        config.image_size,
        config.transforms,
        config.second_transforms,
        config.set,
        drawn,
    )


def _enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Square images [n, h, w, c] of a smaller side at the side of the others, pixels as they are."""
    index = np.arange(size) * images.shape[1] // size
    return images[:, index][:, :, index]
