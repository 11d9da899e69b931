"""Images a second and peak memory of a train step: one run, and sweeps of 2, 4 and 8 runs as one program.

  python benchmarks/throughput.py [--runs=1,2,4,8] [--flag=value ...]

Every other argument is a setting of the config, as for experiments/run.py. Each number of runs has a process of its own, so
that its peak memory is its own. "ratio" compares a sweep with the same runs one after another, from the one-run row.
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

import common
import jax
import numpy as np
from absl import flags as absl_flags

from ssljax import flags, pipeline
from ssljax.train import execution, loop
from ssljax.train.step import over_runs


def one(runs: int, argv: list[str]) -> dict[str, float]:
    """Times the step of a program of `runs` runs."""
    values = absl_flags.FlagValues()
    flags.define(values)
    flags.parse_argv(values, ["throughput", *argv, f"--seeds={','.join(map(str, range(runs)))}"])
    program = pipeline.plan(flags.configs_from_flags(values))[0]
    config = program.config
    trained = pipeline.untrained(program)
    per_call = execution.steps_per_dispatch(config, trained.program.steps_per_epoch)
    step: Any = loop.sweep_step(config, trained.program, per_call, trained.mesh)
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    start = time.perf_counter()
    compiled = step.lower(trained.state, trained.hyper, trained.data, order, 0).compile()
    compile_seconds = time.perf_counter() - start
    state = trained.state

    def call() -> dict:
        nonlocal state
        state, metrics = compiled(state, trained.hyper, trained.data, order, 0)
        return metrics

    timing = common.timed(call)
    stats = jax.devices()[0].memory_stats() or {}
    # Linux counts ru_maxrss in KiB; a GPU reports its own.
    peak = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    cost = compiled.cost_analysis() or {}
    images = runs * config.batch_size * per_call
    return {
        "runs": runs,
        "ms/step": timing["seconds"] / per_call * 1e3,
        "ms low": timing["low"] / per_call * 1e3,
        "ms high": timing["high"] / per_call * 1e3,
        "images/s": images / timing["seconds"],
        "GFLOP/s": float(cost.get("flops", np.nan)) / timing["seconds"] / 1e9,
        "peak MB": peak / 1e6,
        "compile s": compile_seconds,
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(one(int(sys.argv[2]), sys.argv[3:])))
        return
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    runs = [int(n) for a in sys.argv[1:] if a.startswith("--runs=") for n in a[7:].split(",")] or [1, 2, 4, 8]
    argv = [a for a in sys.argv[1:] if not a.startswith("--runs=")]
    rows: list[dict[str, float]] = []
    for n in runs:
        child = subprocess.run([sys.executable, __file__, "--child", str(n), *argv], stdout=subprocess.PIPE, text=True)
        if child.returncode:
            sys.exit(child.returncode)
        row = json.loads(child.stdout.splitlines()[-1])
        row["ratio"] = row["images/s"] / (rows[0]["images/s"] if rows else row["images/s"])
        rows.append(row)
    columns = ["runs", "ms/step", "ms low", "ms high", "images/s", "ratio", "GFLOP/s", "peak MB", "compile s"]
    common.show(rows, columns)
    common.write("throughput", rows, {"argv": argv})


if __name__ == "__main__":
    main()
