"""The command line on finished folders: joined reports, tables of other programs, settings that go over a folder's own."""

import csv
import re

import numpy as np
import pytest

import ssljax
from ssljax import cli

COLUMNS = (
    "run", "seed", "color_jitter.hue", "method", "backbone", "dataset", "transforms", "epoch", "evaluation", "target", "class",
    "metric", "value",
)  # fmt: skip
CLASSES = ("cat", "dog", "ship")


def table(folder, method, slopes=(0.6, -0.6, 0.0), seeds=(1, 2, 3)):
    """A per_class.csv whose classes rise and fall with the hue by planted slopes."""
    rng = np.random.default_rng(len(method))
    folder.mkdir()
    with (folder / "per_class.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for seed in seeds:
            for hue in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
                for name, slope in zip(CLASSES, slopes):
                    value = 0.5 + slope * (hue - 0.25) + rng.normal(0, 0.005)
                    place = (f"x/{hue}-{seed}", seed, hue, method, "resnet18", "mine", "crops", 9, "linear", "label")
                    writer.writerow([*place, name, "accuracy", value])
    return folder


def report(*argv):
    return cli.main(["run.py", "--stages=report", *argv])


def test_finished_folders_are_joined_beside_the_first(tmp_path, capsys):
    folders = [table(tmp_path / method, method) for method in ("simclr", "byol")]
    before = sorted(path.name for folder in folders for path in folder.iterdir())
    (tmp_path / "kinds.csv").write_text("class,superclass\ncat,pet\ndog,pet\nship,vehicle\n")
    names = ",".join(map(str, folders))
    assert report(f"--workdir={names}", f"--superclasses={tmp_path / 'kinds.csv'}", "--focus=pet") == 0
    joined = tmp_path / "simclr+byol"
    assert capsys.readouterr().out == f"report: {joined / 'report.html'}\n"
    assert before == sorted(
        path.name for folder in folders for path in folder.iterdir()
    )  # the folders stay as they were
    page = re.sub(r"<[^>]*>", " ", (joined / "report.html").read_text())
    assert "Raising hue intensity helps cat; hurts dog." in page and "vehicle" in page
    with (joined / "study_classes.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["points"] == "runs"]
    found = {(row["method"], row["class"]): float(row["slope"]) for row in rows}
    assert set(found) == {(method, name) for method in ("simclr", "byol") for name in CLASSES}
    for (_, name), slope in found.items():
        assert slope == pytest.approx(dict(zip(CLASSES, (0.6, -0.6, 0.0)))[name], abs=0.02)


def test_the_table_of_another_program_alone(tmp_path, capsys):
    folder = table(tmp_path / "theirs", "dinov9")
    assert report(f"--workdir={folder}") == 0
    page = folder / "study" / "report.html"
    assert capsys.readouterr().out == f"report: {page}\n" and "dinov9" in page.read_text()


def test_folders_of_one_name_and_the_one_that_we_are_in(tmp_path, capsys, monkeypatch):
    for place, method in (("x", "simclr"), ("y", "byol")):
        (tmp_path / place).mkdir()
        table(tmp_path / place / "run", method)
    assert report(f"--workdir={tmp_path}/x/run,{tmp_path}/y/run") == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'x' / 'x-run+y-run' / 'report.html'}\n"
    monkeypatch.chdir(tmp_path / "x" / "run")
    assert report("--workdir=.,../../y/run") == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'x' / 'x-run+y-run' / 'report.html'}\n"
    assert report("--workdir=.") == 0
    assert "<title>Bias study of run</title>" in (tmp_path / "x" / "run" / "study" / "report.html").read_text()
    assert sorted(path.name for path in (tmp_path / "x" / "run").iterdir()) == ["per_class.csv", "study"]


def test_the_evaluation_that_a_joined_study_is_about(tmp_path, capsys):
    folder = table(tmp_path / "theirs", "simclr")
    lines = (folder / "per_class.csv").read_text().splitlines()
    # Another evaluation of the same runs, by which the classes go the other way.
    turned = [line.split(",") for line in lines[1:]]
    turned = [[*row[:8], "knn", *row[9:-1], str(1 - float(row[-1]))] for row in turned]
    (folder / "per_class.csv").write_text("\n".join([*lines, *map(",".join, turned)]) + "\n")
    said = {"": "helps cat; hurts dog", "--study_of=knn": "helps dog; hurts cat"}
    for flag, sentence in said.items():
        assert report(f"--workdir={folder}", *filter(None, [flag])) == 0
        assert sentence in (folder / "study" / "report.html").read_text()
    assert report(f"--workdir={folder}", "--study_of=finetune") == 2
    assert "--study_of: no sweep has an evaluation 'finetune'; there is linear, knn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir={a},{none}"], "per_class.csv"),
        (["--workdir={a},{a}"], "expected each workdir once"),
        (["--workdir={a},{b}", "--stages=evaluate,report"], "are only joined: give --stages=report"),
        (["--workdir={a},{b}", "--epochs=3"], "--epochs: has no effect on a report of finished folders"),
        (["--workdir={a},{b}", "--focus=horse"], "--focus: unknown class 'horse'"),
        (["--workdir={a},{b}", "--superclasses={none}"], "cannot be read as a CSV table"),
        (["--workdir={a},{again}"], "expected each run once: workdirs to join differ in method, backbone"),
    ],
)
def test_what_cannot_be_joined_is_one_line(tmp_path, capsys, argv, message):
    places = {"a": table(tmp_path / "a", "simclr"), "b": table(tmp_path / "b", "byol"), "none": tmp_path / "none"}
    places["again"] = table(tmp_path / "again", "simclr", seeds=(3, 4))
    assert report(*(arg.format(**places) for arg in argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "again", "b"]


def test_settings_of_the_report_go_over_a_folders_own(tiny, one_layer, tmp_path, capsys):
    config = tiny(method="simclr", backbone=one_layer, epochs=1, warmup_epochs=0, evaluations=("knn",), seeds=(1, 2))
    ssljax.run(config, tmp_path, stages=("pretrain", "evaluate"), progress=False)
    assert report(f"--workdir={tmp_path}", "--focus=3,8", "--stages=evaluate,report", "--knn_k=5") == 0
    assert (
        "--focus=3,8" in (tmp_path / "flagfile.cfg").read_text() and "k = 5" in (tmp_path / "report.html").read_text()
    )
    assert report(f"--workdir={tmp_path}", "--focus=ten") == 2
    assert "--focus: unknown class 'ten'" in capsys.readouterr().err
