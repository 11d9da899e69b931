"""Tables of images (`table:FILE.csv`): the same arrays to the bit as from elsewhere, columns, splits, and every refusal."""

import csv
import logging
import os
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.datasets import load_digits

import ssljax
from ssljax import data
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.flags import read_flagfile_text, to_flagfile
from ssljax.planning import plan


def write_csv(path, rows, **options):
    with open(path, "w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, rows[0], **options)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def load(tmp_path):
    """A function that loads a table of `tmp_path`."""

    def load(name="table:t.csv", **options):
        return data.load(name, cache_dir=str(tmp_path / "cache"), **{"data_dir": str(tmp_path), **options})

    return load


def together(dataset):
    """Images, labels and columns of all splits."""
    parts = list(dataset.splits.values())
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
    return np.concatenate([part.images for part in parts]), labels, columns


def images(folder, count=10, shape=(4, 6, 3)):
    """Writes PNG files of one value each, their number; returns their rows."""
    os.makedirs(folder, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full(shape, i, np.uint8)).save(folder / f"{i}.png")
    return [{"path": f"{folder.name}/{i}.png", "label": "ab"[i % 2], "plate": f"p{i % 3}"} for i in range(count)]


@pytest.mark.parametrize("form", ["folder", "table"])
def test_digits_from_files_are_the_digits(tmp_path, load, form):
    """Every tenth of scikit-learn's digits as a PNG file: what is read back is the array, image by image."""
    digits = load_digits()
    pixels, labels = (digits.images[::10] * 15).astype(np.uint8), digits.target[::10]
    rows = []
    for i, (image, label) in enumerate(zip(pixels, labels)):
        folder = tmp_path / "set" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:04}.png")
        rows.append({"path": f"set/class{label}/{i:04}.png", "label": f"class{label}", "number": i})
    order = np.argsort(labels, kind="stable") if form == "folder" else np.arange(len(labels))  # by class, then number
    write_csv(tmp_path / "t.csv", rows)
    found = load(f"folder:{tmp_path}/set") if form == "folder" else load()
    expected = data.splits.plan({"train": len(labels)}, {"train": labels[order]}, 0.0, "digits")
    assert found.class_names == tuple(f"class{i}" for i in range(10))
    for split, (_, chosen) in expected.items():
        np.testing.assert_array_equal(found.splits[split].images, pixels[order][chosen][..., None])
        np.testing.assert_array_equal(found.splits[split].labels, labels[order][chosen])


def crops(test_data, folder, most):
    """BBBC021's crops written out as TIFF files and a table; returns the arrays and the table's rows."""
    with np.load(test_data / "bbbc021" / "crops.npz") as archive:
        pixels = archive["images"]
    with open(test_data / "bbbc021" / "crops.csv", newline="") as file:
        known = list(csv.DictReader(file))
    chosen = np.linspace(0, len(pixels) - 1, most, dtype=int)
    (folder / "tiff").mkdir()
    rows = []
    for i in chosen:
        if i % 2:  # one image of three samples a pixel, or three pages
            tifffile.imwrite(folder / "tiff" / f"{i}.tif", pixels[i], photometric="rgb")
        else:
            tifffile.imwrite(folder / "tiff" / f"{i}.tif", np.moveaxis(pixels[i], -1, 0), photometric="minisblack")
        row = known[i]
        rows.append(
            {
                "path": f"tiff/{i}.tif",
                "compound": row["Image_Metadata_Compound"],
                "plate": row["Image_Metadata_Plate_DAPI"],
                "well": row["Image_Metadata_Well_DAPI"],
            }
        )
    write_csv(folder / "t.csv", rows)
    return pixels[chosen], rows


@pytest.mark.parametrize("most", [50, pytest.param(2400, marks=pytest.mark.slow)])
def test_real_cells_as_tiff_are_those_of_the_array(tmp_path, load, test_data, most):
    pixels, rows = crops(test_data, tmp_path, most)
    found = load(label="compound", group="plate")
    images, labels, columns = together(found)
    order = [[row["path"] for row in rows].index(path) for path in columns["path"]]
    assert sorted(order) == list(range(most)) and images.dtype == np.uint16
    np.testing.assert_array_equal(images, pixels[order])
    assert [found.class_names[label] for label in labels] == [rows[i]["compound"] for i in order]
    assert found.class_names[0] == "DMSO"
    for name in ("plate", "well"):
        assert columns[name].tolist() == [rows[i][name] for i in order]
    train, test = (set(found.splits[split].columns["plate"]) for split in ("train", "test"))
    assert train and test and not train & test
    scaled = found.splits["train"].images.astype(np.float64) / 65535
    np.testing.assert_allclose(found.mean, scaled.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_a_file_a_channel_by_columns(tmp_path, load):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 65536, (10, 5, 6, 3), np.uint16)
    rows = [{f"of{c}": f"{i}_{c}.tif" for c in range(3)} | {"label": i % 2} for i in range(10)]
    for row, image in zip(rows, pixels):
        for c in range(3):
            tifffile.imwrite(tmp_path / row[f"of{c}"], image[..., c])
    (tmp_path / rows[3]["of1"]).unlink()
    tifffile.imwrite(tmp_path / rows[4]["of2"], pixels[4], photometric="rgb")
    tifffile.imwrite(tmp_path / rows[5]["of0"], pixels[5, :3, :, 0])
    write_csv(tmp_path / "t.csv", rows)
    found = load(path_column=("of2", "of0", "of1"))
    images, labels, columns = together(found)
    order = [int(name.split("_")[0]) for name in columns["of0"]]
    assert sorted(order) == [0, 1, 2, 6, 7, 8, 9]
    np.testing.assert_array_equal(images, pixels[order][..., [2, 0, 1]])
    np.testing.assert_array_equal(labels, np.array(order) % 2)


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, load, caplog):
    rows = images(tmp_path / "set")
    tifffile.imwrite(tmp_path / "set" / "float.tif", np.zeros((4, 6), np.float32))
    (tmp_path / "set" / "3.png").write_bytes(b"")
    rows += [{"path": path, "label": "a", "plate": "p0"} for path in ("set/float.tif", "set/gone.png")]
    write_csv(tmp_path / "t.csv", rows)
    with caplog.at_level(logging.WARNING):
        found = load()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/t.csv: 3 of 12 images cannot be read and are left out: set/3.png, set/float.tif (float pixels; "
        "expected 8 or 16 bits), set/gone.png"
    ]
    values, labels, columns = together(found)
    values = values[:, 0, 0, 0].tolist()
    assert sorted(values) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [f"set/{value}.png" for value in values] == columns["path"].tolist()
    assert [found.class_names[label] for label in labels] == ["ab"[value % 2] for value in values]


def test_splits_of_the_table(tmp_path, load):
    rows = images(tmp_path / "set")
    parts = ["train"] * 5 + ["Val", "valid", "validation"] + ["TEST"] * 2
    write_csv(tmp_path / "t.csv", [row | {"split": part} for row, part in zip(rows, parts)])
    found = load()
    values = {split: part.images[:, 0, 0, 0].tolist() for split, part in found.splits.items()}
    assert values == {"train": [0, 1, 2, 3, 4], "validation": [5, 6, 7], "test": [8, 9]}
    drawn = load(split_column="none")
    assert [len(part.images) for part in drawn.splits.values()] == [8, 2]
    with pytest.raises(UserError, match="plate 'p0' stands in train and in validation; .*--group=none"):
        load(group="plate")
    write_csv(tmp_path / "t.csv", [row | {"split": part, "group": "g"} for row, part in zip(rows, parts)])
    with pytest.raises(UserError, match="group 'g' stands in train and in validation"):
        load()
    assert load(group="none").splits.keys() == found.splits.keys()


def test_groups_stand_together(tmp_path, load, caplog):
    rows = images(tmp_path / "set", 12)
    write_csv(tmp_path / "t.csv", [row | {"group": row["plate"]} for row in rows])
    found = load()  # a column of that name is the group
    train, test = (set(found.splits[split].columns["group"]) for split in ("train", "test"))
    assert len(test) == 1 and len(train) == 2 and not train & test
    assert "images of test are of one group" in caplog.text
    write_csv(tmp_path / "t.csv", [row | {"group": "all"} for row in rows])
    with pytest.raises(UserError, match="12 train images in 1 group are too few to hold out"):
        load()


def test_stacks(tmp_path, load):
    stack = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 2), np.uint8)
    np.save(tmp_path / "all.npy", stack)
    np.save(tmp_path / "one.npy", stack[0])
    np.save(tmp_path / "grey.npy", stack[0, ..., 0])
    write_csv(tmp_path / "t.csv", [{"path": "all.npy", "label": "x"}, {"path": "one.npy", "label": "y"}])
    pixels, labels, columns = together(load())
    is_of_stack = columns["path"] == "all.npy"
    assert labels.tolist() == np.where(is_of_stack, 0, 1).tolist() and is_of_stack.sum() == 6
    assert {image.tobytes() for image in pixels[is_of_stack]} == {image.tobytes() for image in stack}
    np.testing.assert_array_equal(pixels[~is_of_stack], stack[:1])
    write_csv(tmp_path / "t.csv", [{"path": f"all.npy[{i}]", "number": i} for i in (0, 2, 3, 4, 5, 1, 17)])
    pixels, _, columns = together(load())
    number = columns["number"].astype(int)
    np.testing.assert_array_equal(pixels, stack[number])
    assert sorted(number) == [0, 1, 2, 3, 4, 5]  # 17 is none of the stack's


@pytest.mark.parametrize(
    "options", [{"encoding": "utf-8-sig"}, {"delimiter": ";"}, {"delimiter": "\t", "encoding": "utf-8-sig"}]
)
def test_what_spreadsheets_write(tmp_path, load, options):
    rows = images(tmp_path / "set")
    write_csv(tmp_path / "t.csv", [{"": i, **row, "note": "a,b"} for i, row in enumerate(rows)], **options)
    found = load()
    assert list(found.splits["train"].columns) == ["path", "label", "plate", "note"]
    assert together(found)[2]["note"].tolist() == ["a,b"] * 10


def test_paths_are_of_the_table_or_of_data_dir_or_whole(tmp_path, load):
    rows = images(tmp_path / "set")
    (tmp_path / "tables").mkdir()
    write_csv(tmp_path / "t.csv", rows)
    write_csv(tmp_path / "tables" / "t.csv", rows)
    write_csv(tmp_path / "tables" / "whole.csv", [row | {"path": str(tmp_path / row["path"])} for row in rows])
    expected = together(load())[0]
    for name in ("table:tables/t.csv", "table:tables/whole.csv"):
        np.testing.assert_array_equal(together(load(name))[0], expected)


def test_files_that_change_are_read_again(tmp_path, load):
    rows = images(tmp_path / "set")
    write_csv(tmp_path / "t.csv", rows)
    before = load()
    assert load().fingerprint == before.fingerprint
    Image.fromarray(np.full((4, 6, 3), 99, np.uint8)).save(tmp_path / "set" / "4.png")
    assert 99 in together(load())[0]


def test_without_labels(tmp_path, load):
    rows = images(tmp_path / "set")
    write_csv(tmp_path / "t.csv", rows)
    assert load().class_names == ("a", "b")
    assert load(label="plate").class_names == ("p0", "p1", "p2")
    found = load(label="none")
    assert found.class_names is None and found.splits["train"].labels is None
    write_csv(tmp_path / "t.csv", [{"path": row["path"]} for row in rows])
    assert load().splits["train"].labels is None


ROWS = [{"path": f"{i}.png", "label": "ab"[i % 2]} for i in range(4)]


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (ROWS, {"label": "lable"}, "--label: unknown column 'lable'; did you mean 'label'"),
        (ROWS, {"group": "plate"}, "--group: unknown column 'plate'; did you mean"),
        (ROWS, {"split_column": "part"}, "--split_column: unknown column 'part'"),
        (ROWS, {"path_column": ("pathh",)}, "--path_column: unknown column 'pathh'; did you mean 'path'"),
        ([{"file": "a.png"}], {}, "t.csv: has no column 'path', only file; --path_column says which"),
        ([*ROWS, ROWS[1]], {}, "t.csv: rows 2 and 5 are both of 1.png; expected a row an image"),
        ([*ROWS, {"path": "", "label": "a"}], {}, "t.csv: row 5 has no 'path'"),
        ([*ROWS, {"path": "x.png", "label": ""}], {}, "t.csv: row 5 has no 'label'; .*--label=none"),
        ([row | {"split": "tset"} for row in ROWS], {}, "row 1 has 'tset' as 'split'; expected train, validation"),
        ([row | {"split": "test"} for row in ROWS], {}, "no row has 'train' as 'split'"),
        (
            [row | {"split": "train" if row["label"] == "a" else "test"} for row in ROWS],
            {},
            "class 'b' of test is not in train",
        ),
        (ROWS, {}, "no image of train can be read; .*4 of 4 images .*: 0.png, 1.png, 2.png, 3.png$"),
        (
            [row | {"compound": "taxol", "concentration": "much", "plate": "p"} for row in ROWS],
            {"subset": data.Subset("taxol")},
            "t.csv: a concentration is no number .*much",
        ),
        (ROWS, {"channel_files": "{stem}_{a,b}"}, "--channel_files is for folders; .*--path_column=dapi"),
    ],
)
def test_bad_tables(tmp_path, load, rows, options, message):
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path, load):
    for content, message in [
        (b"", "holds no row"),
        (b"path,label\n", "holds no row"),
        (b"path,label\na.png\n", "line 2 has 1 columns; expected 2"),
        (b"path,path\na.png,b.png\n", "two columns 'path'"),
        ("path,label\na.png,\u00e9\n".encode("cp1252"), "is not UTF-8 text; save the table as CSV in UTF-8"),
    ]:
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(UserError, match=message):
            load()
    with pytest.raises(UserError, match=r"absent.csv: No such file or directory; expected a table"):
        load("table:absent.csv")
    with pytest.raises(UserError, match="expected a CSV file, as in table:FILE.csv"):
        load("table")
    with pytest.raises(UserError, match="--split_column: is of table:; given with digits"):
        data.load("digits", split_column="part")


def test_mixed_images(tmp_path, load):
    rows = images(tmp_path / "set", 8)
    Image.fromarray(np.full((4, 6), 200, np.uint8)).save(tmp_path / "set" / "5.png")
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match="5.png is .*1 channel of uint8, .*3 channels.*--channels=3 repeats"):
        load()
    pixels = together(load(channels=3))[0]
    assert pixels.shape == (8, 4, 6, 3) and sorted(pixels[:, 0, 0, 2]) == [0, 1, 2, 3, 4, 6, 7, 200]
    Image.fromarray(np.full((8, 6, 3), 200, np.uint8)).save(tmp_path / "set" / "5.png")
    with pytest.raises(UserError, match="5.png is 6x8 .*0.png is 6x4 .*--resize=SIDE"):
        load()
    assert together(load(image_size=4))[0].shape == (8, 4, 4, 3)


def test_settings_reach_the_table(tmp_path):
    rows = images(tmp_path / "set", 12, (8, 8, 3))
    rows = [{"file": row["path"], "kind": row["label"], "plate": row["plate"]} for row in rows]
    parts = ["train"] * 8 + ["test"] * 4
    write_csv(tmp_path / "t.csv", [row | {"part": part} for row, part in zip(rows, parts)])
    config = Config(
        dataset="table:t.csv", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"), path_column=("file",), label="kind",
        split_column="part", score=("plate",), batch_size=4, backbone="vgg11_bn", width=1 / 32, image_size=8,
        evaluations=("knn", "kmeans"), transforms="horizontal_flip",
    )  # fmt: skip
    assert read_flagfile_text(to_flagfile([config])) == [config]
    (program,) = plan([config])
    assert [len(part.images) for part in program.dataset.splits.values()] == [8, 4]
    assert program.dataset.class_names == ("a", "b")
    files = read_flagfile_text("--channel_files={stem}_w{1,2}*.tif\n--path_column=a,b\n")
    assert [(one.channel_files, one.path_column) for one in files] == [("{stem}_w{1,2}*.tif", ("a", "b"))]
    shutil.rmtree(tmp_path / "cache")


def test_decoded_at_each_reading_is_what_the_cache_holds(tmp_path, load):
    rows = images(tmp_path / "set")
    rows = [row | {"group": str(i // 2)} for i, row in enumerate(rows)]
    write_csv(tmp_path / "t.csv", rows)
    cached, decoded = load(), load(decode=True)
    assert decoded.splits.keys() == cached.splits.keys() and decoded.class_names == cached.class_names
    for name, part in cached.splits.items():
        other = decoded.splits[name]
        assert not isinstance(other.images, np.ndarray)
        np.testing.assert_array_equal(other.images[:], part.images)
        np.testing.assert_array_equal(other.labels, part.labels)
        assert {of: column.tolist() for of, column in other.columns.items()} == {
            of: column.tolist() for of, column in part.columns.items()
        }


@pytest.mark.slow
def test_five_channels_of_sixteen_bits_train(tmp_path, one_layer):
    """Cells whose kind only the fifth channel tells, from table to k-NN, with the plate scored beside the label."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(120):
        image = random.integers(0, 4096, (12, 12, 5), np.uint16)
        image[..., 4] //= 1 + 3 * (i % 2)
        tifffile.imwrite(tmp_path / f"{i}.tif", np.moveaxis(image, -1, 0), photometric="minisblack")
        rows.append({"path": f"{i}.tif", "kind": "ab"[i % 2], "plate": f"p{i % 3}", "group": f"g{i // 4}"})
    write_csv(tmp_path / "t.csv", rows)
    config = Config(
        dataset="table:t.csv", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"), label="kind", score=("plate",),
        backbone=one_layer, image_size=12, batch_size=32, epochs=1, warmup_epochs=0, evaluations=("knn", "kmeans"),
        transforms="quarter_turns()+channel_contrast(probability=1.0)+channel_drop(probability=0.2)", knn_k=5,
    )  # fmt: skip
    ssljax.run(config, tmp_path / "runs", stages=("pretrain", "evaluate"))
    with open(tmp_path / "runs" / "results.csv", newline="") as file:
        found = {
            (row["method"], row["evaluation"], row["target"], row["metric"]): float(row["value"])
            for row in csv.DictReader(file)
        }
    assert found["pixels", "knn", "label", "top1"] > 0.9
    assert abs(found["pixels", "kmeans", "plate", "ami"]) < 0.3 < found["pixels", "kmeans", "label", "ami"]
    assert 0 <= found["mocov2plus", "knn", "label", "top1"] <= 1
