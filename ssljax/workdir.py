"""A workdir: the folder that belongs to one set of configs, and to one live process at a time."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ssljax import config as config_lib
from ssljax import flags, sweeps
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.files import forget_unfinished, replacing


@contextlib.contextmanager
def claimed(workdir: Path, configs: Sequence[Config]) -> Iterator[None]:
    """Makes the folder, or takes it over from a process that has ended, for the time of the context.

    Writes `flagfile.cfg`. The lock is the operating system's: it goes with the process, however that ends.

    Args:
      workdir: the folder.
      configs: as given, not resolved; the same training settings as when the folder was made, and all of its runs.

    Raises:
      UserError: in use by a live process, made for other settings, not writable, or the disk is full (inside the context too).
    """
    text = flags.to_flagfile(configs)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a")
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written to ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--workdir: {workdir} is in use by another run; wait for it or give another --workdir"
            ) from None
        flagfile = workdir / "flagfile.cfg"
        # A preview alone binds a folder to nothing.
        if flagfile.exists() and any((workdir / name).exists() for name in ("checkpoints", "results.csv")):
            _refuse_other(workdir, flags.read_flagfile(flagfile), configs)
        try:
            forget_unfinished(workdir)
            write_text(flagfile, text)
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise UserError(f"{workdir}: the disk is full; make room and run the same command again") from error
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise UserError(f"{error.filename or workdir}: cannot be written ({error.strerror})") from error
            raise


def _refuse_other(workdir: Path, old: Sequence[Config], new: Sequence[Config]) -> None:
    """Raises unless both lists mean the same training; the new one may have more seeds, and more values of what is swept."""

    def training(configs: Sequence[Config]) -> dict[str, list[Any]]:
        each = [sweeps.settings(config_lib.resolve(config)) for config in configs]
        other = {name for name, field in config_lib.fields().items() if not field.metadata["training"]}
        other |= {"seeds", "sweep"}
        names = dict.fromkeys(n for values in each for n in values if n.removeprefix("second.") not in other)
        return {name: [values.get(name) for values in each] for name in names}

    before, now = training(old), training(new)
    for name in {"pretrained": None, **before, **now}:
        was, given = (_short(v.get(name, [])) for v in (before, now))
        if was != given:
            raise UserError(
                f"--workdir: {workdir} belongs to a run with --{name}={was}, given --{name}={given}; give another --workdir"
            )
    runs, asked = ({run.name: None for config in configs for run in sweeps.runs(config)} for configs in (old, new))
    if lost := [run for run in runs if run not in asked]:
        raise UserError(
            f"--workdir: {workdir} holds the run {lost[0]}, which --seeds and --sweep leave out; add to what was given before, "
            "or give another --workdir"
        )


def _short(values: list[Any]) -> str:
    parts = [",".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
    return ",".join(dict.fromkeys(parts))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def refuse_other_data(workdir: Path, fingerprints: dict[str, str]) -> dict[str, float]:
    """Raises if the folder's runs saw other images; returns the wall time by stage that it tells of.

    Raises:
      UserError: a data set whose fingerprint is not the one in `run.json`.
    """
    before = told(workdir, "data")
    for name, fingerprint in fingerprints.items():
        if before.get(name, fingerprint) != fingerprint:
            raise UserError(
                f"--workdir: {workdir} was trained on other images than {name} holds now; give another --workdir"
            )
    return {
        name: float(value) for name, value in told(workdir, "wall_seconds").items() if isinstance(value, int | float)
    }


def told(workdir: Path, name: str) -> dict[str, Any]:
    """An object of `run.json`; {} where the file has none, is absent or garbled."""
    try:
        info = json.loads((workdir / "run.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    found = info.get(name) if isinstance(info, dict) else None
    return found if isinstance(found, dict) else {}


def describe(
    configs: Sequence[Config],
    fingerprints: dict[str, str],
    command: str,
    seconds: dict[str, float],
    encoders: dict[str, dict[str, str]] | None = None,
) -> str:
    """The text of `run.json`: what ran, on what, from what, for how long.

    Args:
      configs: resolved.
      fingerprints: sha256 of each data set.
      command: the command line, or "" from Python.
      seconds: wall time by stage.
      encoders: of each program whose encoder is a file's, what that is.
    """
    import jax

    device = jax.devices()[0]
    names = ("ssljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "dm-pix", "numpy", "scikit-learn")
    info = {
        "command": command,
        "configs": [sweeps.settings(c) for c in configs],
        "data": fingerprints,
        **({"encoders": encoders} if encoders else {}),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in names}},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        **({"xla_flags": given} if (given := os.environ.get("XLA_FLAGS")) else {}),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "wall_seconds": {stage: round(s, 2) for stage, s in seconds.items()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return json.dumps(info, indent=2) + "\n"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that runs, where there is one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
