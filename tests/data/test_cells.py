"""Single cells with columns: every image with what is known of it, subsets counted by hand, no field of view on two sides."""

import csv
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_bbbc021 import COLUMNS, Site, drawn_cells, field, write
from sklearn.linear_model import RidgeClassifier

from ssljax import data, sizes
from ssljax.config import Config, resolve
from ssljax.data import Subset, cache, cells
from ssljax.data.bbbc021.crops import CSV_COLUMNS, extract
from ssljax.data.columns import read_csv
from ssljax.errors import UserError
from ssljax.planning import plan
from ssljax.protocol import notes

P1, P2, P3 = "Week1_22123", "Week1_22141", "Week9_39206"
# Compound, concentration and plate of wells, and how many cells each of their two fields has. On P3 taxol is a control.
WELLS = [
    *(("DMSO", "0.0", plate, 20) for plate in (P1, P2, P3)),
    *(("taxol", "0.100000", P1, 4), ("taxol", "0.1", P2, 4)),
    *(("taxol", "0.3", P1, 5), ("taxol", "0.3", P2, 5), ("taxol", "0.3", P3, 30)),
    *(("taxol", "1.0", P1, 5), ("taxol", "1.0", P2, 3)),
    *(("taxol", "3.0", P1, 3), ("taxol", "3.0", P2, 4)),
    ("nocodazole", "1.0", P1, 3),
]  # fmt: skip
MOA = [("DMSO", 0, "DMSO"), ("taxol", 0.3, "Microtubule stabilizers"), ("taxol", 1, "Microtubule stabilizers")]


def table():
    """The rows of BBBC021's image table for the cells of `WELLS`."""
    rows = []
    for well, (compound, concentration, plate, count) in enumerate(WELLS):
        for one in range(2):
            image = str(2 * well + one + 1)
            values = [
                "4",
                image,
                *(["f.tif", f"Week1/{plate}"] * 3),
                plate,
                f"B{well:02d}",
                "1",
                compound,
                concentration,
            ]
            rows += [dict(zip(COLUMNS, values, strict=True))] * count
    return rows


ROWS = table()
# A pixel tells which row its image is of.
IMAGES = np.broadcast_to(np.arange(len(ROWS), dtype=np.uint16)[:, None, None, None] * 7, (len(ROWS), 6, 5, 2)).copy()


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def root(tmp_path):
    np.savez_compressed(tmp_path / "crops.npz", images=IMAGES)
    write_csv(tmp_path / "crops.csv", ROWS)
    return tmp_path


def load(root, name="crops:crops.npz", **options):
    return data.load(name, data_dir=str(root), cache_dir=str(root / "cache"), **options)


def together(dataset):
    """Images, labels and columns of all splits."""
    parts = list(dataset.splits.values())
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    labels = [part.labels for part in parts if part.labels is not None]
    return np.concatenate([part.images for part in parts]), np.concatenate(labels) if labels else None, columns


def counts(dataset, *names):
    columns = together(dataset)[2]
    return Counter(zip(*(columns[name].tolist() for name in names)))


def test_every_image_keeps_what_is_known_of_it(root):
    with open(root / "BBBC021_v1_moa.csv", "w", newline="") as file:
        csv.writer(file).writerows([("compound", "concentration", "moa"), *MOA])
    found = load(root, validation_fraction=0.125)
    images, labels, columns = together(found)
    index = images[:, 0, 0, 0] // 7
    assert sorted(index) == list(range(len(ROWS))) and (images == IMAGES[index]).all()
    assert found.class_names == ("DMSO", "nocodazole", "taxol")
    moa = {(compound, float(at)): mechanism for compound, at, mechanism in MOA}
    for i, label, *values in zip(index, labels, *columns.values(), strict=True):
        row, of = ROWS[i], dict(zip(columns, values, strict=True))
        compound, at = row["Image_Metadata_Compound"], float(row["Image_Metadata_Concentration"])
        plate, well = row["Image_Metadata_Plate_DAPI"], row["Image_Metadata_Well_DAPI"]
        assert of == {
            "compound": compound, "concentration": f"{at:g}", "plate": plate, "well": well, "replicate": "1",
            "treated": "untreated" if compound == "DMSO" else "treated", "week": plate[:5],
            "site": f"{plate}/{well}/4/{row['ImageNumber']}", "moa": moa.get((compound, at), ""),
        }  # fmt: skip
        assert found.class_names[label] == compound


def test_no_field_of_view_is_on_two_sides(root):
    found = load(root, validation_fraction=0.125)
    sites = [set(split.columns["site"]) for split in found.splits.values()]
    assert sum(map(len, sites)) == len(set.union(*sites)) == 2 * len(WELLS)
    plates = load(root, group="plate", validation_fraction=0.4)
    assert sorted(len(set(split.columns["plate"])) for split in plates.splits.values()) == [1, 1, 1]
    plain = load(root, group="none", validation_fraction=0.125)
    assert set(plain.splits["train"].columns["site"]) & set(plain.splits["test"].columns["site"])
    # 70/10/20 of 252 images.
    assert [len(split.images) for split in plain.splits.values()] == [177, 25, 50]
    np.testing.assert_allclose(np.bincount(plain.splits["test"].labels), np.bincount(together(plain)[1]) / 5, atol=1)


def test_a_split_that_lacks_something_is_said(root, caplog):
    load(root, group="well")
    (line,) = [record.message for record in caplog.records]
    assert line.endswith("test has none of a class whose images stand in few groups: nocodazole")
    caplog.clear()
    load(root, group="plate")
    assert f"images of test are of one group, {P1}" in caplog.text or f"one group, {P2}" in caplog.text


@pytest.mark.parametrize(
    "subset, treated",
    [
        (Subset("taxol"), {"0.1": 14, "0.3": 14, "1": 14, "3": 14}),  # as many as of the scarcest
        (Subset("TAXOL", 2), {"1": 14, "3": 14}),
        (Subset("taxol", 3, most=42), {"0.3": 7, "1": 7, "3": 7}),
        (Subset("taxol", 4, most=43), {"0.1": 6, "0.3": 5, "1": 5, "3": 5}),
        (Subset("taxol", 0, "any", 48), {"0.1": 6, "0.3": 6, "1": 6, "3": 6}),
        (Subset("nocodazole", 1), {"1": 6}),
    ],
)
def test_subsets_counted_by_hand(root, subset, treated):
    found = load(root, subset=subset, group="none")
    compound, total = subset.compound.lower(), sum(treated.values())
    assert found.class_names == ("DMSO", compound)
    expected = {(compound, at): count for at, count in treated.items()} | {("DMSO", "0"): total}
    assert counts(found, "compound", "concentration") == expected
    images = together(found)[0]
    assert len(np.unique(images[:, 0, 0, 0])) == 2 * total  # none twice
    by_plate = counts(found, "compound", "plate")
    if subset.controls == "plates":
        for plate in (P1, P2):  # as many untreated as treated of each plate, none of the plate of taxol's controls
            assert by_plate["DMSO", plate] == by_plate[compound, plate]
        assert by_plate["DMSO", P3] == 0
    else:
        assert by_plate["DMSO", P3] > 0
    assert by_plate[compound, P3] == 0
    np.testing.assert_array_equal(images, together(load(root, subset=subset, group="none"))[0])


def test_a_plate_short_of_untreated_cells_is_made_up_for(root):
    few = [row for row in ROWS if row["Image_Metadata_Compound"] != "DMSO" or row["Image_Metadata_Plate_DAPI"] != P1]
    few += [row for row in ROWS if row["Image_Metadata_Compound"] == "DMSO" and row["Image_Metadata_Plate_DAPI"] == P1][
        :3
    ]
    write_csv(root / "crops.csv", few)
    np.savez(root / "crops.npz", images=IMAGES[: len(few)])
    by_plate = counts(load(root, subset=Subset("taxol", most=40)), "compound", "plate")
    assert by_plate["DMSO", P1] == 3 and by_plate["DMSO", P2] == 17


def test_what_a_subset_lacks_is_said(root, caplog):
    load(root, subset=Subset("taxol", 5, most=500))
    lines = "\n".join(dict.fromkeys(record.message for record in caplog.records))
    assert "taxol stands at 4 concentrations, asked for 5" in lines
    assert "112 cells, asked for 500: taxol has only 14 at 3 uM, there are 80 untreated" in lines


@pytest.mark.parametrize(
    "options, message",
    [
        ({"subset": Subset("taxl")}, "--compound: .*'taxl'.* did you mean 'taxol'"),
        ({"subset": Subset("DMSO")}, "--compound: .*'DMSO'"),
        ({"subset": Subset("taxol", most=6)}, "--max_images=6: expected one cell of each of 4 concentrations"),
        ({"label": "compond"}, "--label: .*'compond'.* did you mean 'compound'"),
        ({"group": "sit"}, "--group: .*'sit'.* did you mean 'site'"),
        ({"group": "treated"}, "too few to hold out 0.2 of them for test"),
    ],
)
def test_bad_options(root, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label": "site"}, "--label: no more is known of the images of digits"),
        ({"subset": Subset("taxol")}, "--compound: no more is known .* given taxol"),
        ({"group": "site"}, "--group: nothing is known of the images of digits"),
    ],
)
def test_sets_without_columns(options, message):
    with pytest.raises(UserError, match=message):
        data.load("digits", **options)
    np.testing.assert_array_equal(
        data.load("digits", group="none").splits["test"].images, data.load("digits").splits["test"].images
    )


def test_labels_from_any_column_and_their_order(root):
    assert load(root, label="concentration").class_names == ("0", "0.1", "0.3", "1", "3")
    found = load(root, label="treated")
    assert found.class_names == ("treated", "untreated")
    _, labels, columns = together(found)
    assert (np.array(found.class_names)[labels] == columns["treated"]).all()


def test_the_cache_is_warm_and_options_do_not_share_it(root, monkeypatch):
    options = [{}, {"label": "plate"}, {"group": "none"}, {"group": "well"}, {"subset": Subset("taxol")}]
    options += [{"subset": Subset("taxol", 2)}, {"subset": Subset("taxol", controls="any")}]
    cold = [load(root, **one) for one in options]
    assert len({one.fingerprint for one in cold}) == len(options)
    monkeypatch.setattr(cache, "_build", None)  # any attempt to build would fail
    for one, given in zip(cold, options):
        warm = load(root, **given)
        assert warm.fingerprint == one.fingerprint and warm.class_names == one.class_names
        for before, after in zip(together(one)[2].values(), together(warm)[2].values(), strict=True):
            np.testing.assert_array_equal(before, after)
        assert isinstance(warm.splits["train"].images, np.memmap)


def test_a_changed_table_or_damaged_columns_are_read_again(root):
    first = load(root)
    write_csv(root / "crops.csv", [{**row, "Replicate": "2"} for row in ROWS])
    second = load(root)
    assert second.fingerprint != first.fingerprint and set(second.splits["test"].columns["replicate"]) == {"2"}
    (path,) = (root / "cache").glob("*/train.columns.npz")
    for damage in (b"", path.read_bytes()[:-30], path.read_bytes().replace(b"PK", b"KP")):
        path.write_bytes(damage)
        assert load(root).fingerprint == second.fingerprint


def test_a_table_with_columns_of_its_own(root):
    rows = [{"file": f"{i}.png", "kind": "ab"[i % 2], "donor": str(i // 43)} for i in range(len(ROWS))]
    write_csv(root / "crops.csv", rows)
    found = load(root)
    assert found.class_names is None and found.splits["train"].labels is None
    assert set(found.splits["train"].columns) == {"file", "kind", "donor"}
    found = load(root, label="kind", group="donor", image_size=4)
    assert found.class_names == ("a", "b") and found.splits["test"].images.shape[1:] == (4, 4, 2)
    assert len(set(found.splits["test"].columns["donor"])) == 1
    with pytest.raises(UserError, match="--compound: crops:crops.npz has no column 'compound', only file, kind, donor"):
        load(root, subset=Subset("taxol"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: os.remove(root / "crops.csv"), "crops.csv: No such file or directory; expected a table"),
        (lambda root: os.remove(root / "crops.npz"), "crops.npz: not a readable .npz archive .No such file"),
        (lambda root: write_csv(root / "crops.csv", ROWS[:-1]), "crops.csv: 251 rows for the 252 images"),
        (lambda root: (root / "crops.csv").write_text("a,b\n1\n"), "crops.csv: line 2 has 1 columns; expected 2"),
        (lambda root: (root / "crops.csv").write_text("a,b\n"), "crops.csv: holds no row"),
        (
            lambda root: write_csv(root / "crops.csv", [{k: v for k, v in row.items() if k != "Replicate"} for row in ROWS]),
            "crops.csv: has no column 'Replicate'",
        ),
        (
            lambda root: write_csv(root / "crops.csv", [{**row, "Image_Metadata_Concentration": "high"} for row in ROWS]),
            "crops.csv: a concentration is 'high'; expected a number",
        ),
        (lambda root: np.savez(root / "crops.npz", pixels=IMAGES), "expected the key 'images', found pixels.npy"),
        (lambda root: np.savez(root / "crops.npz", images=IMAGES / 7), "'images' is float64 .* expected uint8 or uint16"),
        (lambda root: np.savez(root / "crops.npz", images=IMAGES[..., 0]), r"expected uint8 or uint16 \[n, h, w, c\]"),
        (lambda root: np.savez(root / "crops.npz", images=np.asfortranarray(IMAGES)), "in Fortran's order"),
        (lambda root: (root / "crops.npz").write_bytes((root / "crops.npz").read_bytes()[:-40]), "not a readable .npz"),
    ],
)  # fmt: skip
def test_bad_files(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read_piece_by_piece(tmp_path, save):
    images = np.random.default_rng(0).integers(0, 256, (4000, 24, 24, 3)).astype(">u2")
    save(tmp_path / "large.npz", images=images)
    rows = np.flatnonzero(np.arange(4000) % 3 == 1)
    tracemalloc.start()
    start = 0
    count, read = cells._archive(str(tmp_path / "large.npz"))
    for block in read(rows):
        assert block.dtype.isnative
        np.testing.assert_array_equal(block, images[rows[start : start + len(block)]])
        start += len(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (start, count) == (len(rows), 4000) and peak < images.nbytes / 2


@pytest.fixture
def folder(tmp_path):
    """A folder of crops as experiments/bbbc021.py writes it."""
    out = tmp_path / "cells"
    (out / "crops").mkdir(parents=True)
    rows, held = [], dict[str, list[int]]()
    for i, row in enumerate(ROWS):
        name = f"crops/{row['Image_Metadata_Plate_DAPI']}_{row['Image_Metadata_Well_DAPI']}.npy"
        number = len(held.setdefault(name, []))
        held[name].append(i)
        rows.append({"file": name, "row": number, **row, "x": 1, "y": 2, "area": 3, "moa": "x" * (number % 2)})
    assert tuple(rows[0]) == CSV_COLUMNS
    for name, index in held.items():
        np.save(out / name, IMAGES[index])
    write_csv(out / "crops.csv", rows)
    (out / "manifest.json").write_text(json.dumps({"finished": True}))
    return tmp_path


def test_a_folder_of_shards_is_the_same_set(folder, root):
    for options in ({}, {"subset": Subset("taxol", 2, most=20)}, {"label": "plate", "group": "well"}):
        one, other = load(folder, "bbbc021:cells", **options), load(root, **options)
        assert one.class_names == other.class_names
        for split in other.splits:
            np.testing.assert_array_equal(one.splits[split].images, other.splits[split].images)
            np.testing.assert_array_equal(one.splits[split].labels, other.splits[split].labels)
    assert set(one.splits["train"].columns) == set(other.splits["train"].columns)
    assert set(one.splits["train"].columns["moa"]) == {"", "x"}  # its own, here


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda out: (out / "manifest.json").write_text('{"finished": false}'), "cells: is not finished; the same"),
        (lambda out: (out / "manifest.json").write_text("[]"), "manifest.json: cannot be read"),
        (lambda out: (out / "crops.csv").unlink(), "crops.csv: No such file"),
        (lambda out: (out / f"crops/{P1}_B00.npy").unlink(), f"{P1}_B00.npy: cannot be read"),
        (
            lambda out: np.save(out / f"crops/{P1}_B00.npy", IMAGES[:2]),
            f"{P1}_B00.npy: has 2 crops, crops.csv wants row 2",
        ),
    ],
)
def test_bad_folders(folder, change, message):
    change(folder / "cells")
    with pytest.raises(UserError, match=message) as caught:
        load(folder, "bbbc021:cells")
    assert "\n" not in str(caught.value)


def test_from_raw_fields_to_splits(tmp_path):
    corners = [(10, 20), (20, 150), (130, 30), (140, 160)]
    sites = [
        Site(P1, well, s, *of) for well, of in (("B02", ("DMSO", 0.0)), ("C03", ("taxol", 0.3))) for s in range(1, 6)
    ]
    fields = [field(drawn_cells(4, seed=i), corners, i, (240, 260)) for i in range(len(sites))]
    write(tmp_path / "raw", sites, fields, [("taxol", 0.3, "Microtubule stabilizers")])
    extract(tmp_path / "raw", tmp_path / "out", size=48, workers=1, progress=False)
    found = load(tmp_path, "bbbc021:out")
    images, _, columns = together(found)
    with (tmp_path / "out" / "crops.csv").open() as file:
        rows = list(csv.DictReader(file))
    shards = [np.load(tmp_path / "out" / row["file"])[int(row["row"])] for row in rows]
    assert sorted(map(bytes, images)) == sorted(map(bytes, shards)) and len(images) == 40
    assert Counter(zip(columns["compound"], columns["moa"])) == {
        ("DMSO", ""): 20,
        ("taxol", "Microtubule stabilizers"): 20,
    }
    assert [len(set(split.columns["site"])) for split in found.splits.values()] == [8, 2]


def test_settings_reach_the_images(root, tiny):
    common = dict(dataset="crops:crops.npz", data_dir=str(root), cache_dir=str(root / "cache"), validation_fraction=0.2)
    cells_of = dict(common, compound="Taxol", concentrations=2, max_images=30)
    (program,) = plan([tiny(**cells_of, label="concentration", evaluate_on="validation")], trained=False)
    whole = load(root, subset=Subset("taxol", 2, most=30), label="concentration", validation_fraction=0.2)
    assert program.dataset.class_names == ("0", "1", "3")
    assert sum(len(split.images) for split in whole.splits.values()) == 30
    np.testing.assert_array_equal(
        program.dataset.splits["test"].columns["site"], whole.splits["validation"].columns["site"]
    )
    (part,) = plan([tiny(**common, max_images=40)], trained=False)
    train = part.dataset.splits["train"]
    assert len(train.images) == 40 and {name: len(column) for name, column in train.columns.items()}["site"] == 40
    index = train.images[:, 0, 0, 0] // 7
    assert [ROWS[i]["Image_Metadata_Well_DAPI"] for i in index] == train.columns["well"].tolist()
    with pytest.raises(UserError, match="--controls: any has no effect without --compound"):
        plan([tiny(**common, controls="any")], trained=False)
    with pytest.raises(UserError, match="--controls: .*did you mean 'plates'"):
        Config(controls="plate")


def test_a_made_miniature_stands_in(tmp_path):
    cache_dir = str(tmp_path)
    found = data.load("miniature:bbbc021", cache_dir=cache_dir)
    index = counts(found, "compound", "concentration")
    assert len(index) == 6 * 8 + 1 and index["DMSO", "0"] == 480 and sum(index.values()) == 1296
    # Three plates of a well with two fields of four cells; taxol at .3 uM on all six plates once more.
    assert index["nocodazole", "3"] == 24 and index["docetaxel", "0.03"] == 8 and index["taxol", "0.3"] == 24 + 6 * 8
    assert set(counts(found, "compound", "moa")) & {
        ("taxol", ""),
        ("taxol", "Microtubule stabilizers"),
        ("DMSO", "DMSO"),
    }
    subset = Subset("taxol", 2)
    chosen = data.load("miniature:bbbc021", cache_dir=cache_dir, subset=subset, group="none")
    assert counts(chosen, "concentration") == {("0",): 48, ("1",): 24, ("3",): 24}

    def seen(split):
        return split.images[:, ::2, ::2].reshape(len(split.images), -1) / 65535

    train, test = chosen.splits["train"], chosen.splits["test"]
    assert RidgeClassifier(0.1).fit(seen(train), train.labels).score(seen(test), test.labels) > 0.85
    assert sizes.at_hand("bbbc021", "") == "miniature:bbbc021"
    (made,) = tmp_path.glob("miniatures-*/bbbc021")
    assert sizes.at_hand("bbbc021", str(made)) == "bbbc021"


def test_the_real_crops():
    root = Path(os.environ.get("SSLJAX_TEST_DATA", "")) / "bbbc021"
    if not (root / "crops.npz").is_file():
        pytest.skip("no real crops: SSLJAX_TEST_DATA names no folder with bbbc021/crops.npz")
    with (root / "crops.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = cells.columns_of(read_csv(str(root / "crops.csv")), "", str(root / "BBBC021_v1_moa.csv"))
    assert Counter(columns["compound"].tolist()) == {"DMSO": 1200, "cyclohexamide": 1200}
    assert columns["well"].tolist() == [row["Image_Metadata_Well_DAPI"] for row in rows]
    assert set(zip(columns["compound"].tolist(), columns["moa"].tolist())) == {
        ("DMSO", "DMSO"), ("cyclohexamide", "Protein synthesis")
    }  # fmt: skip
    count, read = cells._archive(str(root / "crops.npz"))
    expected = np.load(root / "crops.npz")["images"]
    np.testing.assert_array_equal(np.concatenate(list(read(np.arange(count)))), expected)


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, ["No site has cells in two splits"]),
        ({"group": "none"}, ["drawn cell by cell", "stand on both sides"]),
        ({"compound": "taxol", "group": "well"}, ["No well", "treated with taxol", "as many of each plate as there"]),
        ({"compound": "taxol", "controls": "any"}, ["drawn from any plate"]),
    ],
)
def test_the_report_says_how_cells_were_divided(tiny, options, words):
    (note,) = [line for line in notes(resolve(tiny(dataset="crops:x.npz", **options))) if line.startswith("Cells: ")]
    assert all(each in note for each in words)
    assert not any(line.startswith("Cells: ") for line in notes(resolve(tiny())))
