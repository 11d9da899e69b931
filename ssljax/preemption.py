"""SIGTERM, by which clusters take a machine back: training ends after the step in flight, with everything kept.

Exit code 143 (128 + 15, as a shell reports a process that the signal ended).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

TERMINATED = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """The process was asked to end, and everything that it has done is kept. Its text is one line."""

    def __init__(self, message: str):
        super().__init__(TERMINATED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Termination:
    """Whether SIGTERM has come; to be called after each step.

    Of several processes one signal is enough: JAX's runtime hears it, and names the step after which all of them stop.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, step: int) -> bool:
        """Whether to stop after this step; the answer of all processes is the same."""
        from jax.experimental import multihost_utils

        from ssljax import processes

        if processes.several():
            self.asked |= multihost_utils.reached_preemption_sync_point(step)
        return self.asked


@contextlib.contextmanager
def heard() -> Iterator[Termination]:
    """Within it SIGTERM does not end the process but is told to those who ask."""
    from ssljax import processes

    termination = Termination()
    if processes.several() or threading.current_thread() is not threading.main_thread():
        yield termination
        return

    def ask(number: int, frame: Any) -> None:
        termination.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    if termination.asked:  # it came after the last step
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within it SIGTERM raises `Terminated`, where it is not `heard` and where it is this process's own affair."""

    def end(number: int, frame: Any) -> None:
        raise Terminated("terminated; the same command goes on from what is finished")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
