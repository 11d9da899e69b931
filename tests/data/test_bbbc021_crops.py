"""Raw fields to crops: every pixel and column right, bad files skipped and listed, an interrupted job resumed."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from made_bbbc021 import Site, drawn_cells, field, matched, write

from ssljax.data.bbbc021 import crops as crops_lib
from ssljax.data.bbbc021.crops import CSV_COLUMNS, extract
from ssljax.data.bbbc021.quality import write_page
from ssljax.errors import UserError

SHAPE, SIZE = (240, 260), 64
CORNERS = [(10, 20), (20, 150), (130, 30), (140, 160), (-30, 90)]  # the last is cut by the border
SITES = [
    Site("Week4_27481", "B02", 1, "DMSO", 0.0),
    Site("Week4_27481", "B02", 2, "DMSO", 0.0),
    Site("Week4_27481", "C05", 1, "nocodazole", 1.0),
    Site("Week7_34341", "B02", 1, "DMSO", 0.0),
    Site("Week7_34341", "G10", 4, "taxol", 0.3),
]
OPTIONS = dict(size=SIZE, workers=1, progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The raw folder, its fields and the rows of its table."""
    raw = tmp_path_factory.mktemp("raw")
    fields = [field(drawn_cells(5, seed=i), CORNERS, i, SHAPE) for i in range(len(SITES))]
    return raw, fields, write(raw, SITES, fields, [("DMSO", 0, "DMSO"), ("taxol", 0.3, "Microtubule stabilizers")])


@pytest.fixture
def raw(made, tmp_path):
    return Path(shutil.copytree(made[0], tmp_path / "raw"))


def path_of(raw, rows, index, channel):
    row = rows[index]
    return raw / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"]


def read(out):
    with (out / "crops.csv").open() as file:
        rows = list(csv.DictReader(file))
    shards = {name: np.load(out / name) for name in {row["file"] for row in rows}}
    return rows, [shards[row["file"]][int(row["row"])] for row in rows]


def test_crops_and_columns(made, tmp_path):
    raw, fields, table = made
    out = tmp_path / "out"
    manifest = extract(raw, out, normalize=False, **OPTIONS)
    rows, crops = read(out)
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["crops"] == len(rows) == 20
    assert manifest["counts"]["dropped"]["cut by the border"] == 5 and sum(manifest["counts"]["dropped"].values()) == 5
    assert list(rows[0]) == list(CSV_COLUMNS)
    for made_field, line, site in zip(fields, table, SITES):
        mine = [i for i, row in enumerate(rows) if row["ImageNumber"] == line["ImageNumber"]]
        found = np.array([(float(rows[i]["y"]), float(rows[i]["x"])) for i in mine])
        assert len(matched(found, made_field.centres[:4], within=2)) == 4
        for i, (y, x) in zip(mine, found):
            assert {name: rows[i][name] for name in line} == line
            assert rows[i]["moa"] == {"DMSO": "DMSO", "taxol": "Microtubule stabilizers"}.get(site.compound, "")
            top, left = round(y) - SIZE // 2, round(x) - SIZE // 2
            expected = made_field.images[:, top : top + SIZE, left : left + SIZE].transpose(1, 2, 0)
            assert crops[i].dtype == np.uint16
            np.testing.assert_array_equal(crops[i], expected)


def test_intensities_are_those_of_the_plate(made, tmp_path):
    raw, fields, _ = made
    raw_out, out = tmp_path / "raw_out", tmp_path / "out"
    extract(raw, raw_out, normalize=False, **OPTIONS)
    manifest = extract(raw, out, **OPTIONS)
    _, before = read(raw_out)
    rows, after = read(out)
    for plate, own in (("Week4_27481", slice(0, 3)), ("Week7_34341", slice(3, 5))):
        pixels = np.stack([one.images for one in fields[own]]).astype(float)
        for c, channel in enumerate(("DAPI", "Tubulin", "Actin")):
            low, high = np.percentile(pixels[:, c], (0.1, 99.9), method="inverted_cdf")
            assert manifest["plates"][plate]["percentiles"][channel] == [low, high]
            for i, row in enumerate(rows):
                if row["Image_Metadata_Plate_DAPI"] == plate:
                    expected = np.clip((before[i][..., c].astype(float) - low) / (high - low), 0, 1) * 65535
                    np.testing.assert_allclose(after[i][..., c].astype(float), expected, atol=1)


def test_bad_fields_are_skipped_and_listed(made, raw, tmp_path):
    _, fields, rows = made
    path_of(raw, rows, 0, "Actin").unlink()
    whole = path_of(raw, rows, 1, "Tubulin").read_bytes()
    path_of(raw, rows, 1, "Tubulin").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(path_of(raw, rows, 2, "DAPI"), fields[2].images[0].astype(np.uint8))
    tifffile.imwrite(path_of(raw, rows, 3, "DAPI"), fields[3].images[0][:-10])
    (raw / "Week7" / "Week7_34341" / "stray.tif").write_bytes(b"no image")
    manifest = extract(raw, tmp_path / "out", **OPTIONS)
    reasons = {one["image"]: one["reason"] for one in manifest["skipped"]}
    assert "no file for Actin" in reasons[1]
    assert "truncated" in reasons[2]
    assert "uint8; expected uint16" in reasons[3]
    assert "differ in size" in reasons[4]
    assert manifest["files_without_row"] == ["Week7/Week7_34341/stray.tif"]
    assert manifest["counts"]["fields_skipped"] == 4 and manifest["counts"]["crops"] == 4
    assert "4 skipped" in write_page(tmp_path / "out", raw).read_text()

    # Once the files are there, the same call mends the wells that lacked them.
    for index in range(4):
        for c, channel in enumerate(("DAPI", "Tubulin", "Actin")):
            tifffile.imwrite(path_of(raw, rows, index, channel), fields[index].images[c])
    manifest = extract(raw, tmp_path / "out", **OPTIONS)
    assert manifest["skipped"] == [] and manifest["counts"]["crops"] == 20


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_cut_anywhere_is_skipped(made, raw, tmp_path, cut, compression):
    _, fields, rows = made
    path = path_of(raw, rows, 4, "DAPI")
    tifffile.imwrite(path, fields[4].images[0], compression=compression)
    path.write_bytes(path.read_bytes()[:cut])
    manifest = extract(raw, tmp_path / "out", compounds=["taxol"], controls=False, **OPTIONS)
    assert manifest["counts"]["fields_skipped"] == 1 and manifest["counts"]["crops"] == 0


def test_an_interrupted_job_goes_on(made, tmp_path, monkeypatch):
    raw, out = made[0], tmp_path / "out"
    whole = extract(raw, tmp_path / "whole", **OPTIONS)
    cut_well, done = crops_lib.cut_well, []

    def interrupted(task):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.name)
        return cut_well(task)

    monkeypatch.setattr(crops_lib, "cut_well", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(raw, out, **OPTIONS)
    assert not json.loads((out / "manifest.json").read_text())["finished"] and len(done) == 2
    first = {name: (out / "crops" / f"{name}.npy").stat().st_mtime_ns for name in done}
    with pytest.raises(UserError, match="no finished crops"):
        write_page(out, raw)
    with pytest.raises(UserError, match="was made with size 64, given 60"):
        extract(raw, out, **{**OPTIONS, "size": 60})

    monkeypatch.setattr(crops_lib, "cut_well", cut_well)
    manifest = extract(raw, out, **OPTIONS)
    assert manifest["counts"] == whole["counts"] and manifest["plates"] == whole["plates"]
    for name, time in first.items():
        assert (out / "crops" / f"{name}.npy").stat().st_mtime_ns == time
    assert (out / "crops.csv").read_text() == (tmp_path / "whole" / "crops.csv").read_text()
    for one, other in zip(read(out)[1], read(tmp_path / "whole")[1]):
        np.testing.assert_array_equal(one, other)


def test_an_unexpected_error_ends_no_job(made, tmp_path, monkeypatch):
    find, calls = crops_lib.find_nuclei, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("planted")
        return find(*args)

    monkeypatch.setattr(crops_lib, "find_nuclei", failing)
    manifest = extract(made[0], tmp_path / "out", **OPTIONS)
    assert [one["reason"] for one in manifest["skipped"]] == ["unexpected ZeroDivisionError: planted"]
    assert manifest["counts"]["crops"] == 16


def test_at_most_so_many_a_field(made, tmp_path):
    manifest = extract(made[0], tmp_path / "out", per_field=3, compounds=["taxol"], **OPTIONS)
    assert manifest["counts"]["fields"] == 2 and manifest["counts"]["crops"] == 6


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(size=2), "--size: 2 given"),
        (dict(workers=0), "--workers: 0 given"),
        (dict(compounds=["taxl"]), "did you mean 'taxol'"),
        (dict(concentrations=[9.0]), "there are 0.3, 1"),
    ],
)
def test_bad_options_are_refused(made, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        extract(made[0], tmp_path / "out", **{**OPTIONS, **options})
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(made, raw, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds something else"):
        extract(raw, tmp_path / "other", **OPTIONS)
    shutil.rmtree(raw / "Week4")
    shutil.rmtree(raw / "Week7")
    with pytest.raises(UserError, match="none of the 15 files wanted is there"):
        extract(raw, tmp_path / "out", **OPTIONS)


@pytest.mark.slow
def test_the_command_line_with_two_processes(made, tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "bbbc021.py"

    def command(*flags):
        return subprocess.run(
            [sys.executable, script, f"--raw={made[0]}", *flags], capture_output=True, text=True, check=False
        )

    out = tmp_path / "out"
    done = command(f"--out={out}", f"--size={SIZE}", "--workers=2", "--noprogress")
    assert done.returncode == 0, done.stderr
    assert "20 crops of 5 fields" in done.stdout
    single = extract(made[0], tmp_path / "single", **OPTIONS)
    assert json.loads((out / "manifest.json").read_text())["counts"] == single["counts"]
    assert (out / "crops.csv").read_text() == (tmp_path / "single" / "crops.csv").read_text()
    page = (out / "quality.html").read_text()
    assert page.count("data:image/png") == 4 and "http" not in page.replace("http://www.w3.org", "")
    wrong = command(f"--out={out}", "--size=60")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "was made with size 64" in wrong.stderr
