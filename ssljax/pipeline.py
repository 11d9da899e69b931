"""The whole study in one call: preview, pretrain, evaluate, report, over every program of a list of configs."""

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment, data, encoders, measuring, sweeps
from ssljax import config as config_lib
from ssljax import workdir as workdir_lib
from ssljax.config import Config
from ssljax.data import Dataset
from ssljax.errors import UserError, unknown
from ssljax.evaluate import features as extraction
from ssljax.evaluate.results import read_results, write_results
from ssljax.methods import OF_METHODS, reads
from ssljax.models.weights import Encoder
from ssljax.report import figures, tables
from ssljax.report.page import write_page
from ssljax.sweeps import Run
from ssljax.train import execution, loop, memory
from ssljax.train.execution import Execution
from ssljax.train.step import check_channels, sizes, sources, to_unit, transform_values

log = logging.getLogger("ssljax")

STAGES = ("preview", "pretrain", "evaluate", "report")
_ALL_STAGES = (*STAGES, "export")


class Program(NamedTuple):
    """Runs that are trained as one: a name that is a file name too, a resolved config, its runs, its data.

    Where they are measured only, `encoder` is what their file holds.
    """

    name: str
    config: Config
    runs: tuple[Run, ...]
    dataset: Dataset
    encoder: Encoder | None = None


class Study(NamedTuple):
    """What a call of `run` leaves.

    Attributes:
      workdir: the folder.
      results, per_class: the rows of the two tables, as far as they exist.
      text: the table of means and deviations for a terminal, "" if nothing was evaluated.
      report: the page, None if it was not made.
    """

    workdir: Path
    results: list[dict[str, Any]]
    per_class: list[dict[str, Any]]
    text: str = ""
    report: Path | None = None


def run(
    configs: Config | Sequence[Config],
    workdir: str | Path,
    *,
    stages: Sequence[str] = STAGES,
    command: str = "",
    progress: bool = True,
) -> Study:
    """Runs the stages of a study. Training goes on from the workdir's newest checkpoints; the other stages are done anew.

    Args:
      configs: one config a program (its runs are trained together); as `ssljax.flags` makes them from comma lists.
      workdir: where everything is written; see the README for what lies there.
      stages: some of "preview", "pretrain", "evaluate", "report", done in that order; "export", which writes the trained
        encoders to files, comes before the report.
      command: the command line, for the report.
      progress: whether progress is drawn on standard error.

    Returns:
      The tables' rows and the page's path.

    Raises:
      UserError: anything that the user can mend, in one line; nothing that was finished is lost.
    """
    configs = [configs] if isinstance(configs, Config) else list(configs)
    workdir = Path(workdir)
    for stage in stages:
        if stage not in _ALL_STAGES:
            raise unknown("stage", stage, _ALL_STAGES, "--stages")
    encoders.refuse_stages(configs, stages)
    checkpoints = workdir / "checkpoints"
    programs = plan(
        configs,
        trained=bool(set(stages) & {"pretrain", "evaluate"}),
        checkpoints=checkpoints,
    )
    study = Study(workdir, [], [])
    with workdir_lib.claimed(workdir, configs):
        (workdir / "figures").mkdir(exist_ok=True)
        prints = {p.config.dataset: p.dataset.fingerprint for p in programs}
        seconds = workdir_lib.refuse_other_data(workdir, prints)
        settled = [p.config for p in programs]
        if "pretrain" in stages:  # before the first step, so that a resume knows what this one saw
            workdir_lib.write_text(workdir / "run.json", workdir_lib.describe(settled, prints, command, seconds))
            checkpoints.mkdir(exist_ok=True)
            workdir_lib.write_text(checkpoints / execution.FILE, execution.to_json(_executions(programs)))
        if "preview" in stages:
            for program in {_shown(p): p for p in reversed(programs) if not p.config.pretrained}.values():
                preview(program, workdir / "figures" / f"views_{program.name}.png")
        for program in programs:
            _do(program, stages, study, seconds, progress)
        if "evaluate" in stages:
            with _timed(seconds, "evaluate"):
                _evaluate_baselines(programs, study)
            write_results(workdir / "results.csv", study.results)
            write_results(workdir / "per_class.csv", study.per_class)
        if set(stages) & {"pretrain", "evaluate"}:
            files = {p.name: encoders.provenance(p.encoder, p.config, p.dataset) for p in programs if p.encoder}
            text = workdir_lib.describe(settled, prints, command, seconds, files)
            workdir_lib.write_text(workdir / "run.json", text)
        if "report" in stages:
            study = study._replace(report=_report(programs, workdir, command))
    if not study.results and (workdir / "results.csv").exists():
        study.results.extend(read_results(workdir / "results.csv"))
        study.per_class.extend(read_results(workdir / "per_class.csv"))
    text = ""
    if study.results:
        text = tables.format_text(tables.summary(study.results), _targets(programs), measuring.table_columns(settled))
    return study._replace(text=text)


def _do(program: Program, stages: Sequence[str], study: Study, seconds: dict[str, float], progress: bool) -> None:
    """The stages of one program. What it holds on the device is free when this returns, for the next one."""
    workdir = study.workdir
    folder = workdir / "checkpoints" / program.name
    if "pretrain" in stages:
        with _timed(seconds, "pretrain"):
            trained = loop.pretrain(
                program.config,
                untrained(program),
                name=program.name,
                checkpoints=folder,
                metrics_file=workdir / "metrics.jsonl",
                tensorboard=workdir / "tensorboard" / program.name,
                progress=progress,
            )
    elif not set(stages) & {"evaluate", "export"}:
        return
    elif program.config.pretrained:
        trained = _measured_only(program)
    else:
        trained = loop.restore(untrained(program), folder, program.config.keep)
    if "evaluate" in stages:
        with _timed(seconds, "evaluate"):
            _evaluate(program, trained, study)
    if "export" in stages:
        encoders.export(program.config, trained, workdir / "encoders" / program.name, program.name)


def plan(
    configs: Sequence[Config],
    *,
    trained: bool = True,
    checkpoints: Path | None = None,
) -> list[Program]:
    """The programs of some configs: names, resolved settings, runs and data, everything checked that can be before training.

    Args:
      configs: as given.
      trained: whether the programs are to be trained or measured, so that what this takes is checked too.
      checkpoints: where the programs' checkpoints are or will be. What is there keeps to how its runs were laid out; for what is
        not, the memory is estimated and said, and a sweep that does not fit is split.

    Raises:
      UserError: the first thing that is wrong.
    """
    resolved = [config_lib.resolve(config) for config in configs]
    _refuse_without_effect(configs, resolved)
    for path in {config.targets for config in resolved if config.targets}:
        tables.read_targets(path)
    sets: dict[tuple, Dataset] = {}
    programs: list[Program] = []
    for name, given, config in zip(_names(resolved), configs, resolved):
        runs = sweeps.runs(config)
        for one in runs if not config.pretrained else ():
            sweeps.hyper(config, one)
        key = (
            config.dataset,
            config.data_dir,
            config.manual_dir,
            config.cache_dir,
            config.validation_fraction,
            config.resize,
        )
        if key not in sets:
            sets[key] = data.load(
                config.dataset,
                data_dir=config.data_dir,
                manual_dir=config.manual_dir,
                cache_dir=config.cache_dir,
                validation_fraction=config.validation_fraction,
                image_size=config.resize,
            )
        dataset = _measured_on(config, sets[key])
        if config.pretrained:  # nothing that is trained is checked, and nothing split
            encoder = None
            if trained:
                config, encoder = encoders.settle(given, config)
                measuring.check(config, dataset)
                encoders.check_channels(encoder, config, dataset)
                _check_probe(config, dataset)
            programs.append(Program(name, config, tuple(runs), dataset, encoder))
            continue
        if trained:
            _check_prototypes(config, dataset)
            measuring.check(config, dataset)
            _check_probe(config, dataset)
            images = dataset.splits["train"].images
            functions = loop.program_of(config, len(images), images.shape[-1])
        before = _laid_out_before(checkpoints, name, config, len(runs))
        need = None
        if trained and not before and (checkpoints or len(runs) > 1):
            need = memory.estimate(functions, config, images)
        axis = before.run_axis if before else execution.run_axis(config, need.activations if need else None)
        config = dataclasses.replace(config, run_axis=axis)
        sizes = before.runs if before else memory.even(len(runs), config.max_runs_per_program)
        if need and checkpoints:
            log.info("%s: %s", name, need)
            sizes = memory.split(config, need, len(runs))
        for number, (end, size) in enumerate(zip(itertools.accumulate(sizes), sizes)):
            part = name if len(sizes) == 1 else f"{name}~{number}"
            programs.append(Program(part, config, tuple(runs[end - size : end]), dataset))
    encoders.refuse_equal(resolved)
    return programs


def _check_probe(config: Config, dataset: Dataset) -> None:
    """Raises unless the probe's transforms are defined for the images."""
    for view in augment.parse(config.probe_transforms).views:
        augment.check(view, dataset.splits["train"].images.shape[-1])


def _laid_out_before(checkpoints: Path | None, name: str, config: Config, runs: int) -> Execution | None:
    """How checkpoints that exist were made; None where there are none of so many runs."""
    if checkpoints is None:
        return None
    kept = execution.read(checkpoints).get(name)
    if kept is None and ((checkpoints / name).is_dir() or (checkpoints / f"{name}~0").is_dir()):
        # Made before this was written down: vmap, in parts that were filled up one after another.
        most = config.max_runs_per_program or runs
        axis = "vmap" if config.run_axis == "auto" else config.run_axis
        kept = Execution(axis, tuple(min(most, runs - done) for done in range(0, runs, most)))
    return kept if kept and sum(kept.runs) == runs else None


def _executions(programs: Sequence[Program]) -> dict[str, Execution]:
    """How the runs of each config are laid out, by the name of its programs before they were split."""
    chosen: dict[str, Execution] = {}
    for program in programs:
        base = program.name.partition("~")[0]
        runs = chosen[base].runs if base in chosen else ()
        chosen[base] = Execution(program.config.run_axis, (*runs, len(program.runs)))
    return chosen


def _refuse_without_effect(given: Sequence[Config], resolved: Sequence[Config]) -> None:
    """Raises if a setting of methods is given that none of these reads; in a list of methods, one that does is enough."""
    methods = {c.method: None for one in resolved for c in (one, one.second) if c is not None}
    read = set().union(*map(reads, methods))
    for name in OF_METHODS:
        values = [getattr(config, name) for config in given]
        if name not in read and values[0] is not None:
            flag = config_lib.flag_name(config_lib.fields_by_name()[name])
            raise UserError(f"--{flag}: {values[0]:g} has no effect on {' and '.join(methods)}")


def _check_prototypes(config: Config, dataset: Dataset) -> None:
    """Raises if a clustering method could not tell the classes apart."""
    classes = max(config.clusters, len(dataset.class_names or ()))
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


def _names(configs: Sequence[Config]) -> list[str]:
    """A name for each program: the values of the static settings in which the programs differ, else the method's."""
    fields = config_lib.fields().values()
    differing = [f.name for f in fields if len({getattr(c, f.name) for c in configs}) > 1]
    # A preset brings values along; the settings that tell programs apart are the ones a user thinks in.
    thought = ("dataset", "method", "second_method", "backbone", "transforms", "second_transforms")
    telling = [name for name in thought if name in differing] or differing or ["method"]
    files = encoders.short_names(c.pretrained for c in configs if c.pretrained)
    if files:  # the method says nothing about them
        differing = ["pretrained", *(name for name in differing if name != "pretrained")]
        telling = ["pretrained", *(name for name in thought if name in differing and name != "method")]

    def names_by(fields: Sequence[str]) -> list[str]:
        values = [[getattr(c, name) for name in fields] for c in configs]
        return ["-".join(files.get(v) or _slug(str(v) or "none") for v in each) for each in values]

    names = names_by(telling)
    return names if len(set(names)) == len(names) else names_by(differing)


def _slug(text: str) -> str:
    """Text as a file name; one that had to be changed is told apart by its hash."""
    slug = re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_")[:32]
    return slug if slug == text else f"{slug}_{hashlib.sha256(text.encode()).hexdigest()[:7]}"


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began


def untrained(program: Program) -> loop.Trained:
    """A program's runs before their first step, with the data on the device.

    Raises:
      UserError: fewer images than a batch, or settings that do not fit each other.
    """
    dataset = program.dataset
    if program.config.pretrained:
        return encoders.untrained(program.config, program.runs, dataset)
    images = loop.resident(dataset.splits["train"].images, dataset.mean, dataset.std)
    return loop.prepare(program.config, program.runs, images)


def _measured_only(program: Program) -> loop.Trained:
    """The runs of a program whose encoder is not trained."""
    if program.encoder is None:
        return untrained(program)
    log.info("%s: %s", program.name, encoders.describe(program.encoder, program.config, program.dataset))
    return encoders.from_file(program.encoder, program.config, program.runs, program.dataset)


def preview(program: Program, path: Path, *, images: int = 8, draws: int = 4) -> None:
    """A sheet of what a program's transform sets do: a row an image, the original first, then draws of each view.

    Args:
      program: whose first run's traced values, sets and data are shown.
      path: PNG to write.
      images, draws: rows, and draws of each view.
    """
    config, split = program.config, program.dataset.splits["train"]
    index = np.linspace(0, len(split.images) - 1, min(images, len(split.images))).astype(int)
    originals = np.asarray(split.images[index])
    views = sources(config)
    check_channels(config, originals.shape[-1])
    plan_sizes = sizes(config)
    hyper = sweeps.hyper(config, program.runs[0])

    @jax.jit
    def draw(key: jax.Array) -> list[jax.Array]:
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

    drawn = [[np.asarray(each) for each in draw(jax.random.key(number))] for number in range(draws)]
    sheet = np.stack([_enlarged(d[i], config.image_size) for i in range(len(views)) for d in drawn], axis=1)
    heads = [_HEADS.get(source, source) for source in views for _ in drawn]
    named = " and ".join(filter(None, (config.transforms, config.second_transforms)))
    figures.views_sheet(path, originals, sheet, title=f"{named}: what the network sees", heads=heads)
    log.info("%s: %s", program.name, path)


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


def _evaluate(program: Program, trained: loop.Trained, study: Study) -> None:
    """Adds one program's rows to the tables."""
    log.info("%s: evaluating %s", program.name, ", ".join(program.config.evaluations))
    shown = measuring.represent(program.config, trained, program.dataset, program.name)
    if shown is not None:
        _measure(program, shown, study, program.name)


def _evaluate_baselines(programs: Sequence[Program], study: Study) -> None:
    """Adds the rows that every table carries: an untrained encoder of each kind, and raw pixels of each data set."""
    kinds = {_kind(p): p for p in reversed(programs)}
    there = {_kind(p) for p in programs if p.config.pretrained == encoders.RANDOM}
    for kind, program in reversed(kinds.items()):
        if kind in there:
            continue
        # The first setting's runs, one a seed: before training a swept value changes nothing.
        runs = tuple(Run(f"seed={seed}", seed, {}) for seed in program.config.seeds)
        differing = [_slug(str(v)) for v, *others in zip(kind, *kinds) if len(set(others)) > 1]
        name = "-".join(["random", *differing])
        shown = measuring.represent(program.config, untrained(program._replace(runs=runs)), program.dataset, name)
        if shown is not None:
            columns = {**shown.columns, "method": "random", "transforms": ""}
            _measure(program, shown._replace(columns=columns), study, name)
    sets = {(p.config.dataset, p.dataset.fingerprint): p for p in reversed(programs)}
    for program in reversed(sets.values()):
        name = "pixels" if len(sets) == 1 else f"pixels-{_slug(program.config.dataset)}"
        _measure(program, measuring.pixels(program.dataset, program.config.seeds, name), study, name)


def _kind(program: Program) -> tuple:
    """What two programs must share to share an untrained encoder."""
    network = ("dataset", "backbone", "width", "stem", "stem_padding", "image_size", "resize", "validation_fraction")
    return tuple(getattr(program.config, name) for name in network)


def _measure(program: Program, shown: measuring.Representation, study: Study, name: str) -> None:
    artifacts = study.workdir / "artifacts" / f"{name}.npz"
    rows, per_class = measuring.measure(program.config, program.dataset, shown, artifacts)
    study.results.extend(rows)
    study.per_class.extend(per_class)


_SEEN = {
    "raw": "the features as they are",
    "l2": "the features brought to unit length",
    "standardized": "each feature brought to mean 0 and deviation 1 over the training images",
}


def _targets(programs: Sequence[Program]) -> tables.Targets:
    """The published values that the configs name."""
    paths = dict.fromkeys(p.config.targets for p in programs if p.config.targets)
    return [target for path in paths for target in tables.read_targets(path)]


def _report(programs: Sequence[Program], workdir: Path, command: str) -> Path:
    """Writes the page of what the workdir holds."""
    results = workdir / "results.csv"
    shown = {row["dataset"] for row in read_results(results)[:1]} if results.exists() else set()
    first = next((p for p in programs if p.config.dataset in shown), programs[0])  # whose images the page shows
    test = first.dataset.splits.get("test")
    settings = [sweeps.settings(p.config) for p in programs]
    rows = []
    for name in dict.fromkeys(name for each in settings for name in each):
        values = list(dict.fromkeys(_setting(s.get(name)) for s in settings))
        if any(values):
            rows.append((name, ", ".join(values)))
    shared = first.config
    notes = [
        f"Features: {extraction.LAYER}; images are only resized, to {shared.image_size} px.",
        *encoders.notes(workdir),
        f"K-means and the silhouette see {_SEEN[shared.kmeans_features]}, on the {shared.evaluate_on} images; "
        "K-means starts 10 times, its random state is the run's seed.",
        f"k-NN: cosine, k = {shared.knn_k}, weights exp(similarity / {shared.knn_temperature:g}), neighbours from the "
        "training images.",
        f"Linear probe: SGD with momentum .9, learning rate {shared.probe_learning_rate:g} falling tenfold at 60 and 80 % of "
        f"{shared.probe_epochs} epochs, batch {shared.probe_batch_size}, no weight decay, transforms: {shared.probe_transforms}; "
        f"it sees {_SEEN[shared.probe_features]}; the last epoch counts.",
    ]
    return write_page(
        workdir,
        images=None if test is None else np.asarray(test.images),
        class_names=first.dataset.class_names or (),
        title=f"{shared.dataset}: {', '.join(dict.fromkeys(measuring.columns(p.config)['method'] for p in programs))}",
        command=command or f"python experiments/run.py --flagfile={workdir / 'flagfile.cfg'}",
        config_rows=rows,
        targets=_targets(programs),
        notes=notes,
        columns=measuring.table_columns([p.config for p in programs]),
    )


def _setting(value: Any) -> str:
    if value is None:
        return ""
    return (
        ",".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
