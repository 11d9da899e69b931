"""What the papers claim of cells, each held against what was measured here: rows of results.csv in, `findings.Finding` out.

The claims are those of 001 (section 2.2, Table 2) and of its journal sequel, "Exploring self-supervised learning biases for
microscopy image representation" (sections 3.3 and 3.4, Table 4, Figure 8). Differences are paired over the seeds; one counts where
its 95 % interval (Student's t) does not hold 0, our choice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ssljax import augment
from ssljax.config import OF_IMAGES
from ssljax.evaluate.results import Row, swept_names
from ssljax.study.comparison import CONFIDENCE
from ssljax.study.curves import BASELINES, last_epochs
from ssljax.study.findings import NOT_MEASURED, NOT_SEEN, SEEN, Finding

CROP, ROTATION = "cell_table_crop", "cell_table_rotation"  # Table 2's single sets
FIRST, SECOND = "cell_crop", "cell_center"  # those of the weighted sum
PRETRAINED = "pretrained"
_MEASURE = ("kmeans", "label", "ami")


class _Encoder(NamedTuple):
    """One row of the table: where it was trained and on what, and its AMI by seed."""

    images: tuple[Any, ...]
    method: str
    backbone: str
    transforms: str
    variant: tuple[Any, ...]
    ami: dict[int, float]

    @property
    def where(self) -> tuple[Any, ...]:
        """What two encoders share that differ in transforms alone."""
        return (*self.images, self.method, self.backbone)


class _Difference(NamedTuple):
    text: str
    mean: float
    low: float
    high: float


def findings(results: Sequence[Row]) -> list[Finding]:
    """Every claim of cells with its verdict; none where no encoder was trained with the sets of the papers' cells."""
    encoders = _encoders(results)
    ours = {name for one in encoders for name in one.transforms.split(" & ")}
    if not ours & {CROP, ROTATION, FIRST, SECOND}:
        return []
    return [Finding(claim, source, *test(encoders)) for claim, source, test in CLAIMS]


def _encoders(results: Sequence[Row]) -> list[_Encoder]:
    """Those with one run a seed: of several, which to compare would be a choice on test images."""
    rows = [row for row in last_epochs(results) if (row["evaluation"], row["target"], row["metric"]) == _MEASURE]
    names = swept_names(rows)
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    for row in rows:
        if row["method"] in BASELINES or not math.isfinite(row["value"]):
            continue
        given = {name: row[name] for name in names if row.get(name) is not None}
        images = (row["dataset"], *(f"{name} {value}" for name, value in given.items() if name in OF_IMAGES))
        methods = row["method"].split(" & ")
        method = methods[0] if len(set(methods)) == 1 else row["method"]
        # Encoders from files differ by their programs.
        program = (row["run"].rpartition("/")[0],) if method == PRETRAINED else ()
        variant = (*program, *((name, value) for name, value in given.items() if name not in OF_IMAGES))
        by_seed = found.setdefault((images, method, row["backbone"], row["transforms"], variant), {})
        by_seed[row["seed"]] = row["value"] if row["seed"] not in by_seed else math.nan
    whole = {key: by_seed for key, by_seed in found.items() if np.isfinite(list(by_seed.values())).all()}
    return [
        _Encoder(images, method, backbone, transforms, variant, ami)
        for (images, method, backbone, transforms, variant), ami in whole.items()
    ]


def _difference(a: _Encoder, b: _Encoder) -> _Difference | None:
    """a - b over the seeds that both have; None of fewer than two."""
    seeds = sorted(a.ami.keys() & b.ami.keys())
    if len(seeds) < 2:
        return None
    each = np.array([a.ami[seed] - b.ami[seed] for seed in seeds])
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each)))
    where = ", ".join(str(part) for part in (*a.images[1:], a.method, a.backbone) if part)
    mean = float(each.mean())
    text = f"{where}: {mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}, {len(each)} seeds)"
    return _Difference(text, mean, mean - half, mean + half)


def _judged(found: Sequence[_Difference], good: Callable[[_Difference], bool], needs: str) -> tuple[str, str]:
    """Seen where most of the comparisons are good."""
    if not found:
        return f"Needs {needs}, two seeds or more.", NOT_MEASURED
    count = sum(map(good, found))
    told = "; ".join(one.text for one in found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
    return f"In {count} of {len(found)} comparisons. AMI, {told}.", SEEN if count > len(found) / 2 else NOT_SEEN


def _rotation(encoders: Sequence[_Encoder]) -> tuple[str, str]:
    """Seen when the set with rotations has the higher AMI in most of the comparisons."""
    pairs = ((a, b) for a, b in product(encoders, encoders) if a[:3] == b[:3] and a.variant == b.variant)
    found = [_difference(a, b) for a, b in pairs if (a.transforms, b.transforms) == (ROTATION, CROP)]
    return _judged([d for d in found if d], lambda d: d.low > 0, f"{ROTATION} and {CROP}")


def _weighted_sum(encoders: Sequence[_Encoder]) -> tuple[str, str]:
    """Seen when the weighted sum has the higher AMI than each single set, and than each encoder from a file, in most cases."""
    both = [one for one in encoders if one.transforms == f"{FIRST} & {SECOND}"]
    single = [one for one in encoders if one.transforms in (CROP, ROTATION, FIRST, SECOND)]
    files = [one for one in encoders if one.method == PRETRAINED]
    found = []
    for ours in both:
        found += [(other.transforms, _difference(ours, other)) for other in single if other.where == ours.where]
        found += [
            (f"{other.backbone} from a file", _difference(ours, other))
            for other in files
            if other.images == ours.images
        ]
    named = [d._replace(text=f"over {name}, {d.text}") for name, d in found if d]
    return _judged(named, lambda d: d.low > 0, f"{FIRST} & {SECOND} beside single sets or an encoder from a file")


def _growing(grown: int) -> Callable[[Sequence[_Encoder]], tuple[str, str]]:
    def test(encoders: Sequence[_Encoder]) -> tuple[str, str]:
        """The whole set against its shortest beginning, beside the same other set: it helps where the interval is above 0."""
        found = [_difference(whole, least) for whole, least in _whole_and_least(encoders, grown)]
        other, needs = (
            (FIRST, SECOND)[1 - grown],
            f"the weighted sum with a {('first', 'second')[grown]} set that grows",
        )
        helps = grown == 1
        return _judged([d for d in found if d], lambda d: (d.low > 0) == helps, f"{needs} beside {other}")

    return test


def _whole_and_least(encoders: Sequence[_Encoder], grown: int) -> Iterator[tuple[_Encoder, _Encoder]]:
    """Of the sums in which one of the two sets grows, the whole one and that with the fewest transforms."""
    fixed = (FIRST, SECOND)[1 - grown]
    sums: dict[tuple[Any, ...], list[tuple[int, _Encoder]]] = {}
    for one in encoders:
        sets = one.transforms.split(" & ")
        if len(sets) == 2 and sets[1 - grown] == fixed:
            sums.setdefault((*one.where, one.variant), []).append((len(augment.parse(sets[grown]).views[0]), one))
    for own in sums.values():
        whole = next((one for _, one in own if one.transforms == f"{FIRST} & {SECOND}"), None)
        _, least = min(own, key=lambda pair: pair[0])
        if whole is not None and least is not whole:
            yield whole, least


_SEQUEL = "Exploring SSL biases for microscopy"
CLAIMS: tuple[tuple[str, str, Callable[[Sequence[_Encoder]], tuple[str, str]]], ...] = (
    (
        "Random rotations separate treated from untreated cells better than slight random crops.",
        "No Free Lunch in SSL (2023), Table 2",
        _rotation,
    ),
    (
        "The weighted sum of two losses beats each set alone, and the encoder from ImageNet.",
        f"{_SEQUEL}, Tables 3 and 4",
        _weighted_sum,
    ),
    ("Growing the second set of the weighted sum helps.", f"{_SEQUEL}, Figure 8", _growing(1)),
    ("Growing the first set of the weighted sum does not.", f"{_SEQUEL}, Figure 8", _growing(0)),
)
