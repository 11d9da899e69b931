"""Checkpoints of a program's whole state, by orbax: written off the training thread, newest readable one restored.

Of several processes each writes what its devices hold, into one folder that all of them see. What is restored takes the shardings
that are asked for, so that another number of devices or processes may go on.
"""

import contextlib
import errno
import logging
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ssljax import processes
from ssljax.errors import UserError

log = logging.getLogger("ssljax")


class Checkpoints:
    """The checkpoints of one program, numbered by the epochs (or steps) that were finished. All processes call all of it.

    Args:
      folder: made if absent.
      keep: how many of the newest stay.
      of: what they are numbered by, for messages.
    """

    def __init__(self, folder: Path, keep: int, of: str = "epoch"):
        self.folder, self._of = folder.absolute(), of
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        with _as_user_error(self.folder):
            try:
                self._manager = ocp.CheckpointManager(self.folder, options=options)
            except OSError:
                raise
            except Exception:  # orbax reads the dates of all checkpoints, and needs none of them
                _forget_dates(self.folder)
                self._manager = ocp.CheckpointManager(self.folder, options=options)

    def newest(self) -> int | None:
        """The number of the newest checkpoint, readable or not; None where there is none."""
        return self._manager.latest_step()

    def save(self, epoch: int, state: Any) -> None:
        """Starts writing a state; returns when it has been copied.

        Raises:
          UserError: this or the write before it failed, for want of disk space, say.
        """
        # A copy: the step donates its state, and on CPU a host view of it would be the very buffer that is reused.
        copy = jax.tree.map(_copied, state)
        needed, free = sum(x.nbytes for x in jax.tree.leaves(copy)), shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"{self.folder}: the disk is full: a checkpoint takes {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
                "make room and run the same command again"
            )
        digest = _digest(copy)
        with _as_user_error(self.folder):
            self._manager.save(
                epoch,
                args=ocp.args.StandardSave(copy),
                custom_metadata=None if digest is None else {_DIGEST: digest},
            )

    def restore(self, like: Any, *, needed: bool = True) -> tuple[int, Any] | None:
        """The newest readable checkpoint as (epoch, state), or None when there is none. The newest is that of the highest number.

        Those that cannot be read are named in a warning and put aside under another name.

        Args:
          like: a state, or its `jax.eval_shape`, whose shapes, types and shardings the result takes.
          needed: whether it is an error that none of those that are there can be read; else there is something to go back to.

        Raises:
          UserError: it is; nothing has been moved then.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(x)), like)
        bad: dict[int, str] = {}
        found = None
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = None, "another process could not read it"
            try:
                restored = self._manager.restore(epoch, args=ocp.args.StandardRestore(abstract))
                written = (self._manager.metadata(epoch).custom_metadata or {}).get(_DIGEST)
                if written is not None and _digest(restored) not in (written, None):
                    restored, reason = None, "its values are not those that were written"
            except MemoryError:
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds for a file that is not whole
                if "RESOURCE_EXHAUSTED" in str(error):  # no memory on the device: not the file's fault
                    raise
                reason = " ".join(str(error).split())[:160]
            if processes.every(restored is not None):
                found = epoch, restored
                break
            bad[epoch] = reason
        if bad and not found and needed:
            numbers, reason = ", ".join(map(str, bad)), next(iter(bad.values()))
            raise UserError(
                f"{self.folder}: no checkpoint can be read: of {self._of} {numbers} ({reason}); put the folder back from a copy, "
                "or remove it to train from the start"
            )
        for epoch, reason in bad.items():
            log.warning("%s: checkpoint of %s %d cannot be read (%s); going back", self.folder, self._of, epoch, reason)
            if processes.first():
                aside = self.folder / f"unreadable-{epoch}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(epoch)).rename(aside)
        if bad:
            processes.wait()
            self._manager.reload()
        return found

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
          UserError: the last write failed.
        """
        with _as_user_error(self.folder):
            self._manager.wait_until_finished()
            self._manager.close()


def _forget_dates(folder: Path) -> None:
    """Puts aside what cannot be read of what orbax notes of each checkpoint: its date, and the checksum of `save`."""
    for path in folder.glob("[0-9]*") if processes.first() else ():
        try:
            _ = ocp.path.step.Metadata(step=int(path.name), path=epath.Path(path)).commit_timestamp
        except Exception:
            with contextlib.suppress(FileNotFoundError):
                (path / _NOTES).rename(path / f"unreadable{_NOTES}")
    processes.wait()


_NOTES = "_CHECKPOINT_METADATA"
_DIGEST = "crc32"


def _digest(tree: Any) -> int | None:
    """A checksum of all values, which the files themselves do not have; None where other processes hold a part."""
    leaves = jax.tree.leaves(tree)
    if not all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, jax.Array)):
        return None
    digest = 0
    for leaf in leaves:
        digest = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, digest)
    return digest


def _copied(leaf: Any) -> Any:
    """A copy that later steps leave alone: on the host, or on the devices where other processes hold a part."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.array(leaf, copy=True)
    # Accelerators' arrays are copied by orbax before it returns.
    return jnp.copy(leaf) if jax.default_backend() == "cpu" else leaf


def _sharding(x: Any) -> jax.sharding.Sharding:
    sharding = getattr(x, "sharding", None)
    return sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])


class _as_user_error:
    """Turns a failed write into one line: orbax and tensorstore wrap the system's error in their own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, UserError):
            return
        text = str(error)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "RESOURCE_EXHAUSTED" in text
        what = "the disk is full" if full else " ".join(text.split())[:200]
        raise UserError(f"{self.folder}: a checkpoint could not be written: {what}; earlier ones are kept") from error
