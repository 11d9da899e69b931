"""The stage embed: which encoder, which images and which folder a command means (`--stages=embed --checkpoint=...`)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ssljax import planning, processes, serving
from ssljax.config import OF_IMAGES, Config
from ssljax.data import Dataset
from ssljax.embedding import Embedding, Settings, write
from ssljax.errors import UserError, unknown
from ssljax.planning import Program
from ssljax.serving import Served
from ssljax.sweeps import Run


def refuse_stages(configs: Sequence[Config], stages: Sequence[str]) -> None:
    """Raises `UserError` for stages that an embedding is not made in."""
    if any(config.checkpoint for config in configs) and list(stages) != ["embed"]:
        raise UserError("--checkpoint: is what the stage embed embeds with; give --stages=embed and no other")
    if "embed" in stages and processes.several():
        raise UserError("--stages: embed is for one process; give it by itself when training has ended")


def forgotten(configs: Sequence[Config]) -> list[Config]:
    """The configs without what is asked of a single embedding, which a workdir is not to remember."""
    return [dataclasses.replace(config, run="", embed_on=()) for config in configs]


def embed_run(program: Program, run: Run, workdir: Path, *, progress: bool = True) -> Embedding:
    """Writes what a run of a workdir makes of its own data set, as WORKDIR/embedding/RUN; errors as `write`."""
    encoder = serving.of_run(program, run, workdir)
    dataset = planning.loaded(program.config)
    return _embed(program.config, encoder, dataset, workdir / "embedding" / encoder.name, progress)


def embed_other(configs: Sequence[Config], workdir: Path, *, progress: bool = True) -> list[Embedding]:
    """Writes what a run of `checkpoint` makes of the data sets of the configs, as WORKDIR/embedding/RUN@DATASET.

    The run's own data set is embedded as it was trained on, and named no more than by the run.

    Args:
      configs: given; of each the data set, what is done with its images, and the embedding's own settings.
      workdir: where the folder `embedding` is or is made.
      progress: whether progress is drawn on standard error.

    Raises:
      UserError: as `write`, or a checkpoint that is neither a workdir nor the file of an encoder.
    """
    config, where = configs[0], Path(configs[0].checkpoint)
    if not where.is_dir():
        found = []
        for one in {_images(c): c for c in configs}.values():
            dataset = planning.loaded(one)
            encoder = serving.of_file(where, one.run, dataset, one.image_size or 0, one.precision)
            found.append(_embed(one, encoder, dataset, _beside(workdir, encoder, one), progress))
        return found
    with serving.studied(where) as programs:
        program, run = serving.chosen(programs, config.run, where)
        encoder = serving.of_run(program, run, where)
        own = next((c for c in configs if _images(c) == _images(program.config)), None)
        if own is not None:
            return [_embed(own, encoder, planning.loaded(own), workdir / "embedding" / encoder.name, progress)]
        found = []
        for one in {_images(c): c for c in configs}.values():
            one = dataclasses.replace(one, resize=one.resize or program.config.resize)
            mine = encoder._replace(image_size=one.image_size or encoder.image_size)
            found.append(_embed(one, mine, planning.loaded(one), _beside(workdir, mine, one), progress))
        return found


def _images(config: Config) -> tuple:
    return tuple(getattr(config, name) for name in OF_IMAGES)


def _beside(workdir: Path, encoder: Served, config: Config) -> Path:
    return workdir / "embedding" / f"{encoder.name}@{planning.slug(config.dataset)}"


def _embed(config: Config, encoder: Served, dataset: Dataset, target: Path, progress: bool) -> Embedding:
    for split in config.embed_on:
        if split not in dataset.splits:
            raise unknown("split", split, dataset.splits, "--embed_on")
    settings = Settings(config.clusters, config.neighbours, config.map)
    return write(target, encoder, dataset, settings, config.embed_on, progress)
