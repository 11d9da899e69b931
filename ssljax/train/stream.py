"""Training images that are not resident on the device: read by grain, laid over the devices a chunk of steps ahead.

Which images a step takes is a function of the step alone (`ssljax.data.batches.order`), the same for all runs of a program.
"""

import gc
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssljax.data.batches import Piece, Pieces, cores, reading
from ssljax.data.files import Decoded
from ssljax.train.step import Chunk

# Bytes of the images of one call of the device at most, if it is of several steps: a tenth of a second of a fast bus.
MOST = 2**28


def steps_of(per_call: int, batch_size: int, images: Any, asked: int = 0) -> int:
    """Steps in one call of the device: what is `asked` for, else so many, or fewer where images take more than `MOST` bytes."""
    bytes_a_step = batch_size * int(np.prod(images.shape[1:])) * images.dtype.itemsize
    return per_call if asked else max(1, min(per_call, MOST // bytes_a_step))


def chunk_shape(images: Any, batch_size: int, steps: int, mesh: Mesh | None = None) -> Chunk:
    """Shapes and types of a chunk of so many steps, and shardings where there is a mesh."""
    specs = PartitionSpec(None, "data"), PartitionSpec()
    spread, alike = (None if mesh is None else NamedSharding(mesh, spec) for spec in specs)
    return Chunk(
        jax.ShapeDtypeStruct((steps, batch_size, *images.shape[1:]), images.dtype, sharding=spread),
        jax.ShapeDtypeStruct((steps, batch_size), np.int32, sharding=alike),
        jax.ShapeDtypeStruct((), np.int32, sharding=alike),
    )


class _Share(NamedTuple):
    """What this process holds of a batch.

    Attributes:
      columns: of the batch, in the order in which they are read.
      starts: where each part of the batch that a device holds begins among them.
    """

    columns: np.ndarray
    starts: dict[int, int]


def _share(sharding: NamedSharding, batch_size: int) -> _Share:
    parts = {
        (part[1].start or 0, part[1].stop or batch_size)
        for part in sharding.addressable_devices_indices_map((1, batch_size)).values()
        if part is not None
    }
    starts, held = {}, 0
    for start, stop in sorted(parts):
        starts[start], held = held, held + stop - start
    return _Share(np.concatenate([np.arange(*part) for part in sorted(parts)]), starts)


class Feed:
    """The chunks of a program's steps in order, each ready on the devices while the one before it is computed.

    Args:
      images: [n, h, w, c]: an array, a memory map, or a `Decoded`.
      mesh: with the axes "run" and "data".
      batch_size, steps_per_epoch: of a run.
      first, last: steps from the first epoch on, the last one left out.
      per_call: steps in a chunk at most; none reaches over the end of an epoch.
      workers: processes that read; 0 for threads of this one, -1 for a process a core where images are decoded, else 0.

    Attributes:
      waited: seconds that the devices had nothing to do for want of images, since it was last set to 0.
    """

    def __init__(
        self,
        images: Any,
        mesh: Mesh,
        *,
        batch_size: int,
        steps_per_epoch: int,
        first: int,
        last: int,
        per_call: int,
        workers: int = -1,
    ):
        self.waited = 0.0
        self._images, self._per_call, self._first, self._last = images, per_call, first, last
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
        self._share = _share(self._sharding, batch_size)
        if workers < 0:
            workers = cores() if isinstance(images, Decoded) else 0
        self._pieces = Pieces(images, batch_size, steps_per_epoch, last, self._share.columns)
        self._workers = workers
        self._stopped = threading.Event()
        self._room = threading.Semaphore(1)  # on the devices, beside the chunk that is computed
        self._ready: queue.Queue[Chunk | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._produce, name="stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._room.release()
        self._thread.join()
        if self._workers:
            gc.collect()  # what is left of grain's queues would complain when the interpreter ends
        self.tell()

    def tell(self) -> None:
        """Names images that could not be read, if there are new ones."""
        if isinstance(self._images, Decoded):
            self._images.tell()

    def next(self, before: Any = ()) -> Chunk:
        """The next chunk.

        Args:
          before: what the devices compute meanwhile; they wait only from when that is there.

        Raises:
          UserError: images that cannot be read.
        """
        try:
            found = self._ready.get_nowait()
        except queue.Empty:
            jax.block_until_ready(before)
            began = time.perf_counter()
            found = self._ready.get()
            self.waited += time.perf_counter() - began
        if isinstance(found, BaseException):
            raise found
        self._room.release()
        return found

    def _produce(self) -> None:
        try:
            with reading(self._pieces, self._first, self._workers) as pieces:
                first = self._first
                while first < self._last and not self._stopped.is_set():
                    left = self._pieces.steps_per_epoch - first % self._pieces.steps_per_epoch
                    steps = min(self._per_call, left, self._last - first)
                    whole = self._gathered(pieces, steps)
                    self._room.acquire()
                    if not self._stopped.is_set():
                        self._ready.put(self._put(whole, first))
                    first += steps
        except BaseException as error:  # told where the chunk is asked for
            self._ready.put(error)

    def _gathered(self, pieces: Iterator[Piece], steps: int) -> np.ndarray:
        """The images of some steps that this process holds, [steps, columns, h, w, c]."""
        whole = np.empty((steps, len(self._share.columns), *self._images.shape[1:]), self._images.dtype)
        for step in range(steps):
            for start in self._pieces.starts:
                images, broken = next(pieces)
                whole[step, start : start + len(images)] = images
                if len(broken):
                    self._images.note(np.asarray(broken).tolist())
        return whole

    def _put(self, whole: np.ndarray, first: int) -> Chunk:
        index = np.stack([self._pieces.rows(step) for step in range(first, first + len(whole))])
        shape = (len(whole), self._pieces.batch_size, *whole.shape[2:])

        def part(where: Any) -> np.ndarray:
            start, stop = where[1].start or 0, where[1].stop or shape[1]
            at = self._share.starts[start]
            return whole[:, at : at + stop - start]

        def alike(value: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(value.shape, self._everywhere, lambda where: value[where])

        images = jax.make_array_from_callback(shape, self._sharding, part)
        return Chunk(images, alike(index), alike(np.asarray(first, np.int32)))
