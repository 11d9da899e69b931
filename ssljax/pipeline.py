"""The whole study in one call: the stages (preview, pretrain, evaluate, export, report) over every program of some configs."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ssljax import (
    cost,
    embedding_stage,
    encoders,
    flags,
    measuring,
    processes,
    profiling,
    protocol,
    representation,
    serving,
    sizes,
    sweeps,
    watching,
)
from ssljax import workdir as workdir_lib
from ssljax.config import OF_IMAGES, Config
from ssljax.errors import UserError, unknown
from ssljax.evaluate.measure import Measurement
from ssljax.evaluate.results import read_results, write_results
from ssljax.planning import Program, executions, plan, slug, superclasses_of
from ssljax.preview import preview, previewed
from ssljax.report import tables
from ssljax.report.page import write_page
from ssljax.study import similarity
from ssljax.sweeps import Run
from ssljax.train import execution, loop, memory

log = logging.getLogger("ssljax")

STAGES = ("preview", "pretrain", "evaluate", "report")
_ALL_STAGES = (*STAGES, "export", "embed")


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
        encoders to files, and "embed", which writes what one of them makes of every image, come before the report.
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
    made = workdir / "flagfile.cfg"
    configs = encoders.with_start(configs, stages, flags.read_flagfile(made) if made.exists() else ())
    encoders.refuse_stages(configs, stages)
    embedding_stage.refuse_stages(configs, stages)
    if any(config.checkpoint for config in configs):
        embedding_stage.embed_other(configs, workdir, progress=progress)
        return Study(workdir, [], [])
    programs = planned(configs, workdir, stages)
    embedded = serving.chosen(programs, configs[0].run, workdir) if "embed" in stages else None
    study, settled = Study(workdir, [], []), [p.config for p in programs]
    with contextlib.ExitStack() as held:
        prints: dict[str, str] = {}
        files: dict[str, dict[str, str]] = {}
        seconds: dict[str, float] = {}
        with processes.all_or_none():
            if processes.first():
                held.enter_context(workdir_lib.claimed(workdir, embedding_stage.forgotten(configs)))
                (workdir / "figures").mkdir(exist_ok=True)
                prints = {_of_images(p): p.dataset.fingerprint for p in programs}
                seconds = workdir_lib.refuse_other_data(workdir, prints)
                files = {p.name: encoders.provenance(p.encoder, p.config, p.dataset) for p in programs if p.encoder}
                encoders.refuse_changed(workdir, files)
                if "pretrain" in stages:  # before the first step, so that a resume knows what this one saw
                    workdir_lib.write_text(
                        workdir / "run.json", workdir_lib.describe(settled, prints, command, seconds, files)
                    )
                    (checkpoints := workdir / "checkpoints").mkdir(exist_ok=True)
                    workdir_lib.write_text(checkpoints / execution.FILE, execution.to_json(executions(programs)))
        if "preview" in stages and processes.first():
            for program in previewed(programs):
                preview(program, workdir / "figures" / f"views_{program.name}.png")
        for program in programs:
            _do(program, stages, study, seconds, progress)
        if not processes.first():
            return study
        if "evaluate" in stages:
            with _timed(seconds, "evaluate"):
                _evaluate_baselines(programs, study)
                similarity.settle(study.results, workdir / "artifacts")
            write_results(workdir / "results.csv", study.results)
            write_results(workdir / "per_class.csv", study.per_class)
        if set(stages) & {"pretrain", "evaluate"}:
            text = workdir_lib.describe(settled, prints, command, seconds, files)
            workdir_lib.write_text(workdir / "run.json", text)
        if embedded:
            embedding_stage.embed_run(*embedded, workdir, progress=progress)
        if "report" in stages:
            study = study._replace(report=_report(programs, workdir, command))
    if not study.results and (workdir / "results.csv").exists():
        study.results.extend(read_results(workdir / "results.csv"))
        if (workdir / "per_class.csv").exists():
            study.per_class.extend(read_results(workdir / "per_class.csv"))
    text = ""
    if study.results:
        targets = _targets(programs)
        columns = protocol.table_columns(settled, targets)
        table = tables.format_text(tables.summary(study.results), targets, columns)
        text = "\n".join([table, *_sizes_said(settled)])
    return study._replace(text=text)


def planned(configs: Sequence[Config], workdir: Path, stages: Sequence[str]) -> list[Program]:
    """The programs of the stages, the same in all processes."""
    if "pretrain" not in stages:  # what is trained already may be measured on other devices
        configs = [dataclasses.replace(config, mesh="") for config in configs]
    free = processes.least(memory.available()) if processes.several() else None
    with processes.all_or_none():
        trained = bool(set(stages) & {"pretrain", "evaluate", "export", "embed"})
        programs = plan(configs, trained=trained, checkpoints=workdir / "checkpoints", free=free)
        if "pretrain" not in stages and set(stages) & {"evaluate", "export"}:
            for program in programs:
                folder = workdir / "checkpoints" / program.name
                if not program.config.pretrained and not folder.is_dir():  # before a workdir is made
                    raise UserError(f"{folder}: no checkpoint; run the pretrain stage first")
        return programs


def _of_images(program: Program) -> str:
    """What `run.json` calls the images of a program."""
    return " ".join([program.config.dataset, *map(str, _images(program).values())])


def _do(program: Program, stages: Sequence[str], study: Study, seconds: dict[str, float], progress: bool) -> None:
    """The stages of one program. What it holds on the device is free when this returns, for the next one."""
    workdir = study.workdir
    folder = workdir / "checkpoints" / program.name
    if "pretrain" in stages:
        with _timed(seconds, "pretrain"):
            start = untrained(program)
            trained = loop.pretrain(
                program.config,
                start,
                name=program.name,
                checkpoints=folder,
                metrics_file=workdir / "metrics.jsonl",
                tensorboard=workdir / "tensorboard" / program.name,
                progress=progress,
                watch=watching.of_program(program, start) if program.config.eval_every else None,
            )
            del start
    elif not set(stages) & {"evaluate", "export"}:
        return
    elif program.config.pretrained:
        trained = _measured_only(program)
    else:
        trained = loop.restore(untrained(program), folder, program.config.keep)
    if not set(stages) & {"evaluate", "export"}:
        return
    mine = trained if program.config.pretrained else loop.here(trained)
    if mine is not None and processes.first():
        if "evaluate" in stages:
            with _timed(seconds, "evaluate"):
                _evaluate(program, mine, study)
        if "export" in stages:
            encoders.export(program.config, mine, workdir / "encoders" / program.name, program.name)
    processes.wait()


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began


def untrained(program: Program, *, alone: bool = False) -> loop.Trained:
    """A program's runs before their first step, with the data on the device.

    Args:
      program: from `plan`.
      alone: whether they are only for this process, on devices of its own, whatever the mesh that is asked for.

    Raises:
      UserError: fewer images than a batch, or settings that do not fit each other.
    """
    dataset = program.dataset
    if program.config.pretrained:
        return encoders.untrained(program.config, program.runs, dataset)
    train = dataset.splits["train"]
    data, images = loop.laid_down(program.config, train.images, *encoders.seen_as(program), train.labels)
    config = dataclasses.replace(program.config, mesh="") if alone else program.config
    devices = jax.local_devices() if alone else None
    prepared = loop.prepare(config, program.runs, data, dataset.classes, devices, images)
    return prepared if program.encoder is None else encoders.started(prepared, program.encoder)


def _measured_only(program: Program) -> loop.Trained:
    """The runs of a program whose encoder is not trained."""
    if program.encoder is None:
        return untrained(program)
    log.info("%s: %s", program.name, encoders.describe(program.encoder, program.config, program.dataset))
    return encoders.from_file(program.encoder, program.config, program.runs, program.dataset)


def _evaluate(program: Program, trained: loop.Trained, study: Study) -> None:
    """Adds one program's rows to the tables."""
    log.info("%s: evaluating %s", program.name, ", ".join(program.config.evaluations))
    shown = representation.represent(program.config, trained, program.dataset, program.name)
    if shown is not None:
        swept = tuple({**program.listed, **values} for values in shown.swept)
        known: list[Measurement] = []
        if "cost" in program.config.evaluations and not program.config.pretrained:
            known = cost.measurements(program.config, trained, program.name, study.workdir / "metrics.jsonl")
        _measure(program, shown._replace(swept=swept), study, program.name, known)


def _evaluate_baselines(programs: Sequence[Program], study: Study) -> None:
    """Adds the rows that every table carries: an untrained encoder of each kind, and raw pixels of each data set."""
    kinds = {_kind(p): p for p in reversed(programs)}
    there = {_kind(p) for p in programs if p.config.pretrained == encoders.RANDOM}
    for kind, program in reversed(kinds.items()):
        if kind in there:
            continue
        # The first setting's runs, one a seed: before training a swept value changes nothing.
        runs = tuple(Run(f"seed={seed}", seed, {}) for seed in program.config.seeds)
        differing = [slug(str(v)) for v, *others in zip(kind, *kinds) if len(set(others)) > 1]
        name = "-".join(["random", *differing])
        start = untrained(program._replace(runs=runs, encoder=None), alone=True)
        shown = representation.represent(program.config, start, program.dataset, name)
        if shown is not None:
            columns = {**shown.columns, "method": "random", "transforms": ""}
            swept = (_images(program),) * len(shown.names)
            _measure(program, shown._replace(columns=columns, swept=swept), study, name)
    sets = {(p.config.dataset, p.dataset.fingerprint): p for p in reversed(programs)}
    for program in reversed(sets.values()):
        told = map(slug, map(str, (program.config.dataset, *_images(program).values())))
        name = "-".join(["pixels", *(told if len(sets) > 1 else ())])
        seeds, swept = program.config.seeds, (_images(program),) * len(program.config.seeds)
        asked = set(program.config.evaluations)
        if asked - {"profiles"} and not representation.pixels_fit(program.dataset):
            log.warning("%s: raw pixels are not measured: as floats they take more than half of the memory", name)
        elif asked - {"profiles"}:
            pixels = representation.pixels(program.dataset, seeds, name)
            _measure(_asking(program, asked - {"profiles"}), pixels._replace(swept=swept), study, name)
        if "profiles" in asked:
            for shown in profiling.baselines(program.dataset, seeds, name):
                _measure(_asking(program, {"profiles"}), shown._replace(swept=swept), study, "")


def _asking(program: Program, evaluations: Collection[str]) -> Program:
    """The program with some of its evaluations alone."""
    kept = tuple(name for name in program.config.evaluations if name in evaluations)
    return program._replace(config=dataclasses.replace(program.config, evaluations=kept))


def _images(program: Program) -> dict[str, Any]:
    """The settings, given as lists, in which the images of programs on one data set differ."""
    return {name: value for name, value in program.listed.items() if name in OF_IMAGES}


def _kind(program: Program) -> tuple:
    """What two programs must share to share an untrained encoder."""
    network = ("backbone", "width", "stem", "stem_padding", "image_size")
    return tuple(getattr(program.config, name) for name in (*OF_IMAGES, *network))


def _measure(
    program: Program,
    shown: representation.Representation,
    study: Study,
    name: str,
    known: Sequence[Measurement] = (),
) -> None:
    artifacts = study.workdir / "artifacts" / f"{name}.npz" if name else None  # what no figure shows is not kept
    rows, per_class = measuring.measure(program.config, program.dataset, shown, artifacts, known)
    study.results.extend(rows)
    study.per_class.extend(per_class)


def _sizes_said(configs: Sequence[Config]) -> list[str]:
    return list(dict.fromkeys(sentence for config in configs for sentence in sizes.said(config)))


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
    notes, targets = protocol.notes(shared, encoders.notes(workdir)), _targets(programs)
    return write_page(
        workdir,
        images=None if test is None else test.images,
        class_names=first.dataset.class_names or (),
        title=f"{shared.dataset}: {', '.join(dict.fromkeys(representation.columns(p.config)['method'] for p in programs))}",
        command=command or f"python experiments/run.py --flagfile={workdir / 'flagfile.cfg'}",
        config_rows=rows,
        targets=targets,
        notes=notes,
        columns=protocol.table_columns([p.config for p in programs], targets),
        superclasses=superclasses_of(shared, first.dataset) if shared.superclasses else None,
        choose=shared.focus,
        study_of=shared.study_of,
        compare=shared.compare,
        warnings=_sizes_said([p.config for p in programs]),
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
