"""Own images: how fast a folder is listed, and how fast its files become features, beside the same work in PyTorch.

    python benchmarks/embedding.py                          # what stands in benchmarks/README.md
    python benchmarks/embedding.py --images=50000 --width=1 --workers=16

Listing: empty files in 200 folders, at the first start and at the next, beside a sorted walk as torchvision's `ImageFolder` takes
one. Features: pictures of 32 x 32 pixels as PNG and of 256 x 256 as JPEG brought to 64, under an untrained ResNet-18 with the stem
for small images, files decoded as they are read; beside a DataLoader that feeds the same network of PyTorch. A first pass, which
compiles, is not counted; of several more stand the median and the quartiles.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import streaming

import ssljax
from ssljax import data, pipeline
from ssljax.data.folder import everything
from ssljax.data.listing import files_under
from ssljax.evaluate import features

# Side in pixels and ending of the files, the side they are brought to (0: none), and what the network sees.
SETS = {"cifar": (32, "png", 0, 32), "jpeg": (256, "jpg", 64, 64)}
BATCH = 128


def listing(files: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds to list so many files."""
    with tempfile.TemporaryDirectory() as temporary:
        root, cache = os.path.join(temporary, "set"), os.path.join(temporary, "cache")
        for number in range(files):
            folder = os.path.join(root, f"{number % 200:03}")
            if number < 200:
                os.makedirs(folder)
            with open(os.path.join(folder, f"{number}.png"), "w"):
                pass

        def walk() -> int:
            return sum(len(sorted(names)) for _, _, names in sorted(os.walk(root, followlinks=True)))

        def ours() -> int:
            return len(files_under(root, everything, cache))

        rows = [
            {"work": "list, first start", "files": files, **seconds_of(ours, 1)},
            {"work": "list, next start", "files": files, **seconds_of(ours, repeats)},
            {"work": "list, os.walk", "files": files, **seconds_of(walk, repeats)},
        ]
    return rows


def seconds_of(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and quartiles of so many calls."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return {"seconds": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def in_ssljax(folder: Path, kind: str, given: argparse.Namespace, cache: str) -> Callable[[], Any]:
    """A pass over all files: the features of each, a piece after the other."""
    _, _, resize, side = SETS[kind]
    config = ssljax.Config(
        dataset=f"folder:{folder}", method="simclr", backbone="resnet18", width=given.width, image_size=side, resize=resize,
        stream="decode", batch_size=BATCH, transforms="horizontal_flip", seeds=(0,), evaluations=(), cache_dir=cache,
    )  # fmt: skip
    (program,) = pipeline.plan([config])
    trained = pipeline.untrained(program)
    loaded = data.load(config.dataset, cache_dir=cache, decode=True, image_size=resize)
    in_pieces = features.pieces(trained, image_size=side, batch_size=BATCH)

    def once() -> float:
        return sum(float(np.sum(found)) for split in loaded.splits.values() for found in in_pieces(split.images))

    return once


def in_torch(folder: Path, kind: str, given: argparse.Namespace) -> Callable[[], Any] | None:
    """The same in PyTorch; None where it is not installed."""
    try:
        import torch
        import torch_networks
        from torch.utils.data import DataLoader
    except ImportError:
        return None
    _, _, resize, _ = SETS[kind]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch_networks.ResNet18(3, given.width, 1).eval().to(device)
    files = [str(path) for path in sorted(folder.rglob("*.*"))]
    pictures: Any = streaming.Pictures(files, resize)
    loader: Any = DataLoader(pictures, BATCH, num_workers=given.workers)

    def once() -> float:
        total = 0.0
        with torch.inference_mode():
            for images in loader:
                unit = images.to(device).permute(0, 3, 1, 2).float() / 255
                total += float(network(unit).sum())
        return total

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--workers", type=int, default=2, help="of PyTorch's loader; ours decodes in threads here")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = listing(given.files, given.repeats)
    for kind in SETS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / kind
            streaming.make(folder, kind, given.images)
            both = {
                "ssljax": in_ssljax(folder, kind, given, f"{temporary}/cache"),
                "torch": in_torch(folder, kind, given),
            }
            for name, once in both.items():
                if once is None:
                    continue
                once()
                took = seconds_of(once, given.repeats)
                speed = round(given.images / took["seconds"])
                rows.append({"work": f"embed, {name}", "files": given.images, "set": kind, **took, "per_second": speed})
    common.show(rows, ["work", "set", "files", "seconds", "low", "high", "per_second"])
    print(common.write("embedding", rows, vars(given)))


if __name__ == "__main__":
    main()
