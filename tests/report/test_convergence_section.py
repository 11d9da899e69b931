"""The page's section on the solvers' convergence: planted curves give the sentences, the table and the picture that they should."""

import csv

import matplotlib.image
import numpy as np
import pytest

from ssljax.evaluate.results import write_results
from ssljax.report import convergence
from ssljax.report.workdir import read_workdir

# Errors fall by these factors a step: MIRA 10 and Sinkhorn-Knopp 2 on one program, the reverse on the other.
RATES = {"mira": (10.0, 2.0, 100.0), "swav": (2.0, 1000.0, 4.0)}
FLATNESS = {"mira": (0.4, 0.8, 0.4), "swav": (0.9, 0.99, 0.9)}


@pytest.fixture
def workdir(tmp_path):
    rows = []
    (tmp_path / "artifacts").mkdir()
    for program, rates in RATES.items():
        runs = [f"{program}/seed={seed}" for seed in (5, 6)]
        steps = np.arange(1, 101)
        curve = np.stack([rate ** -steps.astype(float) for rate in rates])
        np.savez(
            tmp_path / "artifacts" / f"{program}.npz", runs=runs, features=np.zeros((2, 4, 3), np.float32), index=np.arange(4),
            convergence=np.stack([0.5 * curve, 1.5 * curve]),
        )  # fmt: skip
        for run in runs:
            shared = dict(run=run, seed=5, method=program, backbone="vgg11", dataset="digits", transforms="t", epoch=1)
            for solver, flat in zip(("mira", "sinkhorn", "mira_accelerated"), FLATNESS[program]):
                rows.append(
                    {**shared, "evaluation": f"convergence@{solver}", "target": "", "metric": "flatness", "value": flat}
                )
    write_results(tmp_path / "results.csv", rows)
    return read_workdir(tmp_path)


def test_the_section_says_which_solver_is_faster_and_where(workdir):
    page = convergence.section(workdir, {"mira": "MIRA's", "swav": "SwAV's"})
    for text in (
        "MIRA&#x27;s iteration converges faster on MIRA&#x27;s, Sinkhorn-Knopp converges faster on SwAV&#x27;s (",
        "(steps to an error of 1e-6)",
        "MIRA 3, 6 and 9 steps to 1e-3, 1e-6 and 1e-9; Sinkhorn-Knopp 10, 20 and 30 steps",
        "MIRA, accelerated 2, 3 and 5 steps",
        "After 30 steps MIRA&#x27;s error is 1.0e-30, after 3 Sinkhorn-Knopp&#x27;s 1.2e-01.",
        "has 40 % of the highest entropy, Sinkhorn-Knopp&#x27;s 80 %: its scores are not flat.",
        "has 90 % of the highest entropy, Sinkhorn-Knopp&#x27;s 99 %: its scores are flat, so that it needs few steps.",
        "30 steps are enough",
    ):
        assert text in page, text


def test_curves_that_do_not_come_down_are_said_so(workdir):
    shown = convergence.Shown("P", np.full((1, 3, 100), 0.5), dict.fromkeys(convergence.SOLVERS, np.nan))
    (_, measured), (_, text), _ = convergence.sentences([shown])
    assert measured.startswith("The two are equally fast on P")
    assert "MIRA more than 100, more than 100 and more than 100 steps to 1e-3, 1e-6 and 1e-9" in text
    assert "entropy" not in text


def test_every_value_is_in_the_table_and_every_solver_in_the_picture(workdir):
    convergence.section(workdir, {})
    with (workdir.path / "convergence.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 3 * 100
    found = {(line["run"], line["solver"], int(line["step"])): float(line["sse"]) for line in lines}
    assert found["mira/seed=5", "mira", 3] == pytest.approx(0.5e-3)
    assert found["swav/seed=6", "sinkhorn", 2] == pytest.approx(1.5e-6)
    picture = matplotlib.image.imread(workdir.path / "figures" / "convergence.png")[..., :3]
    halves = picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]  # a panel a program
    heights = []
    for half in halves:
        for color in ((0, 0x77, 0xBB), (0xEE, 0x77, 0x33), (0x33, 0xBB, 0xEE)):
            drawn = (np.abs(half[: int(0.85 * len(half))] - np.array(color) / 255).max(axis=2) < 0.02).nonzero()
            assert len(drawn[0]) > 30
            heights.append(drawn[1].max() - drawn[1].min())
    assert heights[0] < heights[1] and heights[3] > heights[4]  # the slower curve is the wider one


def test_a_workdir_without_it_has_no_section(workdir):
    bare = workdir._replace(artifacts=[one._replace(convergence=None) for one in workdir.artifacts])
    assert convergence.section(bare, {}) == ""
    assert not (workdir.path / "convergence.csv").exists()
