"""Which programs a command is: the names, settings, runs and data of what is trained as one, checked before any of it runs."""

import dataclasses
import hashlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ssljax import augment, data, encoders, measuring, representation, sweeps
from ssljax import config as config_lib
from ssljax.config import OF_IMAGES, Config
from ssljax.data import Dataset
from ssljax.errors import UserError, unknown
from ssljax.methods import OF_METHODS, reads
from ssljax.models.weights import Encoder
from ssljax.report import tables
from ssljax.study import convergence, pairings, superclasses
from ssljax.sweeps import Run
from ssljax.train import execution, loop, memory
from ssljax.train.execution import Execution
from ssljax.train.memory import Memory

log = logging.getLogger("ssljax")


class Program(NamedTuple):
    """Runs that are trained as one: a name that is a file name too, a resolved config, its runs, its data.

    `encoder` is what the file holds that they are measured from, or start from. `listed` holds its values of the settings that were
    given as lists and that no column of the tables tells of: they stand there as swept values do.
    """

    name: str
    config: Config
    runs: tuple[Run, ...]
    dataset: Dataset
    encoder: Encoder | None = None
    listed: Mapping[str, Any] = MappingProxyType({})


def plan(
    configs: Sequence[Config],
    *,
    trained: bool = True,
    checkpoints: Path | None = None,
    free: int | None = None,
) -> list[Program]:
    """The programs of some configs: names, resolved settings, runs and data, everything checked that can be before training.

    Args:
      configs: as given.
      trained: whether the programs are to be trained or measured, so that what this takes is checked too.
      checkpoints: where the programs' checkpoints are or will be. Runs that are there stay in the programs that trained them;
        for those that are not, the memory is estimated and said, and a sweep that does not fit is split.
      free: bytes that can be used on each device; None for what this process finds.

    Raises:
      UserError: the first thing that is wrong.
    """
    resolved = [config_lib.resolve(config) for config in configs]
    _refuse_without_effect(configs, resolved)
    for path in {config.targets for config in resolved if config.targets}:
        tables.read_targets(path)
    sets: dict[tuple, Dataset] = {}
    programs: list[Program] = []
    listed = _listed(configs)
    for name, given, config, values in zip(program_names(configs, resolved), configs, resolved, listed):
        runs = sweeps.runs(config)
        for one in runs if not config.pretrained else ():
            sweeps.hyper(config, one)
        key = tuple(getattr(config, name) for name in (*_FOLDERS, *OF_IMAGES))
        if key not in sets:
            sets[key] = loaded(config)
        dataset = _measured_on(config, sets[key])
        kept = execution.read(checkpoints).get(name) if checkpoints else None
        config = _streamed(config, dataset, kept, trained, free)
        if config.pretrained:  # nothing that is trained is checked, and nothing split
            encoder = None
            if trained:
                config, encoder = encoders.settle(given, config)
                measuring.check(config, dataset, encoder.channels if encoder else 0)
                encoders.check_channels(encoder, config, dataset)
                convergence.check(config, False)
                _check_probe(config, dataset)
            programs.append(Program(name, config, tuple(runs), dataset, encoder, values))
            continue
        encoder = None
        if config.init_from and (trained or Path(config.init_from).exists()):  # a report needs no file
            config, encoder = encoders.settle(given, config)
            encoders.check_channels(encoder, config, dataset)
        if trained:
            _check_prototypes(config, dataset)
            measuring.check(config, dataset)
            _check_probe(config, dataset)
            images = dataset.splits["train"].images
            functions = loop.program_of(config, len(images), images.shape[-1], dataset.classes)
            convergence.check(config, functions.scores is not None)
        need = partial(memory.estimate, functions, config, images) if trained else None
        programs += _laid_out(Program(name, config, tuple(runs), dataset, encoder, values), checkpoints, need, free)
    encoders.refuse_equal(resolved)
    _check_study(programs)
    _check_pairs(programs)
    return programs


_FOLDERS = ("data_dir", "manual_dir", "cache_dir", "stream")


def _streamed(config: Config, dataset: Dataset, kept: Execution | None, trained: bool, free: int | None) -> Config:
    """The config with where its images come from chosen: as its checkpoints were trained, else as there is room for them."""
    if config.stream != "auto" or not (kept or trained):
        return config
    chosen = kept.stream if kept else memory.stream(images := dataset.splits["train"].images, free)
    if not kept and chosen != "no":
        size = memory.size_text(images.nbytes)
        log.info("%s: images of %s are read from the cache as they are needed (--stream)", config.dataset, size)
    return dataclasses.replace(config, stream=chosen)


def loaded(config: Config) -> Dataset:
    """The images that a resolved config asks for."""
    subset = None
    if config.compound:
        subset = data.Subset(config.compound, config.concentrations, config.controls, config.max_images)
    loaded = data.load(
        config.dataset,
        data_dir=config.data_dir,
        manual_dir=config.manual_dir,
        cache_dir=config.cache_dir,
        validation_fraction=config.validation_fraction,
        image_size=config.resize,
        label=config.label,
        group=config.group,
        subset=subset,
        channels=config.channels,
        channel_files=config.channel_files,
        path_column=config.path_column,
        split_column=config.split_column,
        decode=config.stream == "decode",
    )
    return data.part(loaded.single(), config.max_images)


def _laid_out(
    whole: Program, checkpoints: Path | None, estimate: Callable[[], Memory] | None, free: int | None
) -> list[Program]:
    """The programs that the runs of one config are trained as, with the run axis chosen.

    Runs that have been trained, or begun, stay in their programs; the others make one more, or several where one does not fit.

    Args:
      whole: all runs of the config.
      checkpoints, free: as for `plan`.
      estimate: the memory of a run; None where nothing is trained or measured.
    """
    name, config, runs = whole.name, whole.config, whole.runs
    kept = execution.read(checkpoints).get(name) if checkpoints else None
    parts = {} if kept is None else {part: _named(runs, names) for part, names in kept.programs.items()}
    new = [run for run in runs if not any(run in held for held in parts.values())]
    need = estimate() if estimate and new and (checkpoints or len(new) > 1) else None
    axis = kept.run_axis if kept else execution.run_axis(config, need.activations if need else None)
    config = dataclasses.replace(config, run_axis=axis)
    sizes = memory.even(len(new), config.max_runs_per_program) if new else ()
    if need and checkpoints:
        log.info("%s: %s", name, need)
        if parts:
            log.info("%s: %d runs are there already; %d are trained beside them", name, len(runs) - len(new), len(new))
        sizes = memory.split(config, need, len(new), free=free)
    first = len(parts)
    for number, (end, size) in enumerate(zip(itertools.accumulate(sizes), sizes), start=first):
        part = name if (first, len(sizes)) == (0, 1) else f"{name}~{number}"
        parts[part] = tuple(new[end - size : end])
    for held in parts.values() if estimate else ():
        execution.layout(config, len(held))
    return [whole._replace(name=part, config=config, runs=held) for part, held in parts.items()]


def executions(programs: Sequence[Program]) -> dict[str, Execution]:
    """How the runs of each config are laid out, by the name of its programs before they were split."""
    chosen: dict[str, Execution] = {}
    for program in programs:
        one = chosen.setdefault(
            program.name.partition("~")[0], Execution(program.config.run_axis, {}, program.config.stream)
        )
        one.programs[program.name] = tuple(run.name for run in program.runs)
    return chosen


def slug(text: str) -> str:
    """Text as a file name; one that had to be changed is told apart by its hash."""
    slug = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_")[:32]
    return slug if slug == text else f"{slug}_{hashlib.sha256(text.encode()).hexdigest()[:7]}"


def superclasses_of(config: Config, dataset: Dataset) -> dict[str, str] | None:
    """The superclass of each class: of the file or the tfds feature given, else the data set's own; None where there are none.

    Raises:
      UserError: a bad file, or no such feature.
    """
    if config.superclasses.isidentifier() and not Path(config.superclasses).exists():
        folders = {"data_dir": config.data_dir, "manual_dir": config.manual_dir, "cache_dir": config.cache_dir}
        return data.superclasses(config.dataset, config.superclasses, **folders)
    if config.superclasses:
        return superclasses.read_superclasses(config.superclasses)
    return superclasses.superclasses(config.dataset, dataset.class_names or ())


def _check_study(programs: Sequence[Program]) -> None:
    """Raises if a class to focus on is in none of the data sets, or the study is to be about an evaluation that there is not."""
    evaluation = re.split("[@:]", programs[0].config.study_of)[0]
    if evaluation and evaluation not in config_lib.EVALUATIONS:
        raise unknown("evaluation", evaluation, config_lib.EVALUATIONS, "--study_of")
    known: set[str] = set()
    for program in programs:
        known |= {
            *(program.dataset.class_names or ()),
            *(superclasses_of(program.config, program.dataset) or {}).values(),
        }
    for name in programs[0].config.focus:
        if name not in known:
            raise unknown("class", name, known, "--focus")


def _check_pairs(programs: Sequence[Program]) -> None:
    """Raises if pairs of settings are to be compared that these programs will not have, or not in runs of the same seeds."""
    asked = programs[0].config.compare
    if not asked:
        return
    measure = {"evaluation": "linear", "target": "label", "metric": "top1", "value": 0.0, "epoch": 1}
    rows: list[dict[str, Any]] = []
    for program in programs:
        kind = {**measure, "dataset": program.config.dataset, **representation.columns(program.config)}
        for run in program.runs:
            own = {"run": f"{program.name}/{run.name}", "seed": run.seed, **program.listed, **run.swept}
            rows.append({**own, **kind})
    for method in ("random", "pixels"):  # the untrained encoder and the raw pixels that every table has
        config = programs[0].config
        kind = {**measure, "method": method, "transforms": "", "dataset": config.dataset}
        kind |= {"backbone": "" if method == "pixels" else config.backbone}
        rows += [{"run": f"{method}/seed={seed}", "seed": seed, **kind} for seed in config.seeds]
    pairings.asked_for(rows, asked)


def _check_probe(config: Config, dataset: Dataset) -> None:
    """Raises unless the probe's transforms are defined for the images."""
    for view in augment.parse(config.probe_transforms).views:
        augment.check(view, dataset.splits["train"].images.shape[-1])


def _named(runs: Sequence[Run], names: Sequence[str]) -> tuple[Run, ...]:
    """Those of the runs that have these names, in the order of the names."""
    by_name = {run.name: run for run in runs}
    return tuple(by_name[name] for name in names if name in by_name)


def _refuse_without_effect(given: Sequence[Config], resolved: Sequence[Config]) -> None:
    """Raises if a setting of methods or of a second loss is given that nothing reads; one program of a list that does is enough."""
    methods = {c.method: None for one in resolved for c in (one, one.second) if c is not None}
    read = set().union(*map(reads, methods))
    for name in OF_METHODS:
        values = [getattr(config, name) for config in given]
        if name not in read and values[0] is not None:
            flag = config_lib.flag_name(config_lib.fields_by_name()[name])
            raise UserError(f"--{flag}: {values[0]} has no effect on {' and '.join(methods)}")
    trained = [config for config in resolved if not config.pretrained]
    if not trained or any(config.second is not None for config in trained):
        return
    for flag in config_lib.OF_SECOND:
        field = config_lib.fields()[flag]
        if any(getattr(config, field.name) != field.default for config in trained):
            raise UserError(f"--{flag}: there is no second loss without --second_transforms")


def _check_prototypes(config: Config, dataset: Dataset) -> None:
    """Raises if a clustering method could not tell the classes apart."""
    labels = dataset.splits["train"].labels
    classes = max(config.clusters, 0 if labels is None else len(np.unique(labels)))
    for own in (config, config.second):
        if own is not None and own.prototypes is not None and own.prototypes < classes:
            raise UserError(
                f"--prototypes: {own.prototypes} are fewer than the {classes} classes of {config.dataset} that are looked for"
            )


def _measured_on(config: Config, dataset: Dataset) -> Dataset:
    """The data set with the split that is measured in the place of "test"."""
    if config.evaluate_on == "test":
        return dataset
    if config.evaluate_on not in dataset.splits:
        raise UserError(
            f"--evaluate_on: {config.dataset} has no validation images; give --validation_fraction=0.1, say"
        )
    return dataset._replace(splits={"train": dataset.splits["train"], "test": dataset.splits[config.evaluate_on]})


# The settings that a user thinks in, and that the tables have columns for.
_TOLD = ("dataset", "method", "second_method", "backbone", "transforms", "second_transforms")


def _listed(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Each config's values, by flag, of the settings in which the configs as given differ and that no column tells of."""
    known = config_lib.fields().items()
    names = {flag: f.name for flag, f in known if f.name not in (*_TOLD, "pretrained")}
    differing = {flag: name for flag, name in names.items() if len({getattr(c, name) for c in configs}) > 1}
    return [{flag: getattr(config, name) for flag, name in differing.items()} for config in configs]


def program_names(given: Sequence[Config], configs: Sequence[Config]) -> list[str]:
    """A name for each program: its values of the settings in which the programs differ, else the method's.

    Those given as lists come first: a preset brings others along, which only tell programs apart where the given ones do not.

    Args:
      given: the configs before `resolve`.
      configs: the same ones resolved.
    """
    names = [*_TOLD, *(f.name for f in config_lib.fields().values() if f.name not in _TOLD)]

    def differing_in(configs: Sequence[Config]) -> list[str]:
        return [name for name in names if len({getattr(c, name) for c in configs}) > 1]

    given = [config_lib.with_its_second(config) for config in given]
    telling, differing = differing_in(given) or ["method"], differing_in(configs)
    files = encoders.short_names(file for c in configs for file in (c.pretrained, c.init_from) if file)
    if any(c.pretrained for c in configs):  # the method says nothing about them
        telling, differing = (
            ["pretrained", *(n for n in each if n not in ("pretrained", "method"))] for each in (telling, differing)
        )

    def value(name: str, own: Config, resolved: Config) -> Any:
        # As given: the small size makes several values one.
        return getattr(resolved, name) if getattr(own, name) is None else getattr(own, name)

    def names_by(fields: Sequence[str]) -> list[str]:
        values = [[v for f in fields if (v := value(f, *both)) != ""] for both in zip(given, configs)]
        return ["-".join(files.get(v) or slug(str(v)) for v in each) or "none" for each in values]

    names = names_by(telling)
    return names if len(set(names)) == len(names) else names_by(differing)
