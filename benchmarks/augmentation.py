"""Images a second of every transform and of every named set, one view, on the default device, beside kornia's and torchvision's.

  python benchmarks/augmentation.py [--batch=256] [--size=32] [--names=cifar,rotation,...]

The libraries take turns on the same images; a ratio is the median over the rounds of the other's time over ours, so above 1 ours is
faster. torchvision's v2 draws one set of parameters a call, so it is called image by image. A library that is not installed, or
that has no such transform, leaves a word in place of a number.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch_equivalents

from ssljax import augment

Call = Callable[[], Any]
LIBRARIES = {"kornia": torch_equivalents.kornia, "torchvision": torch_equivalents.torchvision}


def torch_call(library: str, view: augment.View, size: int, images: np.ndarray) -> Call | str:
    """A call of a library's equivalent on a batch that waits for its end, or why there is none."""
    try:
        import torch

        equivalent = LIBRARIES[library](view, size)
    except (ImportError, RuntimeError) as error:  # torchvision beside another torch build raises the second
        absent = isinstance(error, ImportError)
        return f"{library} is not installed" if absent else f"{library}: {error}"
    if equivalent is None:
        return "has none"
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu and not torch.cuda.is_available():
        return "torch sees no GPU"
    given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to("cuda" if on_gpu else "cpu")

    def call() -> None:
        with torch.no_grad():
            equivalent(given)
        if on_gpu:
            torch.cuda.synchronize()

    return call


def in_turns(calls: dict[str, Call], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each call, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + repeats):
        for name, call in calls.items():
            time.sleep(0.005)  # the other library's threads spin on for a moment
            start = time.perf_counter()
            call()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(name: str, chosen: augment.TransformSet, batch: int, size: int, repeats: int) -> dict[str, Any]:
    """One row: a set's first view, here and in the other libraries."""
    view = chosen.views[0]
    channels = 1 if name.startswith("mnist") else 3
    images = jax.random.uniform(jax.random.key(0), (batch, size, size, channels))
    # A gate that stays shut costs the same here: both sides of it are computed.
    hyper = jax.tree.map(jnp.float32, augment.hyper(chosen)["view1"])
    apply = jax.jit(partial(augment.apply_view, view, image_size=size))
    key = jax.random.key(1)
    calls: dict[str, Call] = {"ours": lambda: jax.block_until_ready(apply(key, images, hyper))}
    row: dict[str, Any] = {"transform": name, "channels": channels}
    for library in LIBRARIES:
        call = torch_call(library, view, size, np.asarray(images)) if view else "has none"
        if isinstance(call, str):
            row[f"{library} ms"] = call
        else:
            calls[library] = call
    seconds = in_turns(calls, repeats)
    for side, values in seconds.items():
        head = "" if side == "ours" else f"{side} "
        low, median, high = statistics.quantiles(values, n=4)
        row |= {f"{head}ms": median * 1e3, f"{head}ms low": low * 1e3, f"{head}ms high": high * 1e3}
        if side != "ours":
            row[f"{side} / ours"] = statistics.median(b / a for a, b in zip(seconds["ours"], values))
    return row | {"images/s": batch / row["ms"] * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--names", type=lambda text: text.split(","), help="transforms and sets (default: all)")
    args = parser.parse_args()
    cases = {name: augment.transform_set(name, [make()]) for name, make in augment.TRANSFORMS.items()} | augment.SETS
    names = args.names or list(cases)
    for name in names:
        if name not in cases:
            parser.error(f"--names: expected some of {', '.join(cases)}, given '{name}'")
    rows = [measure(name, cases[name], args.batch, args.size, args.repeats) for name in names]
    columns = ["transform", "channels", "ms", "ms low", "ms high", "images/s"]
    common.show(rows, [*columns, *(f"{library}{what}" for library in LIBRARIES for what in (" ms", " / ours"))])
    common.write("augmentation", rows, vars(args))


if __name__ == "__main__":
    main()
