"""Measurements as processes of their own, each within what time is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Missing(Exception):
    """A measurement that did not come about, and why."""


class Clock(NamedTuple):
    """When everything has to be over, as `time.time()` counts."""

    end: float

    def left(self) -> float:
        return self.end - time.time()


def measure(command: Sequence[str], clock: Clock, environment: Mapping[str, str], limit: float = 900.0) -> Row:
    """The JSON object that a Python process prints last.

    Args:
      command: what follows the interpreter.
      clock: the time that is left.
      environment: all of it.
      limit: seconds that this one may take.

    Raises:
      Missing: it failed, or took longer than `limit` or than there is time.
    """
    seconds = min(limit, clock.left())
    if seconds < 20:  # importing either framework and compiling takes about that
        raise Missing("out of time")
    # A session of its own, so that loaders and compilers that it started end with it.
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=seconds)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise Missing(f"took more than {seconds:.0f} s") from None
        raise
    if process.returncode:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        raise Missing(lines[-1][:300] if lines else f"exit code {process.returncode}")
    return json.loads(output.splitlines()[-1])
