"""Batches of images in the order of training, read by grain: in threads, or in worker processes. NumPy only, as workers import it.

Which images a step takes is a function of the step alone: epoch e goes through the permutation of `order(e, n)`, whatever the
number of workers, processes and devices. So there is no state of an iterator to keep: a resumed program asks for the step it
stands at, and grain's own state would be the same number a second time.
"""

import functools
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ssljax.data.files import Decoded

# The seed of the order of all streams: no run's own, so that a sweep that grows, and whose first run thus may be another, goes on
# in the same order.
SEED = 0
# Images that a worker reads at a time: of 28 pixels little work beside handing them over, of 224 pixels 19 MB.
PIECE = 128
# Pieces that each worker (or this process) holds ready.
_AHEAD = 2

Piece = tuple[np.ndarray, np.ndarray]
"""Images [m, h, w, c], and the numbers of those that could not be read."""


def order(epoch: int, count: int) -> np.ndarray:
    """The permutation of so many images in an epoch, the same for all runs."""
    return np.random.RandomState([SEED, epoch]).permutation(count)  # NumPy promises that its stream never changes


class OnDisk:
    """The images of an .npy file, read by index arrays with `pread`: unlike a memory map it lets other threads run meanwhile.

    Args:
      images: the memory map of the whole file.
    """

    def __init__(self, images: np.memmap):
        assert images.filename is not None and images.flags.c_contiguous
        self._file, self._offset = str(images.filename), int(images.offset)
        self.shape, self.dtype = images.shape, images.dtype

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        size = out[:1].nbytes
        views: Any = out.reshape(len(rows), -1).view(np.uint8)
        file = os.open(self._file, os.O_RDONLY)
        try:
            for view, row in zip(views, rows.tolist()):
                if os.preadv(file, [view], self._offset + row * size) != size:
                    raise OSError(f"{self._file}: too short: it was cut off while it was read")
        finally:
            os.close(file)
        return out


class Pieces:
    """The images of every step from the first epoch on in parts of at most `PIECE`: what grain reads from.

    Attributes:
      columns: of a batch, those that this process reads.
    """

    def __init__(self, images: Any, batch_size: int, steps_per_epoch: int, steps: int, columns: np.ndarray):
        self.images, self.count = OnDisk(images) if _mapped(images) else images, len(images)
        self.batch_size, self.steps_per_epoch, self.columns = batch_size, steps_per_epoch, columns
        self.starts = range(0, len(columns), PIECE)
        self._length = steps * len(self.starts)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Piece:
        step, part = divmod(int(number), len(self.starts))
        rows = self.rows(step)[self.columns[self.starts[part] : self.starts[part] + PIECE]]
        if not isinstance(self.images, Decoded):
            return np.ascontiguousarray(self.images[rows]), np.zeros(0, np.int64)
        images, broken = self.images.read(rows, threads=False)
        return images, np.array(broken, np.int64)

    def rows(self, step: int) -> np.ndarray:
        """Which images a step takes."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return _order(epoch, self.count)[at * self.batch_size : (at + 1) * self.batch_size]


@functools.lru_cache(maxsize=2)
def _order(epoch: int, count: int) -> np.ndarray:
    return order(epoch, count).astype(np.int32)


def _mapped(images: Any) -> bool:
    """Whether an array is the memory map of a whole file, and no part of one."""
    return isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and images.flags.c_contiguous


class reading:
    """Grain's iterator over the pieces from a step on; closed, with its workers, at the end of the context."""

    def __init__(self, pieces: Pieces, first: int, workers: int):
        self._pieces, self._first, self._workers = pieces, first, workers

    def __enter__(self) -> Iterator[Piece]:
        import grain
        from absl import flags

        threads = 1 if self._workers else cores()
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_AHEAD * threads)
        wanted = grain.MapDataset.source(self._pieces)[self._first * len(self._pieces.starts) :]
        dataset = wanted.to_iter_dataset(read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain asks for flags of its own, which a call from Python never reads
                flags.FLAGS.mark_as_parsed()
            # By pipes: containers have little shared memory, and grain forgets to give some of its own back.
            pipes = grain.experimental.DatasetOptions(min_shm_size=2**62)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, pipes)
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=_AHEAD)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_in_worker)
        self._iterator: Any = iter(dataset)
        return self._iterator

    def __exit__(self, *_: object) -> None:
        self._iterator.close()
        del self._iterator


def _in_worker(index: int, count: int) -> None:
    """A worker ends with the process that started it, and only then: signals to the group are for that one to answer."""
    import multiprocessing

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=end, daemon=True).start()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
