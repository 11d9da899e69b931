"""Files of named tensors: `.safetensors` and what `torch.save` writes, to numpy arrays; and `.safetensors` back to disk.

A file is data, whoever wrote it: nothing in it is ever run.
"""

import argparse
import collections
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ssljax.errors import UserError
from ssljax.files import replacing

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".bin")


def read_tensors(path: str | os.PathLike[str], *, flag: str = "") -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint file by name; floats of any width as float32, nested dictionaries joined by dots.

    Args:
      path: .safetensors, or .pth, .pt, .tar, .ckpt, .bin as `torch.save` writes them. These need PyTorch; of what they
        ask for it makes tensors, dictionaries and a few inert types, and refuses the rest.
      flag: what the path was given by, for messages.

    Raises:
      UserError: no such file, another kind of file, damaged, with pickled code, or PyTorch missing.
    """
    return read(path, flag=flag)[0]


def read(path: str | os.PathLike[str], *, flag: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """As `read_tensors`, and the metadata of a .safetensors file beside it."""
    path, where = Path(path), f"{flag}={path}" if flag else str(path)
    if path.is_dir():
        raise UserError(f"{where}: is a folder, expected a file with weights")
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise UserError(f"{where}: expected a file that ends in .safetensors, {', '.join(TORCH_SUFFIXES)}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    if empty:
        raise UserError(f"{where}: is empty, expected a file with weights")
    if path.suffix != ".safetensors":
        return _read_torch(path, where), {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: _widened(file.get_tensor(name)) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError) as error:  # TypeError: of a type that numpy has not, such as float8
        raise UserError(f"{where}: expected a whole .safetensors file ({error})") from None


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Writes .safetensors, whole or not at all.

    Args:
      path: in a folder that exists.
      tensors: contiguous arrays by name.
      metadata: values are written as JSON.

    Raises:
      UserError: the file cannot be written.
    """
    content = safetensors.numpy.save(dict(tensors), {name: json.dumps(value) for name, value in metadata.items()})
    try:
        with replacing(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _widened(array: np.ndarray) -> np.ndarray:
    floats = (np.floating, ml_dtypes.bfloat16)  # importing ml_dtypes teaches numpy, and so safetensors, bfloat16
    return array.astype(np.float32, copy=False) if issubclass(array.dtype.type, floats) else array


def _read_torch(path: Path, where: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f'{where}: {path.suffix} files need PyTorch: pip install "ssljax[torch]", or convert to .safetensors'
        ) from None

    def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                yield from flatten(value, f"{prefix}{name}.")
            elif isinstance(value, torch.Tensor):
                value = value.detach()
                yield f"{prefix}{name}", (value.float() if value.is_floating_point() else value).numpy()

    try:
        with torch.serialization.safe_globals(_inert_types()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch finds odd about a file's bytes says nothing to its owner
            content = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(content, Mapping):
            raise TypeError(f"it holds a {type(content).__name__}")
        return dict(flatten(content))
    except Exception as error:  # whatever torch's readers raise on bytes that are not theirs
        text = str(error)
        if code := re.search(r"GLOBAL ([\w.]+)|(TorchScript)", text):
            raise UserError(
                f"{where}: refused, since it holds pickled code ({code[1] or code[2]}), which is never run; expected "
                "tensors alone: where you trust the file, save its state_dict on its own"
            ) from None
        # torch's own text may go on to advise reading the file with pickled code and all: pass none of that on.
        sentence = re.split(r"\. |\n", text)[0]
        reason = sentence if " " in sentence and not re.search("weights.only", text, re.I) else type(error).__name__
        raise UserError(
            f"{where}: expected a dictionary of tensors, whole, as torch.save writes it ({reason})"
        ) from None


def _inert_types() -> list[Any]:
    """What checkpoints hold beside tensors that does nothing when it is made: arguments, numpy's numbers."""
    number = np.float64(0).__reduce__()[0]  # numpy 2 moved this function; files name either place
    return [
        argparse.Namespace,
        collections.OrderedDict,
        np.dtype,
        *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
        (number, "numpy.core.multiarray.scalar"),
        (number, "numpy._core.multiarray.scalar"),
    ]
