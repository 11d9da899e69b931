"""Where training stops scaling, counted from compiled programs: FLOP, bytes touched, sent and read of a step, and what it costs.

  python benchmarks/scaling.py [--devices=8,64,512] [--cases='simclr|mira']     counts and measures, then writes scaling.md
  python benchmarks/scaling.py --write                                        writes scaling.md from results/scaling-cpu.json

ImageNet (ResNet-50, 224 px, batch 4096; `mira/table1.cfg`) on 8, 64 and 512 simulated CPU devices along `data`, and a sweep of
13,000 runs, the bias study (CIFAR-10, ResNet-18, the paper's 1000 epochs), along `run`. The programs are ssljax's own, compiled
for shapes alone: nothing of that size is ever allocated. Each count has a process of its own, for its number of devices. What
has been counted stays in the results file. The tables of scaling.md are written between its markers; its words are kept.
"""

import argparse
import io
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import processes
import scaling_page
from collectives import collectives
from machines import IMAGENET
from scaling_page import BATCH, EPOCHS

from ssljax.config import Config

FLAGFILES = Path(__file__).parents[1] / "experiments" / "flagfiles"
PAGE, RESULTS = Path(__file__).with_name("scaling.md"), common.RESULTS / "scaling-cpu.json"
DEVICES = (8, 64, 512)
METHODS = (
    "barlow_twins", "byol", "deepclusterv2", "dino", "mocov2plus", "nnbyol", "nnclr", "ressl", "simclr", "simsiam", "swav",
    "vibcreg", "vicreg",
)  # fmt: skip
# What is asked of XLA's CPU compiler: the program's operations are what is counted, the machine code is never run.
UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
GPU = ("--convolution=lax", "--run_axis=vmap")  # what `auto` would choose there


class Shapes(NamedTuple):
    """A training set that is nowhere: how many images, of which stored side, of how many classes, streamed or on the device."""

    images: int
    side: int
    classes: int
    streamed: bool


CASES = {
    "simclr": ("--method=simclr", "--local_crops=0"),
    "mira": ("--method=mira", "--local_crops=0"),
    "mira, 2 + 6 crops": ("--method=mira", "--local_crops=6"),
}
IMAGES = Shapes(IMAGENET, 256, 1000, True)  # stored as `--resize=256` leaves them
CIFAR = Shapes(50_000, 32, 10, False)


def imagenet(case: str, devices: int, *more: str) -> Config:
    """The settings of MIRA's Table 1, a batch of 4096 laid along `data`."""
    own = [*CASES[case], f"--epochs={EPOCHS}", f"--batch_size={BATCH}", f"--mesh=run:1,data:{devices}"]
    return settled(f"--flagfile={FLAGFILES}/mira/table1.cfg", *GPU, *own, *more)


def cifar(method: str, *more: str) -> Config:
    """The settings of the bias study."""
    own = ["--dataset=cifar10", f"--method={method}", "--seeds=5", "--sweep=color_jitter.hue=0.1"]
    return settled(f"--flagfile={FLAGFILES}/bias/hue_intensity.cfg", *GPU, *own, *more)


def settled(*argv: str) -> Config:
    """The resolved config of some flags."""
    from absl import flags as absl_flags

    from ssljax import flags
    from ssljax.config import resolve

    values = absl_flags.FlagValues()
    flags.define(values)
    flags.parse_argv(values, ["scaling", *argv])
    (config,) = flags.configs_from_flags(values)
    return resolve(config)


def lowered(config: Config, shapes: Shapes, spread: bool = True) -> tuple[Any, Any]:
    """A step of all runs of a config, traced for shapes alone; and the shapes of their state.

    Args:
      config: resolved.
      shapes: of the training images.
      spread: over the devices of the config's mesh; else on one device.
    """
    import jax
    from jax import numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from ssljax import sweeps
    from ssljax.train import loop
    from ssljax.train.mesh import mesh_of
    from ssljax.train.step import Data, over_runs
    from ssljax.train.stream import chunk_shape

    program = loop.program_of(config, shapes.images, 3, shapes.classes)
    runs = sweeps.runs(config)
    mesh = mesh_of(config, len(runs)) if spread else None

    def placed(tree: Any, *axes: str) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*axes)) if mesh else None
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    side, channels = shapes.side, jax.ShapeDtypeStruct((3,), jnp.float32)
    images = jax.ShapeDtypeStruct((0 if shapes.streamed else shapes.images, side, side, 3), jnp.uint8)
    data = placed(Data(images, channels, channels))  # type: ignore[arg-type]
    hyper = placed(jax.eval_shape(lambda: sweeps.stack([sweeps.hyper(config, run) for run in runs])), "run")
    state = placed(jax.eval_shape(over_runs(program.init, (0,)), hyper), "run")
    order: Any = placed(jax.ShapeDtypeStruct((len(runs), shapes.images), jnp.int32), "run")
    if shapes.streamed:
        assert mesh is not None
        order = chunk_shape(images, config.batch_size, 1, mesh)
    step: Any = loop.sweep_step(config, program, 1, mesh, chunks=shapes.streamed)
    return step.lower(state, hyper, data, order, 0), state


def count(config: Config, shapes: Shapes) -> dict[str, Any]:
    """What one device does in a step of a config, by XLA's account of the compiled program."""
    import jax

    began = time.perf_counter()
    traced, state = lowered(config, shapes)
    compiled = traced.compile(compiler_options=UNOPTIMISED)
    cost, account = compiled.cost_analysis(), compiled.memory_analysis()
    found = collectives(compiled.as_text())
    return {
        "flops": cost["flops"],
        "flops of all": traced.cost_analysis()["flops"],
        "bytes": cost["bytes accessed"],
        "scratch": account.temp_size_in_bytes,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)) // jax.tree.leaves(state)[0].shape[0],
        "collectives": [[each.kind, each.bytes, each.group, each.looped] for each in found],
        "compile s": time.perf_counter() - began,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,  # Linux counts KiB
    }


def methods() -> dict[str, Any]:
    """What a run of each method of the bias study takes: FLOP of a step, traced and not compiled, and `train/memory.py`'s bytes."""
    import jax
    from jax import numpy as jnp

    from ssljax.train import loop, memory

    images = jax.ShapeDtypeStruct((CIFAR.images, CIFAR.side, CIFAR.side, 3), jnp.uint8)
    found = {}
    for method in METHODS:
        traced, _ = lowered(cifar(method), CIFAR, spread=False)
        config = cifar(method, "--precision=bfloat16")
        need = memory.estimate(loop.program_of(config, CIFAR.images, 3, CIFAR.classes), config, images)
        found[method] = {
            "flops": traced.cost_analysis()["flops"],
            "batch": config.batch_size,
            "epochs": config.epochs,
            "run": need.run,
            "shared": need.shared,
        }
    return found


def memories(devices: Sequence[int] = DEVICES) -> dict[str, dict[str, float]]:
    """Bytes on a device of each case of ImageNet in bfloat16, by the number of devices, as `train/memory.py` estimates."""
    import jax
    from jax import numpy as jnp

    from ssljax.train import loop, memory

    images = jax.ShapeDtypeStruct((IMAGES.images, IMAGES.side, IMAGES.side, 3), jnp.uint8)
    found = {}
    for case in CASES:
        config = imagenet(case, 1, "--precision=bfloat16")
        need = memory.estimate(loop.program_of(config, IMAGES.images, 3, IMAGES.classes), config, images)
        found[case] = {str(n): need.weights + need.memory + need.activations / n for n in devices}
    return found


def measured() -> dict[str, float]:
    """On this machine: images/s of a SimCLR step of the bias study (batch 32), and JPEGs/s that one core decodes and resizes.

    By CPU time, so that other work on the machine counts as little as can be.
    """
    import jax
    import numpy as np
    from PIL import Image

    from ssljax import sweeps
    from ssljax.data.pixels import resize
    from ssljax.train import loop

    rng = np.random.default_rng(0)
    config = cifar("simclr", "--batch_size=32", "--epochs=20", "--convolution=matmul", "--run_axis=map")
    data = loop.resident(rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8), (0.5,) * 3, (0.25,) * 3)
    trained = loop.prepare(config, sweeps.runs(config), data, 10)
    order = np.broadcast_to(np.arange(64, dtype=np.int32), (len(trained.runs), 64))
    step, state = loop.sweep_step(config, trained.program, 1, trained.mesh), trained.state

    seconds = []
    for _ in range(4):  # the first compiles
        began = time.process_time()
        state, metrics = step(state, trained.hyper, trained.data, order, 0)
        jax.block_until_ready(metrics)
        seconds.append((time.process_time() - began) / (os.cpu_count() or 1))

    # ImageNet's mean JPEG: 469 x 387 pixels, some 110 kB (138 GiB of 1,281,167 files).
    rough = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((469, 387), Image.Resampling.BICUBIC)
    grains = np.asarray(picture) + rng.normal(0, 12, (387, 469, 3))
    file = io.BytesIO()
    Image.fromarray(grains.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    text = file.getvalue()

    def decoded() -> np.ndarray:
        return resize(np.asarray(Image.open(io.BytesIO(text)).convert("RGB")), IMAGES.side)

    began, done = time.process_time(), 0
    while time.process_time() - began < 3:
        decoded()
        done += 1
    rate = done / (time.process_time() - began)
    return {"cpu images/s": 32 / statistics.median(seconds[1:]), "decoded/s a core": rate, "jpeg kB": len(text) / 1e3}


def child(asked: dict[str, Any]) -> dict[str, Any]:
    """One count, in the process whose simulated devices it needs."""
    if asked["what"] == "imagenet":
        return count(imagenet(asked["case"], asked["devices"]), IMAGES)
    if asked["what"] == "sweep":
        seeds = ",".join(map(str, range(asked["devices"])))
        return count(cifar("simclr", f"--seeds={seeds}", f"--mesh=run:{asked['devices']}"), CIFAR)
    return {"methods": methods, "memory": memories, "measured": measured}[asked["what"]]()


def in_process(asked: dict[str, Any], limit: float) -> dict[str, Any]:
    """A `child` with as many simulated devices as it asks for."""
    flags = f"--xla_force_host_platform_device_count={asked.get('devices', 1)}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [__file__, "--child", json.dumps(asked)]
    return processes.measure(command, processes.Clock(time.time() + limit), environment, limit)


def run(devices: Sequence[int], cases: Sequence[str], limit: float) -> None:
    """Counts and measures all that is asked for, each kept in the results file as soon as it is there."""
    counts = [{"what": "imagenet", "case": case, "devices": number} for case in cases for number in devices]
    counts += [{"what": "sweep", "devices": number} for number in devices]
    counts += [{"what": "methods"}, {"what": "memory"}, {"what": "measured"}]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for asked in counts:
        print(" ".join(map(str, asked.values())), end=": ", flush=True)
        try:
            found = in_process(asked, limit)
        except processes.Missing as error:
            print(f"not counted: {error}")
            continue
        rows = [row for row in rows if row["asked"] != asked] + [{"asked": asked, "found": found}]
        common.write("scaling", rows, {"limit": limit})


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default=",".join(map(str, DEVICES)), help="comma list")
    parser.add_argument("--cases", default="|".join(CASES), help="of ImageNet, between |")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each count")
    parser.add_argument("--write", action="store_true", help="only write scaling.md from what has been counted")
    args = parser.parse_args()
    if not args.write:
        cases = args.cases.split("|") if args.cases else []
        run([int(number) for number in args.devices.split(",") if number], cases, args.limit)
    scaling_page.write(PAGE, json.loads(RESULTS.read_text())["rows"])


if __name__ == "__main__":
    main()
