"""Images a second of every transform and of every named set, one view, on the default device.

python benchmarks/augmentation.py [--batch=256] [--size=32]
"""

import argparse
from functools import partial

import common
import jax
import jax.numpy as jnp

from ssljax import augment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args()
    cases = {name: augment.transform_set(name, [make()]) for name, make in augment.TRANSFORMS.items()} | augment.SETS
    rows = []
    for name, chosen in cases.items():
        channels = 1 if name.startswith("mnist") else 3
        images = jax.random.uniform(jax.random.key(0), (args.batch, args.size, args.size, channels))
        # A gate that stays shut costs the same: both sides of it are computed.
        hyper = jax.tree.map(jnp.float32, augment.hyper(chosen)["view1"])
        view = jax.jit(partial(augment.apply_view, chosen.views[0], image_size=args.size))
        timing = common.timed(partial(view, jax.random.key(1), images, hyper))
        rows.append(
            {
                "transform": name,
                "channels": channels,
                "ms": timing["seconds"] * 1e3,
                "ms low": timing["low"] * 1e3,
                "ms high": timing["high"] * 1e3,
                "images/s": args.batch / timing["seconds"],
            }
        )
    common.show(rows, ["transform", "channels", "ms", "ms low", "ms high", "images/s"])
    common.write("augmentation", rows, vars(args))


if __name__ == "__main__":
    main()
