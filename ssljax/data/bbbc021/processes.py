"""One function over many tasks in several processes, which an interruption leaves in order."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any

# Runs calls of a function and gives their results as they come.
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@contextlib.contextmanager
def mapped(workers: int) -> Iterator[Run]:
    """A map over this many processes, results as they come; over none but this one where `workers` is 1.

    After an error or an interruption the calls in work are waited for, and the others are dropped.

    Raises:
      BrokenProcessPool: a process was killed.
    """
    if workers == 1:
        yield map
        return
    # A fork would copy JAX's threads where the caller has some; a fresh process cannot hang on them.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts) as pool:

        def run(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
            futures: list[Future[Any]] = [pool.submit(function, task) for task in tasks]
            for future in as_completed(futures):
                yield future.result()

        try:
            yield run
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; the parent alone decides, and lets the wells in work finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
