"""The command line: flags to configs, one line for anything wrong, exit codes."""

import errno
import logging
import os
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from ssljax import determinism, flags, preemption
from ssljax.config import Config, fields
from ssljax.errors import UserError
from ssljax.preemption import Terminated

OK, DEFECT, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str]) -> int:
    """Runs a command line; see `experiments/run.py`.

    Args:
      argv: the program's name and its arguments.

    Returns:
      The exit code: 0 done, 1 a defect of the program, 2 bad input, 130 interrupted, 143 terminated.
    """
    _quiet()
    try:
        with preemption.raised():
            return _main(list(argv))
    except Terminated as error:
        print(error, file=sys.stderr)
        return TERMINATED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if limit := _limit(error):
            print(f"error: {limit}", file=sys.stderr)
            return BAD_INPUT
        # A defect of ours, not of the input: the traceback is for a bug report, not for the terminal.
        with tempfile.NamedTemporaryFile("w", prefix="ssljax-", suffix=".log", delete=False) as file:
            traceback.print_exc(file=file)
        reason = " ".join(str(error).split())[:200]
        print(f"error: unexpected {type(error).__name__}: {reason}; please report it with {file.name}", file=sys.stderr)
        return DEFECT


def _limit(error: Exception) -> str:
    """The line for an error that says what was asked for is beyond this machine; "" for any other."""
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
        return f"not enough memory for what is asked: {reason}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:60]}...: the file's name is too long"
    return ""


def _quiet() -> None:
    """Leaves on standard error what this program says, and nothing of its libraries."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("ssljax").setLevel(logging.INFO)
    for noisy in ("absl", "orbax", "jax", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    # A failed write raises in the main thread, which says so in one line; orbax's own threads would print it again.
    threading.excepthook = lambda args: None
    sys.unraisablehook = lambda args: None


def _main(argv: list[str]) -> int:
    values = absl_flags.FlagValues()
    flags.define(values)
    absl_flags.DEFINE_string(
        "workdir",
        None,
        "folder for everything that is written (default: runs/<name of the flagfile>); several, A,B,C, with --stages=report: "
        "one page of what they hold, in a new folder",
        flag_values=values,
    )
    absl_flags.DEFINE_string(
        "stages",
        "preview,pretrain,evaluate,report",
        "which stages to run (default: these four); export writes the trained encoders to files, embed what one of them makes of "
        "every image",
        flag_values=values,
    )
    absl_flags.DEFINE_string(
        "help_method", None, "show the page of a method: loss, memory, traps, presets, swept names", flag_values=values
    )
    absl_flags.DEFINE_boolean(
        "dry_run",
        False,
        "say what would be trained: programs, runs, compilations, memory, disk, and time from a few measured steps; nothing is "
        "written",
        flag_values=values,
    )
    absl_flags.DEFINE_boolean("yes", False, "start even if more than 1,000 runs are to be trained", flag_values=values)
    absl_flags.DEFINE_boolean("help", False, "show every flag", flag_values=values, short_name="h")
    absl_flags.DEFINE_boolean("deterministic", False, _DETERMINISTIC, flag_values=values)
    for name, define, help in _OF_PROCESSES:
        define(name, None, help, flag_values=values)
    flags.parse_argv(values, argv)
    if values["help"].value:
        print(_help(values))
        return OK
    if values["help_method"].value is not None:
        from ssljax.methods.describe import describe

        print(describe(values["help_method"].value))
        return OK
    stages = [stage for stage in flags.split_commas(values["stages"].value or "") if stage]
    workdirs = _finished(values["workdir"].value or "", stages)
    if workdirs:
        return _join(values, workdirs, shlex.join(["python", *argv]))
    checkpoint = values["checkpoint"].value or ""
    trained_in = (
        checkpoint if Path(checkpoint).is_dir() else None
    )  # where an embedding is written, unless told otherwise
    workdir = _workdir(values["workdir"].value or (checkpoint and trained_in), argv)
    configs = _configs(values, workdir, stages)
    if values["deterministic"].value:
        determinism.ask()

    from ssljax import encoders, forecast, pipeline  # import JAX: not before the flags are known to be right

    configs = encoders.with_start(configs, stages)
    if "pretrain" in stages and not (values["yes"].value or values["dry_run"].value):
        forecast.refuse_surprise(configs, workdir)
    _join_processes(values)
    _cache_compilations()
    if values["dry_run"].value:
        found = forecast.dry_run(configs, workdir)
        if pipeline.processes.first():
            print(found)
        return OK

    study = pipeline.run(configs, workdir, stages=stages, command=shlex.join(["python", *argv]))
    if not pipeline.processes.first():
        return OK
    if study.text:
        print(study.text)
    if study.report:
        print(f"\nreport: {study.report}")
    else:
        print(f"\nwritten to {study.workdir}")
    return OK


# Not a setting: XLA takes it for the whole process.
_DETERMINISTIC = (
    "on a GPU: the same bits whenever the command is repeated or goes on, at a price in speed (a CPU needs no asking)"
)

# Not settings: they are not the same in all processes of a command.
_OF_PROCESSES: tuple[tuple[str, Callable[..., Any], str], ...] = (
    (
        "distributed",
        absl_flags.DEFINE_boolean,
        "this is one of several processes that train as one, started by Slurm, Open MPI or GKE, or on a TPU",
    ),
    ("coordinator", absl_flags.DEFINE_string, "the same, started by anything else: process 0, as host:port"),
    ("num_processes", absl_flags.DEFINE_integer, "how many processes there are, with --coordinator"),
    ("process_id", absl_flags.DEFINE_integer, "which of them this is, from 0"),
)


def _join_processes(values: absl_flags.FlagValues) -> None:
    """Becomes one of several processes, where the flags say so; all but the first are quiet then."""
    asked, *given = (values[name].value for name, *_ in _OF_PROCESSES)
    if not asked and all(value is None for value in given):
        return
    from ssljax import processes

    processes.start(*given)
    if not processes.first():
        logging.getLogger("ssljax").setLevel(logging.CRITICAL)


def _finished(given: str, stages: Sequence[str]) -> list[Path]:
    """The folders to report on together: several, or one that holds a table of another program's; [] for a workdir to work in."""
    folders = [Path(part) for part in given.split(",") if part]
    if len(folders) > 1 and not Path(given).exists():  # a folder's own name may hold a comma
        if stages != ["report"]:
            raise UserError(f"--workdir: several folders, {given}, are only joined: give --stages=report")
        return folders
    foreign = folders and not (folders[0] / "flagfile.cfg").exists() and (folders[0] / "per_class.csv").exists()
    return folders if foreign and stages == ["report"] else []


# The settings that a page of finished folders takes.
_OF_JOINED = ("focus", "superclasses", "targets", "study_of", "compare")


def _join(values: absl_flags.FlagValues, workdirs: list[Path], command: str) -> int:
    """One page of several finished folders, beside the first under a name made of theirs; of a single one in `study/` below it."""
    asked = [name for name in flags.names() if values[name].present and name not in _OF_JOINED]
    if asked:
        others = ", ".join(f"--{name}" for name in _OF_JOINED)
        raise UserError(
            f"--{asked[0]}: has no effect on a report of finished folders, given to read; these have: {others}"
        )
    (config,) = flags.configs_from_flags(values)

    from ssljax.report.joined import write_joined
    from ssljax.report.tables import read_targets
    from ssljax.report.workdir import told_apart
    from ssljax.study.superclasses import read_superclasses

    first = workdirs[0]
    labels = told_apart(workdirs)
    names = "+".join(labels)
    parent = first.parent if first.name not in ("", "..") else first.resolve().parent
    beside = parent / (names if len(names) < 100 else f"{labels[0]}+{len(workdirs) - 1}")
    page = write_joined(
        workdirs,
        beside if len(workdirs) > 1 else first / "study",
        superclasses=read_superclasses(config.superclasses) if config.superclasses else None,
        choose=config.focus,
        study_of=config.study_of,
        compare=config.compare,
        targets=read_targets(config.targets) if config.targets else None,
        command=command,
    )
    print(f"report: {page}")
    return OK


def _configs(values: absl_flags.FlagValues, workdir: Path, stages: Sequence[str]) -> list[Config]:
    """What the flags say; where a workdir is named and no setting of training, what made that workdir, under the flags."""
    given = [field for name, field in fields().items() if values[name].present]
    made = workdir / "flagfile.cfg"
    if values["checkpoint"].value and not values["dataset"].present:  # whose own images are embedded
        studied = Path(values["checkpoint"].value) / "flagfile.cfg"
        return (
            flags.over(flags.read_flagfile(studied), values) if studied.exists() else flags.configs_from_flags(values)
        )
    if values["workdir"].value and made.exists() and not any(field.metadata["training"] for field in given):
        return flags.over(flags.read_flagfile(made), values)
    if not given and values["workdir"].value and set(stages) <= {"evaluate", "export", "embed", "report"}:
        raise UserError(f"--workdir: {workdir} has no flagfile.cfg, so nothing was trained there")
    return flags.configs_from_flags(values)


def _workdir(given: str | None, argv: Sequence[str]) -> Path:
    """The folder given, or runs/<name of the last flagfile>."""
    if given:
        return Path(given)
    files = [a.split("=", 1)[1] for a in argv if a.startswith(("--flagfile=", "-flagfile="))]
    files += [after for a, after in pairwise(argv) if a in ("--flagfile", "-flagfile")]
    return Path("runs") / (Path(files[-1]).stem if files else "default")


def _cache_compilations() -> None:
    """Keeps compiled programs between processes, where the user has not said otherwise."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ssljax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


_OWN = ("workdir", "stages", "dry_run", "yes", "help_method", "deterministic")


def _help(values: absl_flags.FlagValues) -> str:
    lines = ["python experiments/run.py --flagfile=FILE [--name=value ...]", ""]
    lines += ["  --flagfile\n      a file of such lines; flags after it go over it"]
    lines += [f"  --{name}\n      {values[name].help}" for name in (*_OWN, *(n for n, *_ in _OF_PROCESSES))]
    lines += [f"  --{name}\n      {values[name].help}" for name in flags.names()]
    return "\n".join(lines)
