"""Linear and k-NN accuracy of the methods on real CIFAR-10: ResNet18, bfloat16, 30 epochs, three seeds as one program a method.

  python benchmarks/cifar10.py --prepare --data_dir=DIR      once, where TensorFlow Datasets keeps cifar10
  python benchmarks/cifar10.py [--methods=byol,simclr] [--minutes=9] [--flag=value ...]

The last epoch counts. Warm-ups and late starts that were meant for 1000 epochs (learning rate, SwAV's queue, DINO's
temperature) end after a third of the epochs at most. A method is written to the results file as soon as it is done, and a
later call goes on with the methods that the file lacks. The table that is printed last holds all that were trained alike
(epochs, preset, seeds, images and every other setting), beside solo-learn's published 1000-epoch figures. Other arguments are
settings of the config, as for experiments/run.py.

`--prepare` writes the decoded images in parts of 44 MiB, so that they can be carried to a machine that has an accelerator and no
network, in transfers of bounded size. With room for one part a transfer, 10 minutes a command, and results that come back from a
folder OUT alone, the sequence is:

  here    python benchmarks/cifar10.py --prepare --data_dir=DIR
          # writes images-0.npy to images-3.npy and labels.npy into runs/cifar10
          pip download --no-deps -d runs/wheels dm-pix tensorboardX    # and what else the machine lacks
  there   mkdir -p /tmp/cifar10 && cp runs/cifar10/*.npy /tmp/cifar10
          # three times, with images-0.npy and labels.npy, images-1.npy, images-2.npy, while the machine is kept
  there   pip install --no-index --no-deps --target /tmp/site runs/wheels/*.whl
          cp runs/cifar10/*.npy /tmp/cifar10; cp benchmarks/results/cifar10-gpu.json OUT
          PYTHONPATH=/tmp/site:. python benchmarks/cifar10.py --folder=/tmp/cifar10 --results=OUT/cifar10-gpu.json --minutes=9
          # with images-3.npy and the wheels
  here    cp OUT/cifar10-gpu.json benchmarks/results
  there   the last command again, until no method is left; on a fresh machine, everything again
"""

import argparse
import dataclasses
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from absl import flags as absl_flags

from ssljax import data, flags, measuring, pipeline, representation, sweeps, workdir
from ssljax.config import Config, resolve
from ssljax.errors import UserError
from ssljax.files import replacing
from ssljax.methods import METHODS
from ssljax.report import tables
from ssljax.train import loop

ROOT = Path(__file__).parents[1]
PARTS = 4  # of 15,000 images, 44 MiB each
TRAIN = 50_000
BASELINES = ("random", "pixels")
MEASURES = ("linear", "knn")


def prepare(folder: Path, data_dir: str) -> None:
    """Writes the training images, then the test images, as `PARTS` files of uint8 [n, 32, 32, 3], and all labels as one."""
    found = data.load("cifar10", data_dir=data_dir)
    splits = [found.splits[name] for name in ("train", "test")]
    images = np.concatenate([split.images for split in splits])
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(images, PARTS)):
        np.save(folder / f"images-{number}.npy", part)
    np.save(folder / "labels.npy", np.concatenate([np.asarray(split.labels) for split in splits]))
    print(f"{folder}: {PARTS} parts of up to {math.ceil(len(images) / PARTS):,} images, and labels.npy")


def assemble(folder: Path, limit: int) -> Path:
    """One archive of the parts in `folder`, of the first `limit` images of each split (0: all of them).

    Raises:
      UserError: a part is missing.
    """
    path = folder / (f"cifar10-{limit}.npz" if limit else "cifar10.npz")
    if path.exists():
        return path
    try:
        images = np.concatenate([np.load(folder / f"images-{number}.npy") for number in range(PARTS)])
        labels = np.load(folder / "labels.npy")
    except OSError as error:
        raise UserError(f"{error.filename}: no such part; `--prepare --data_dir=DIR` writes all {PARTS}") from None
    train, test = slice(0, limit or TRAIN), slice(TRAIN, TRAIN + limit if limit else None)
    arrays = dict(x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])
    with replacing(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def settings(archive: Path, method: str, argv: Sequence[str]) -> Config:
    """The config of a method: solo-learn's CIFAR settings for 30 epochs, `argv` over them."""
    values = absl_flags.FlagValues()
    flags.define(values)
    own = ["--preset=solo", "--epochs=30", "--seeds=5,6,7", "--precision=bfloat16", "--evaluations=linear,knn"]
    own += [f"--dataset=npz:{archive}", f"--cache_dir={archive.parent / 'cache'}"]
    flags.parse_argv(values, ["cifar10", *own, *argv])
    values["method"].value = method
    config, *others = flags.configs_from_flags(values)
    if others:
        raise UserError("one program a method: a static setting takes one value here, not a list")
    most = config.epochs / 3  # solo-learn's warm-ups and late starts are of 1000 epochs
    if config.warmup_epochs is None:
        config = dataclasses.replace(config, warmup_epochs=min(10.0, most))
    shown = sweeps.settings(resolve(config))
    given = {text.partition("=")[0].strip() for text in config.set}
    late = [
        a for a in METHODS[method].HYPER if a.endswith(("_epoch", "_epochs")) and shown[a] > most and a not in given
    ]
    return dataclasses.replace(config, set=(*config.set, *(f"{address}={most:g}" for address in late)))


def trained_and_measured(config: Config, method: str) -> dict[str, Any]:
    """Trains the runs of a config (a baseline's are only measured) and returns what the results file holds of them."""
    (program,) = pipeline.plan([config])
    seconds: dict[str, float] = {}
    row: dict[str, Any] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown: representation.Representation | None
        if method == "pixels":
            shown = representation.pixels(program.dataset, program.config.seeds, method)
        else:
            trained = pipeline.untrained(program)
            if method != "random":
                trained = loop.pretrain(
                    program.config,
                    trained,
                    name=program.name,
                    checkpoints=folder / "checkpoints",
                    metrics_file=folder / "metrics.jsonl",
                    tensorboard=folder / "tensorboard",
                )
                jax.block_until_ready(trained.state)
                seconds["pretrain"] = time.perf_counter() - began
                speeds = [json.loads(line)["images_per_second"] for line in (folder / "metrics.jsonl").open()]
                row["images/s"] = statistics.median(speeds)  # the first epoch's holds the compilation
                began = time.perf_counter()
            shown = representation.represent(program.config, trained, program.dataset, program.name)
        results = measuring.measure(program.config, program.dataset, shown, folder / "a.npz")[0] if shown else []
    seconds["evaluate"] = time.perf_counter() - began
    for evaluation in MEASURES:
        top1 = {
            r["seed"]: r["value"]
            for r in results
            if (r["evaluation"], r["target"], r["metric"]) == (evaluation, "label", "top1")
        }
        mean, deviation, n = tables.stat(top1.values())
        row[evaluation] = {"mean": mean if n else None, "deviation": deviation, "by seed": top1}
    info = json.loads(workdir.describe([program.config], {"cifar10": program.dataset.fingerprint}, "", seconds))
    return row | {name: info[name] for name in ("wall_seconds", "device", "machine", "versions", "commit", "finished")}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines of a markdown table, published values beside."""
    targets = tables.read_targets(ROOT / "experiments" / "flagfiles" / "cifar" / "solo.csv")
    published = {target["method"]: float(target["value"]) for target in targets}
    heads = ["method", "linear top-1", "k-NN top-1", "images/s", "minutes", "solo-learn, 1000 epochs, linear"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for row in rows:
        cells = [row["method"]]
        for measure in MEASURES:
            values = row[measure]["by seed"].values()
            cells.append(tables.cell(tables.stat(values), len(row["seeds"])))
        cells += [f"{row['images/s']:,.0f}" if "images/s" in row else ""]
        cells += [f"{sum(row['wall_seconds'].values()) / 60:.1f}"]
        cells += [tables.number(published[row["method"]], 4) if row["method"] in published else ""]
        yield f"| {' | '.join(cells)} |"


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Trains the methods that the results file lacks, while there is time, and prints the table.

    Raises:
      UserError: an unknown method or setting, a missing part, a results file that is none.
    """
    began = time.perf_counter()
    archive = assemble(args.folder, args.limit)
    known = [*METHODS, *BASELINES]
    methods = args.methods.split(",") if args.methods else known
    # A baseline needs some method's settings, whose encoder it measures untrained.
    configs = {m: settings(archive, "simclr" if m in BASELINES else m, argv) for m in methods}
    for config in configs.values():
        resolve(config)  # all of them before the first is trained
    shared = {"epochs": config.epochs, "preset": config.preset, "images": args.limit or TRAIN}
    shared |= {"seeds": list(config.seeds), "settings": sorted(argv)}
    path = args.results or common.RESULTS / f"cifar10-{jax.default_backend()}.json"
    rows = read(path)
    done = {row["method"]: row for row in rows if shared.items() <= row.items()}
    left = [method for method in methods if method not in done]
    while left:
        longest = max((sum(row["wall_seconds"].values()) for row in done.values()), default=0.0)
        if args.minutes and time.perf_counter() - began + longest > 60 * args.minutes:
            print(f"no time is left for {','.join(left)}: the same command goes on with them\n")
            break
        method = left.pop(0)
        done[method] = {"method": method, **shared, **trained_and_measured(configs[method], method)}
        rows.append(done[method])
        path.parent.mkdir(parents=True, exist_ok=True)
        workdir.write_text(path, json.dumps({"rows": rows}, indent=1) + "\n")
    print("\n".join(table([done[method] for method in known if method in done])))
    print(f"\nwritten to {path}")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is none."""
    try:
        return json.loads(path.read_text())["rows"] if path.exists() else []
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a results file of this script ({error})") from None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--prepare", action="store_true", help="write the parts and stop")
    parser.add_argument("--data_dir", default="", help="for --prepare: where tfds keeps cifar10")
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar10"), help="where the parts are")
    parser.add_argument("--methods", default="", help="comma list; random and pixels are the baselines (default: all)")
    parser.add_argument("--limit", type=int, default=0, help="images of each split (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=0, help="start no method that would end later (default: never)"
    )
    parser.add_argument("--results", type=Path, help="JSON file (default: benchmarks/results/cifar10-<platform>.json)")
    args, argv = parser.parse_known_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        if args.prepare:
            prepare(args.folder, args.data_dir)
        else:
            run(args, argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
