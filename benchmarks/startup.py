"""Seconds from the start of a process to its first finished step, with an empty and with a filled compilation cache.

  python benchmarks/startup.py [--flag=value ...]

Every argument is a setting of the config, as for experiments/run.py.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import common

CHILD = """
import json, sys, time
start = float(sys.argv[1])
marks = {"python": time.time() - start}
import jax
from absl import flags as absl_flags
from ssljax import flags, pipeline
from ssljax.train import loop
from ssljax.train.step import over_runs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
marks["imports"] = time.time() - start
values = absl_flags.FlagValues()
flags.define(values)
flags.parse_argv(values, ["startup", *sys.argv[2:]])
program = pipeline.plan(flags.configs_from_flags(values))[0]
marks["data"] = time.time() - start
trained = pipeline.untrained(program)
jax.block_until_ready(trained.state)
marks["initialised"] = time.time() - start
order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
step = loop.sweep_step(program.config, trained.program, 1, trained.mesh)
jax.block_until_ready(step(trained.state, trained.hyper, trained.data, order, 0))
marks["first step"] = time.time() - start
print(json.dumps(marks))
"""


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache", "filled cache", "filled cache"):
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
            command = [sys.executable, "-c", CHILD, str(time.time()), *sys.argv[1:]]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
            if child.returncode:
                sys.exit(child.returncode)
            rows.append({"start": name, **json.loads(child.stdout.splitlines()[-1])})
    common.show(rows, ["start", "python", "imports", "data", "initialised", "first step"])
    common.write("startup", rows, {"argv": sys.argv[1:]})


if __name__ == "__main__":
    main()
