"""The tables of scaling.md, from what scaling.py has counted; the words between them are kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collectives import Collective
from machines import IMAGENET, MACHINES, PLANNED, Machine, Times, times

from ssljax.train.memory import USABLE

# Steps that MIRA's solver takes for a batch of 4096 at beta 2/3 (README.md, "The solver of MIRA's labels").
SOLVER_STEPS = 10
BATCH, EPOCHS = 4096, 100
# 13 methods, two sets, seeds 5 to 9 and the appendix's sweeps (hue 10; its probability 20, at two intensities; the jitter's 20;
# crops 8; flips 20): 13 x 2 x 5 x 98 = 12,740.
RUNS = 13_000
POOL = 0.75  # of a GPU's memory that XLA takes unless told otherwise
SMALL = 2**18  # bytes of a collective below which its latency is what it costs
STEPS = IMAGENET // BATCH * EPOCHS
RESIZED = 256**2 * 3  # bytes of an image that `--resize=256` has left


class Count(NamedTuple):
    """A program of one case on so many devices, per device."""

    case: str
    devices: int
    found: dict[str, Any]

    @property
    def collectives(self) -> list[Collective]:
        return [Collective(*each) for each in self.found["collectives"]]

    def times(self, machine: Machine) -> Times:
        return times(machine, self.found["flops"], self.collectives, SOLVER_STEPS, self.devices)

    def hours(self, machine: Machine) -> float:
        """Device hours of all steps."""
        return self.times(machine).all * STEPS * self.devices / 3600


Rows = Sequence[dict[str, Any]]


def counts(rows: Rows, what: str) -> list[Count]:
    """The counts of ImageNet's cases or of the sweep, by devices."""
    found = [
        Count(row["asked"].get("case", ""), row["asked"]["devices"], row["found"])
        for row in rows
        if row["asked"]["what"] == what
    ]
    return sorted(found, key=lambda each: (each.case != "simclr", each.case, each.devices))


def of(rows: Rows, what: str) -> dict[str, Any]:
    """What was found of something that is counted once."""
    return next(row["found"] for row in rows if row["asked"]["what"] == what)


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    cells = [[each if isinstance(each, str) else number(each) for each in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), ["---"] * len(head), *cells])


def number(value: float) -> str:
    """Three digits that count."""
    if not value:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    text = f"{float(f'{value:.3g}'):g}"
    return text[1:] if text.startswith("0.") else text


def steps(rows: Rows) -> str:
    """ImageNet's programs: what a device computes, touches, reads and sends in a step."""
    lines = []
    for each in counts(rows, "imagenet"):
        (case, devices, found), many = each, each.collectives
        once = [c for c in many if not c.looped]
        lines.append(
            [
                case,
                str(devices),
                str(BATCH // devices),
                found["flops"] / 1e9,
                found["flops"] * devices / found["flops of all"],
                found["bytes"] / 1e9,
                BATCH / devices * RESIZED / 1e6,
                str(len(once)),
                str(sum(c.bytes < SMALL for c in once)),
                str(len(many) - len(once)) if len(many) > len(once) else "",
                sum(c.sent for c in once) / 1e6,
                found["compile s"],
                found["peak GB"],
            ]
        )
    head = (
        "case, devices, images a device, GFLOP, of an even share, GB touched, input MB, collectives, small ones, in a loop, "
        "MB sent, compiled in s, in GB"
    )
    return table(head.split(", "), lines)


def gradients(rows: Rows) -> str:
    """The gradients' share of what is sent."""
    lines = []
    for case, _, found in (each for each in counts(rows, "imagenet") if each.devices == 8):
        reduced = [Collective(*c) for c in found["collectives"] if c[0] == "all-reduce"]
        large = sum(c.bytes for c in reduced if c.bytes >= 2**20)
        lines.append([case, found["parameters"] / 1e6, 4 * found["parameters"] / 1e6, large / 1e6])
    return table(["case", "parameters, millions", "4 bytes of each, MB", "large all-reduces, MB"], lines)


def step_times(rows: Rows, cases: Callable[[str], bool], machines: Sequence[Machine]) -> str:
    """How long a step takes, and what it takes the processors to feed it."""
    rate = of(rows, "measured")["decoded/s a core"]
    lines = []
    for machine in machines:
        for each in counts(rows, "imagenet"):
            if cases(each.case):
                spent = each.times(machine)
                images = BATCH / spent.all
                needs = images / rate / each.devices
                lines.append(
                    [machine.name, each.case, str(each.devices)]
                    + [1e3 * part for part in spent]
                    + [spent.compute / spent.all, images, needs]
                )
    head = (
        "device, case, devices, computing ms, wires ms, latency ms, share computing, images/s, cores a device to decode"
    )
    return table(head.split(", "), lines)


def cost(rows: Rows) -> str:
    """Device hours and money of a training."""
    lines = []
    every = counts(rows, "imagenet")
    for case in dict.fromkeys(each.case for each in every):
        for machine in MACHINES:
            own = [each for each in every if each.case == case]
            ideal = own[0].found["flops of all"] * STEPS / (machine.flops * PLANNED) / 3600
            hours = [f"{number(each.hours(machine))} ({number(each.hours(machine) / each.devices)})" for each in own]
            dollars = [each.hours(machine) * machine.dollars for each in own]
            lines.append([case, machine.name, ideal, *hours, *dollars])
    sizes = [str(each.devices) for each in every if each.case == every[0].case]
    head = [
        "case",
        "device",
        f"hours at {PLANNED:.0%}",
        *(f"on {n} (each)" for n in sizes),
        *(f"$ on {n}" for n in sizes),
    ]
    return table(head, lines)


def sweep_steps(rows: Rows) -> str:
    """The sweep's program along `run`."""
    lines = [
        [
            str(each.devices),
            each.found["flops"] / 1e9,
            each.found["bytes"] / 1e9,
            str(len(each.collectives)),
            str(sum(c.bytes for c in each.collectives)),
            each.found["compile s"],
        ]
        for each in counts(rows, "sweep")
    ]
    return table(
        ["devices and runs", "GFLOP a device", "GB touched", "collectives", "their bytes", "compiled in s"], lines
    )


def _run_flops(own: dict[str, Any]) -> float:
    """Of a whole run."""
    return own["flops"] * (50_000 // own["batch"]) * own["epochs"]


def sweep_methods(rows: Rows) -> str:
    """What a run of each method takes."""
    lines = []
    for name, own in of(rows, "methods").items():
        held = [int((USABLE["gpu"] * POOL * m.memory - own["shared"]) // own["run"]) for m in MACHINES]
        gflop = own["flops"] / own["batch"] / 1e9
        size = [str(own["batch"]), str(own["epochs"])]
        lines.append([name, *size, gflop, _run_flops(own) / 1e15, own["run"] / 1e9, *(str(n) for n in held)])
    head = [
        "method",
        "batch",
        "epochs",
        "GFLOP an image",
        "PFLOP a run",
        "GB a run",
        *(f"runs on one {m.name}" for m in MACHINES),
    ]
    return table(head, lines)


def sweep_total(rows: Rows) -> float:
    """FLOP of all runs, as many of each method."""
    own = of(rows, "methods")
    return RUNS / len(own) * sum(map(_run_flops, own.values()))


def sweep_cost(rows: Rows) -> str:
    """Device hours and money of the sweep."""
    total, lines = sweep_total(rows), []
    for machine in MACHINES:
        for share in (PLANNED, machine.utilisation):
            hours = total / (machine.flops * share) / 3600
            days = [hours / 24 / n for n in (8, 64, 512)]
            lines.append([machine.name, f"{share:.0%}", hours, hours * machine.dollars, *days])
    speed = of(rows, "measured")["cpu images/s"]
    simclr = of(rows, "methods")["simclr"]
    hours = total / (simclr["flops"] / simclr["batch"] * speed) / 3600
    lines.append(["this CPU, 2 cores", "measured", hours, "", *(hours / 24 / n for n in (8, 64, 512))])
    return table(["device", "of the peak", "device hours", "$", "days on 8", "on 64", "on 512"], lines)


def machines(rows: Rows) -> str:
    """What is assumed of each accelerator."""
    lines = [
        [
            m.name,
            m.flops / 1e12,
            m.bandwidth / 1e12,
            m.nvlink / 1e9,
            m.adapter / 1e9,
            f"{m.utilisation:.0%}",
            f"{m.dollars:.2f}",
        ]
        for m in MACHINES
    ]
    head = "device, TFLOP/s (bfloat16), memory TB/s, NVLink GB/s, adapter GB/s, of the peak on ResNet-50, $ an hour"
    return table(head.split(", "), lines)


def figures(rows: Rows) -> str:
    """What the words quote."""
    found = of(rows, "measured")
    lines = [
        [
            "JPEGs of ImageNet's size that a core decodes and resizes to 256 px",
            f"{number(found['decoded/s a core'])} a second of CPU time",
        ],
        ["SimCLR's step of the sweep on two cores (ResNet-18, 32 px)", f"{number(found['cpu images/s'])} images/s"],
        [f"all {RUNS:,} runs", f"{number(sweep_total(rows) / 1e21)} ZFLOP"],
    ]
    for case, need in of(rows, "memory").items():
        each = " / ".join(f"{number(held / 1e9)} GB" for held in need.values())
        lines.append([f"memory of {case}, batch {BATCH}, bfloat16, on a device of {' / '.join(need)}", each])
    return table(["what", "figure"], lines)


TABLES: dict[str, Callable[[Rows], str]] = {
    "machines": machines,
    "figures": figures,
    "steps": steps,
    "gradients": gradients,
    "times-simclr": lambda rows: step_times(rows, lambda case: case == "simclr", MACHINES),
    "times-mira": lambda rows: step_times(rows, lambda case: case != "simclr", MACHINES[1:2]),
    "cost": cost,
    "sweep-steps": sweep_steps,
    "sweep-methods": sweep_methods,
    "sweep-cost": sweep_cost,
}


def page(text: str, rows: Rows) -> str:
    """The page with its tables written anew between the markers, each <!-- NAME --> and <!-- end -->."""
    for name, made in TABLES.items():
        before, found, rest = text.partition(f"<!-- {name} -->\n")
        _, ended, after = rest.partition("<!-- end -->")
        if not found or not ended:
            raise ValueError(f"scaling.md: expected <!-- {name} --> and, later, <!-- end -->")
        text = before + found + made(rows) + "\n" + ended + after
    return text


def write(path: Path, rows: Rows) -> None:
    """Writes the tables of the page."""
    path.write_text(page(path.read_text(), rows))
    print(f"written to {path}")
