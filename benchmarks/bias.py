"""What the hue's intensity does to CIFAR-10's classes under SimCLR and VICReg, in one process; and the time it takes.

  python benchmarks/cifar10.py --prepare --data_dir=DIR      once, where TensorFlow Datasets keeps cifar10
  python benchmarks/bias.py [--methods=simclr,vicreg] [--workdir=DIR] [--flag=value ...]

ResNet18, bfloat16, 10 intensities from 0 to .5 at probability .8, seeds 5, 6 and 7: 30 runs a method as one program. The epochs
(30 unless given) are as many as fit, the paper's are 1000; the other settings are those of cifar10.py. The workdir holds the page
of the study, and the same command goes on with what is there. Then one run alone is trained for `--alone` epochs: what the same
grid would take one run after another, without the start-up and the compilation that each would add, stands beside. How the
images are carried to a machine without network is said at the head of cifar10.py.
"""

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cifar10
import common
import jax

from ssljax import pipeline, workdir
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.train import loop

SWEEP = ("--sweep=color_jitter.hue=0:0.5:10", "--set=color_jitter.hue_probability=0.8", "--transforms=cifar")


def speed_alone(config: Config, epochs: int) -> float:
    """Images/s of the first run of a config, trained by itself: the median over epochs, without the compilation's."""
    address, values = config.sweep[0].split("=", 1)
    first = values.replace(":", ",").split(",")[0]
    alone = dataclasses.replace(
        config, sweep=(), set=(*config.set, f"{address}={first}"), seeds=config.seeds[:1], epochs=epochs + 1
    )
    alone = dataclasses.replace(alone, warmup_epochs=min(alone.warmup_epochs or 0, epochs / 2))
    (program,) = pipeline.plan([alone])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loop.pretrain(
            program.config,
            pipeline.untrained(program),
            name="alone",
            checkpoints=folder / "checkpoints",
            metrics_file=folder / "metrics.jsonl",
            tensorboard=folder / "tensorboard",
        )
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return statistics.median(row["images_per_second"] for row in rows[1:])


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Trains the grid, measures it, times one run, writes the results file.

    Raises:
      UserError: an unknown method or setting, a missing part.
    """
    archive = cifar10.assemble(args.folder, args.limit)
    configs = [cifar10.settings(archive, method, [*SWEEP, *argv]) for method in args.methods.split(",")]
    configs = [dataclasses.replace(config, evaluations=("linear",)) for config in configs]
    rows: list[dict[str, Any]] = []
    for config in configs:
        began = time.perf_counter()
        study = pipeline.run(config, args.workdir / config.method)
        hours = (time.perf_counter() - began) / 3600
        info = json.loads((study.workdir / "run.json").read_text())
        runs = sum(len(program.runs) for program in pipeline.plan([config], trained=False))
        alone = speed_alone(config, args.alone)
        seen = runs * config.epochs * (args.limit or cifar10.TRAIN)
        rows.append(
            {
                "method": config.method,
                "runs": runs,
                "epochs": config.epochs,
                "wall_seconds": info["wall_seconds"],
                "hours of this call": hours,
                "runs/hour": runs / (info["wall_seconds"]["pretrain"] / 3600),
                "images/s alone": alone,
                "runs/hour, one after another": runs / (seen / alone / 3600),
            }
        )
    path = args.results or common.RESULTS / f"bias-{jax.default_backend()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    workdir.write_text(
        path, json.dumps({"device": common.device(), "settings": sorted(argv), "rows": rows}, indent=1) + "\n"
    )
    common.show(rows, ["method", "runs", "epochs", "runs/hour", "runs/hour, one after another"])
    print(f"\nwritten to {path}; the pages are {args.workdir}/METHOD/report.html")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar10"), help="where cifar10.py's parts are")
    parser.add_argument("--methods", default="simclr,vicreg", help="comma list")
    parser.add_argument("--limit", type=int, default=0, help="images of each split (default: all)")
    parser.add_argument("--alone", type=int, default=2, help="epochs of the run that is timed alone")
    parser.add_argument("--workdir", type=Path, default=Path("runs/bias"), help="holds one workdir a method")
    parser.add_argument("--results", type=Path, help="JSON file (default: benchmarks/results/bias-<platform>.json)")
    args, argv = parser.parse_known_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        run(args, argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
