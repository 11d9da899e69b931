"""ssljax beside a plain PyTorch loop: the same method, network, batch and transforms, side by side on one machine.

  python benchmarks/peers.py [--preset=cpu|gpu] [--cases=NAME,...] [--runs=1,2,4,8,16] [--rounds=3] [--minutes=M] [--flag=value ...]

Every other argument is a setting of the config, for both sides. Each measurement is a process of its own, and the two sides take
turns: a row is R runs of ssljax as one program against R runs of `torch_peer.py` one after another, which together make as many
images/s as one alone (start-up is counted apart). A ratio is taken within each round. The peer runs as the fastest of the variants
that were tried first. Results are written after every row to results/peers-<platform>.json; rows of an earlier call stay until they
are measured again, and what could not be measured is a row that says why.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import common
import jax
import numpy as np
import startup
from absl import flags as absl_flags
from processes import Clock, Missing, Row, measure
from torch_networks import Settings

from ssljax import config, flags

HERE = Path(__file__).parent


class Case(NamedTuple):
    """What is compared.

    Attributes:
      flags: settings of the config.
      runs: how many at once on our side.
      images: shape of random uint8 images; None where the flags name a data set.
      variants: of the peer, to choose from; the likeliest first, since the time may end.
      loader: also the peer with a DataLoader.
    """

    flags: tuple[str, ...]
    runs: tuple[int, ...]
    images: tuple[int, ...] | None
    variants: tuple[str, ...]
    loader: bool = False


def _digits(batch: int) -> Case:
    own = ("--dataset=digits", "--method=mocov2plus", f"--batch_size={batch}")
    return Case(own, (1, 2, 4, 8, 16), None, ("channels_last", "eager", "channels_last+compiled"))


_GPU_VARIANTS = (
    "channels_last+compiled+graph", "compiled+graph", "channels_last+reduce-overhead", "channels_last+compiled", "channels_last",
)  # fmt: skip
_GPU = ("--preset=paper", "--method=mocov2plus", "--precision=bfloat16")
_MNIST = (  # the preset of the papers' MNIST runs, which random images of that size do not bring along
    "--transforms=mnist_first", "--optimizer=adam", "--batch_size=32", "--epochs=250", "--backbone=vgg11", "--learning_rate=1e-3",
    "--weight_decay=1e-4", "--temperature=0.07", "--output_dim=128", "--queue_size=1024",
)  # fmt: skip
CASES: dict[str, dict[str, Case]] = {
    "cpu": {"digits-128": _digits(128), "digits-64": _digits(64)},
    "gpu": {
        "cifar-resnet18-256": Case(
            (*_GPU, "--batch_size=256"), (1, 2, 4, 8), (50_000, 32, 32, 3), _GPU_VARIANTS, loader=True
        ),
        "mnist-vgg11-32": Case((*_GPU, *_MNIST), (20, 1, 2, 4, 8, 16, 32, 64), (60_000, 28, 28, 1), _GPU_VARIANTS),
    },
}


def settle(argv: Sequence[str]) -> config.Config:
    """The resolved config of some flags."""
    values = absl_flags.FlagValues()
    flags.define(values)
    flags.parse_argv(values, ["peers", *argv])
    return config.resolve(flags.configs_from_flags(values)[0])


def peer_flags(settled: config.Config, archive: str) -> list[str]:
    """The settings of a config as `torch_peer.py` takes them."""
    given = {name: getattr(settled, name, None) for name in Settings._fields}
    given["data"] = archive or settled.dataset
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def write_images(path: str, shape: tuple[int, ...]) -> None:
    """An archive of random images and labels that both sides read."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = rng.integers(0, 10, len(train))
    np.savez(path, train_images=train, train_labels=labels, test_images=train[:1000], test_labels=labels[:1000])


def choose(variants: Sequence[str], try_one: Callable[[str], Row], say: Callable[[Row], None]) -> str:
    """The fastest variant of the peer.

    Raises:
      Missing: none ran.
    """
    speeds: dict[str, float] = {}
    for variant in variants:
        try:
            row = try_one(variant)
            speeds[variant] = row["images/s"]
            say({"variant": variant, **{k: row[k] for k in ("images/s", "start-up s", "peak MB")}})
        except Missing as missing:
            say({"variant": variant, "missing": str(missing)})
    if not speeds:
        raise Missing("no variant of the peer ran")
    return max(speeds, key=lambda variant: speeds[variant])


def peak_of(precision: str) -> Row:
    """GFLOP/s of the largest square matrix products, the best of some calls."""
    import torch

    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda and precision == "bfloat16" else torch.float32
    best = 0.0
    for n in (4096, 8192) if cuda else (2048, 4096):
        a, b = torch.randn(2, n, n, dtype=dtype, device="cuda" if cuda else "cpu")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10 if cuda else 1):
                a @ b
            if cuda:
                torch.cuda.synchronize()
            best = max(best, 2 * n**3 * (10 if cuda else 1) / (time.perf_counter() - start))
    return {"GFLOP/s": best / 1e9, "dtype": str(dtype)}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Quartiles; the extremes where there are too few for them."""
    if len(values) < 3:
        return min(values), statistics.median(values), max(values)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


class Sides(NamedTuple):
    """How either side is measured.

    Attributes:
      ours, theirs: the settings, as each takes them.
      seconds: timed of each of the peer's processes.
      clock: the time that all of it may take.
      environment: of the processes; those of a case share their compilation caches.
    """

    ours: list[str]
    theirs: list[str]
    seconds: float
    clock: Clock
    environment: dict[str, str]

    def our_runs(self, runs: int) -> Row:
        return self.measure([str(HERE / "throughput.py"), "--child", str(runs), *self.ours])

    def our_startup(self, cache: str) -> Row:
        command = ["-c", startup.CHILD, str(time.time()), *self.ours]
        return measure(command, self.clock, {**self.environment, "JAX_COMPILATION_CACHE_DIR": cache})

    def peer(self, variant: str, *more: str, limit: float = 900.0) -> Row:
        timed = (f"--seconds={self.seconds}", f"--started={time.time()}")
        return self.measure([str(HERE / "torch_peer.py"), *self.theirs, f"--variant={variant}", *timed, *more], limit)

    def measure(self, command: Sequence[str], limit: float = 900.0) -> Row:
        return measure(command, self.clock, self.environment, limit)


def compare(ours: Callable[[], Row], theirs: Callable[[], Row], rounds: int) -> Row:
    """One row: the two sides in turns, as many rounds as there is time for.

    Raises:
      Missing: not even one round.
    """
    pairs: list[tuple[Row, Row]] = []
    for _ in range(rounds):
        try:
            pairs.append((ours(), theirs()))
        except Missing:
            if not pairs:
                raise
            break
    row: Row = {"rounds": len(pairs)}
    for side, name in enumerate(("ours", "theirs")):
        low, median, high = spread([pair[side]["images/s"] for pair in pairs])
        row |= {f"{name} images/s": median, f"{name} low": low, f"{name} high": high}
    ratios = [ours["images/s"] / theirs["images/s"] for ours, theirs in pairs]
    last_ours, last_theirs = pairs[-1]
    return {
        **row,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "ours peak MB": last_ours["peak MB"],
        "theirs peak MB": last_theirs["peak MB"],
        "theirs start-up s": last_theirs["start-up s"],
        "last pair": {"ours": last_ours, "theirs": last_theirs},
    }


def run_case(case: Case, sides: Sides, args: argparse.Namespace, precision: str, add: Callable[..., None]) -> None:
    """All rows of a case."""
    try:
        peak = sides.measure([__file__, "--peak", precision])
        add("peak", peak)
        variants = args.variants or case.variants
        chosen = choose(variants, lambda v: sides.peer(v, limit=args.limit), partial(add, "variant"))
    except Missing as missing:
        add("comparison", {"missing": str(missing)})
        return
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("empty cache", "filled cache"):
            attempt(partial(add, "our start-up"), {"cache": kind}, partial(sides.our_startup, cache))
    loader = f"--loader={os.cpu_count()}"
    plan: list[tuple[int, tuple[str, ...]]] = [(runs, ()) for runs in args.runs or case.runs]
    plan[1:1] = [(plan[0][0], (loader,))] if case.loader else []
    for runs, more in plan:
        head = {"runs": runs, "against": " ".join((chosen, *more))}
        theirs = partial(sides.peer, chosen, *more)
        attempt(
            partial(add, "comparison"), head, partial(compare, partial(sides.our_runs, runs), theirs, args.rounds), peak
        )


def attempt(add: Callable[[Row], None], head: Row, function: Callable[[], Row], peak: Row | None = None) -> None:
    """Adds what was measured, with its share of the machine's peak, or why it was not."""
    try:
        row = function()
    except Missing as missing:
        add({**head, "missing": str(missing)})
        return
    if peak is not None:
        per_image = row["last pair"]["theirs"]["GFLOP/image"]
        row |= {f"{side} of peak": row[f"{side} images/s"] * per_image / peak["GFLOP/s"] for side in ("ours", "theirs")}
    add({**head, **row})


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(peak_of(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--preset", choices=sorted(CASES), default="cpu")
    parser.add_argument("--cases", help="comma list; default: all of the preset")
    parser.add_argument("--runs", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--variants", type=lambda text: text.split(","), help="of the peer, to choose from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=120, help="the whole call stops in time for them")
    parser.add_argument("--seconds", type=float, default=5, help="timed of each of the peer's processes")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a variant may take to show itself")
    parser.add_argument(
        "--images", type=int, default=0, help="random images, where fewer than the data set's are enough"
    )
    args, argv = parser.parse_known_args()
    jax.config.update("jax_platforms", "cpu")  # of this process alone, which must not hold the accelerator's memory
    clock = Clock(time.time() + 60 * args.minutes)
    cases = CASES[args.preset]
    chosen = args.cases.split(",") if args.cases else list(cases)
    for name in set(chosen) - set(cases):
        parser.error(f"--cases: {args.preset} has {', '.join(cases)}, given '{name}'")
    described = f"import sys; sys.path[0] = {str(HERE)!r}; import common, json; print(json.dumps(common.device()))"
    device = measure(["-c", described], clock, os.environ)
    path = common.RESULTS / f"peers-{device['platform']}.json"
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text()) if path.exists() else {}
    rows: list[Row] = before["rows"] if before.get("device") == device else []

    def key(row: Row) -> tuple:
        return tuple(str(row.get(name)) for name in ("case", "kind", "runs", "variant", "cache", "against", "argv"))

    def add(case: str, kind: str, row: Row) -> None:
        nonlocal rows
        row = {"case": case, "kind": kind, "argv": argv, **row}
        rows = [other for other in rows if key(other) != key(row)] + [row]
        path.write_text(json.dumps({"device": device, "settings": vars(args), "rows": rows}, indent=2) + "\n")
        print({k: v for k, v in row.items() if k != "last pair"}, flush=True)

    for name in chosen:
        case = cases[name]
        with tempfile.TemporaryDirectory() as folder:
            own, archive = [*case.flags, *argv], ""
            if case.images:
                archive = f"{folder}/images.npz"
                write_images(archive, (args.images or case.images[0], *case.images[1:]))
                own = [f"--dataset=npz:{archive}", f"--cache_dir={folder}/data", *own]
            settled = settle(own)
            caches = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/jax", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
            sides = Sides(own, peer_flags(settled, archive), args.seconds, clock, {**os.environ, **caches})
            run_case(case, sides, args, settled.precision, partial(add, name))
    shown = [row for row in rows if row["kind"] == "comparison" and "missing" not in row]
    columns = [
        "case",
        "runs",
        "against",
        "ours images/s",
        "theirs images/s",
        "ratio",
        "ours of peak",
        "ours peak MB",
        "theirs peak MB",
    ]
    common.show(shown, columns)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
