"""Streamed images: how fast workers decode them, beside a torch DataLoader of the same work, and how long the device waits.

    python benchmarks/streaming.py                     # what stands in benchmarks/README.md
    python benchmarks/streaming.py --sets=jpeg --workers=4,8,16 --images=20000 --backbone=resnet50 --width=1

The pictures are noise over a gradient, made on the spot: of 8 x 8 and of 32 x 32 pixels as PNG, and of 256 x 256 as JPEG, brought
to 224. *Waiting* is the share of the second epoch in which the device had nothing to do for want of images.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

import ssljax
from ssljax import data, pipeline
from ssljax.data.files import Decoded
from ssljax.train import loop
from ssljax.train.stream import Feed

# Side in pixels and ending of the files, the side they are brought to (0: none), and what the network sees.
SETS: dict[str, tuple[int, str, int, int]] = {
    "digits": (8, "png", 0, 8),
    "cifar": (32, "png", 0, 32),
    "jpeg": (256, "jpg", 224, 32),
}


def make(folder: Path, kind: str, count: int) -> None:
    """Writes so many pictures in two class folders."""
    from PIL import Image

    side, ending, _, _ = SETS[kind]
    random = np.random.RandomState(0)
    gradient = np.linspace(0, 160, side)[:, None, None]
    for number in range(count):
        (place := folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = (gradient + random.randint(0, 96, (side, side, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:06}.{ending}")


def reading(images: Decoded, batch: int, steps: int, workers: int) -> float:
    """Images a second of a stream that nothing else hangs on, without the start of its workers."""
    mesh = jax.make_mesh((1, 1), ("run", "data"), devices=jax.devices()[:1])
    per_epoch = len(images) // batch
    settings: dict[str, Any] = dict(batch_size=batch, steps_per_epoch=per_epoch, per_call=1, workers=workers)
    with Feed(images, mesh, first=0, last=steps + 4, **settings) as feed:
        for _ in range(4):
            jax.block_until_ready(feed.next())
        began = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready(feed.next())
        return batch * steps / (time.perf_counter() - began)


def torch_reading(folder: Path, resize: int, batch: int, steps: int, workers: int) -> float | None:
    """The same of torch's DataLoader; None where torch is not installed."""
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        return None
    pictures: Any = Pictures([str(path) for path in sorted(folder.rglob("*.*"))], resize)
    loader: Any = DataLoader(pictures, batch, shuffle=True, num_workers=workers, drop_last=True)
    found, began = 0, 0.0
    while found < steps + 4:
        for _ in loader:
            found += 1
            if found == 4:
                began = time.perf_counter()
            if found == steps + 4:
                break
    return batch * steps / (time.perf_counter() - began)


class Pictures:
    """A torch data set of pictures: decoded and resized by Pillow, as uint8."""

    def __init__(self, files: list[str], resize: int):
        self.files, self.resize = files, resize

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        from PIL import Image

        with Image.open(self.files[index]) as file:
            if not self.resize:
                return np.array(file)
            return np.array(file.resize((self.resize, self.resize), Image.Resampling.BILINEAR))


def training(name: str, side: int, workers: int, cache: Path, given: argparse.Namespace) -> dict[str, float]:
    """Images a second and the share of waiting in the second of two epochs of SimCLR."""
    config = ssljax.Config(
        dataset=name, method="simclr", backbone=given.backbone, width=given.width, image_size=side, epochs=2, stream="decode",
        workers=workers, batch_size=given.batch_size, resize=SETS["jpeg"][2] if "jpeg" in name else 0, evaluations=(),
        transforms="horizontal_flip", seeds=(0,), checkpoint_every=10, warmup_epochs=0, cache_dir=str(cache),
    )  # fmt: skip
    (program,) = pipeline.plan([config])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        loop.pretrain(
            program.config, pipeline.untrained(program), name="one", checkpoints=place / "c", metrics_file=place / "m.jsonl",
            tensorboard=place / "t", progress=False,
        )  # fmt: skip
        row = json.loads((place / "m.jsonl").read_text().splitlines()[-1])
    return {"waiting": row["waiting"], "trained_per_second": row["images_per_second"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="digits,cifar,jpeg")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--backbone", default="vgg11_bn")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--batch_size", type=int, default=128)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for kind in given.sets.split(","):
            folder = Path(temporary) / kind
            make(folder, kind, given.images)
            name, (_, _, resize, side) = f"folder:{folder}", SETS[kind]
            images = (
                data.load(name, cache_dir=f"{temporary}/cache", decode=True, image_size=resize).splits["train"].images
            )
            steps = 2 * len(images) // given.batch_size
            for workers in map(int, given.workers.split(",")):
                row: dict[str, Any] = {"set": kind, "workers": workers}
                row["read_per_second"] = round(reading(images, given.batch_size, steps, workers))
                torch_speed = torch_reading(folder, resize, given.batch_size, steps, workers)
                row["torch_per_second"] = torch_speed and round(torch_speed)
                row |= training(name, side, workers, Path(temporary) / "cache", given)
                rows.append(row)
                print(row, flush=True)
    print(common.write("streaming", rows, vars(given)))


if __name__ == "__main__":
    main()
