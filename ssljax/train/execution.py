"""How the runs of a program are executed: what `auto` chooses, and where the choice is kept so that a resume keeps it.

The rule follows the measurements in benchmarks/README.md ("The run axis").
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ssljax.config import STREAMED, Config, mesh_sizes
from ssljax.errors import UserError

FILE = "execution.json"
AXES = ("vmap", "map", "unroll")

# Steps in one call of the device at most. A call costs the same whatever it holds: on two CPU cores some 8 to 11 % of a step of
# the digits preset. Sixteen leave about 1 % of that and still let progress be seen.
STEPS = 16
ENOUGH = 4  # below this the calls cost more than the compilation that an even number saves


# Pixels of one run's images in one call on CPU at most, so that progress is seen and an interruption is heard within seconds to
# half a minute whatever the network: 16 steps of the digits preset are a quarter of it.
PIXELS = 2**20


class Execution(NamedTuple):
    """What was chosen for one config: how its run axis is executed, the names of the runs that each of its programs holds, and
    where its images come from.
    """

    run_axis: str
    programs: dict[str, tuple[str, ...]]
    stream: str = "no"


# Bytes that the gradient of one run keeps, below which runs are executed at once on CPU: between 11 MB, where 4 runs at once are
# 1.15 times as fast as one after another, and 40, where 4 are 1.12 times as fast and 8 are slower (.90).
SMALL = 16 * 2**20


def run_axis(config: Config, activations: int | None = None) -> str:
    """The run axis of a resolved config: what is asked for, or the measured rule's choice.

    On CPU `map` where one run alone fills the cores: several at once then only crowd each other out of the caches. Small runs
    are executed at once, and so are all where the convolution is XLA's own, which is slow inside a loop there. On
    accelerators `vmap`: one small run leaves them empty; nothing has been measured there yet.

    Args:
      config: resolved.
      activations: bytes of one run, see `ssljax.train.memory`; None for not small.
    """
    if config.run_axis != "auto":
        return config.run_axis
    small = activations is not None and activations < SMALL
    return "map" if jax.default_backend() == "cpu" and config.convolution != "lax" and not small else "vmap"


def steps_per_dispatch(config: Config, steps_per_epoch: int) -> int:
    """Steps in one call of the device: what is asked for, else up to `STEPS`, if possible so many that an epoch is whole calls.

    What is left over of an epoch takes a second compilation. A convolution of XLA's own inside a loop is 40 to 100 times slower
    on CPU, so there it is one step a call.
    """
    if config.steps_per_dispatch:
        return min(config.steps_per_dispatch, steps_per_epoch)
    if jax.default_backend() == "cpu" and config.convolution == "lax":
        return 1
    most = STEPS
    if jax.default_backend() == "cpu":
        most = max(1, min(most, PIXELS // (config.batch_size * config.image_size**2)))
    whole = max(n for n in range(1, most + 1) if steps_per_epoch % n == 0)
    return whole if whole >= ENOUGH else min(most, steps_per_epoch)


class Layout(NamedTuple):
    """Over how many devices the runs of a program are laid, and the images of a batch of each of them."""

    run: int
    data: int


def layout(config: Config, runs: int, devices: int | None = None) -> Layout:
    """What `--mesh` asks for; else as many devices as divide the runs, and of what is left as many as divide the batch.

    Programs of several processes are laid over every device of each, since a process takes part with devices of its own.

    Args:
      config: resolved.
      runs: of the program.
      devices: how many there are, of this process alone; None for those of all processes.

    Raises:
      UserError: what is asked for cannot be had, or several processes' devices cannot all take part.
    """
    count, batch = devices or jax.device_count(), config.batch_size
    everywhere = devices is None and jax.process_count() > 1
    if not config.mesh:
        fitting = [
            Layout(run, max(n for n in range(1, count // run + 1) if batch % n == 0))
            for run in range(count, 0, -1)
            if runs % run == 0
        ]
        if not everywhere:
            return fitting[0]
        for each in fitting:
            if each.run * each.data == count:
                return each
        raise UserError(
            f"--mesh: {runs} runs in batches of {batch} cannot be laid over all {count} devices of "
            f"{jax.process_count()} processes; give a --batch_size that {count} divides"
        )
    asked = Layout(**mesh_sizes(config.mesh))
    used = asked.run * asked.data
    if used > count or (everywhere and used < count):
        what = f"all {count} devices of {jax.process_count()} processes" if everywhere else f"at most {count} devices"
        raise UserError(f"--mesh: {config.mesh} is {used} devices, expected {what}")
    if runs % asked.run:
        raise UserError(f"--mesh: run:{asked.run} does not divide the {runs} runs of a program")
    if batch % asked.data:
        raise UserError(f"--mesh: data:{asked.data} does not divide --batch_size={batch}")
    return asked


def read(folder: Path) -> dict[str, Execution]:
    """The choices that the checkpoints in a folder were made with, by the name of the config.

    Raises:
      UserError: the file is not ours.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        found = {
            name: Execution(
                values["run_axis"],
                {program: tuple(runs) for program, runs in values["programs"].items()},
                values.get("stream", "no"),
            )
            for name, values in json.loads(path.read_text()).items()
        }
        runs = [run for one in found.values() for names in one.programs.values() for run in names or [None]]
        if not all(one.stream in ("no", *STREAMED) for one in found.values()):
            raise ValueError(f"expected a stream of no, {', '.join(STREAMED)}")
        if not all(one.run_axis in AXES for one in found.values()) or not all(isinstance(run, str) for run in runs):
            raise ValueError(f"expected a run axis of {', '.join(AXES)} and each program's runs")
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{path}: cannot be read ({reason}); it says how these checkpoints' runs are laid out"
        ) from None


def to_json(chosen: dict[str, Execution]) -> str:
    """The text of the file that `read` reads."""
    values: dict[str, Any] = {name: one._asdict() for name, one in chosen.items()}
    return json.dumps(values, indent=2) + "\n"
