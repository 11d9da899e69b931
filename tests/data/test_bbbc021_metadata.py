"""The tables of BBBC021 are read, joined and chosen from; wrong ones are refused in a line."""

import csv
import gzip
import time

import pytest
from made_bbbc021 import COLUMNS, Made, Site, write

from ssljax.data.bbbc021.metadata import choose, read_fields, row_of
from ssljax.errors import UserError

SITES = [
    Site("Week4_27481", "B02", 1, "DMSO", 0.0),
    Site("Week4_27481", "C05", 1, "nocodazole", 1.0),
    Site("Week4_27521", "C05", 2, "nocodazole", 3.0),
    Site("Week7_34341", "B02", 1, "DMSO", 0.0),
    Site("Week7_34341", "G10", 4, "taxol", 0.3),
]
MOA = [("DMSO", 0, "DMSO"), ("nocodazole", "1.000000", "Microtubule destabilizers")]


@pytest.fixture
def raw(tmp_path):
    write(tmp_path, SITES, [Made([], [])] * len(SITES), MOA)
    return tmp_path


def test_every_column_is_carried(raw):
    fields = read_fields(raw)
    rows = list(csv.DictReader((raw / "BBBC021_v1_image.csv").open()))
    assert [row_of(field) for field in fields] == rows
    assert [field.moa for field in fields] == ["DMSO", "Microtubule destabilizers", "", "DMSO", ""]
    assert [field.week for field in fields] == ["Week4"] * 3 + ["Week7"] * 2
    assert fields[1].files == tuple(rows[1][name] for name in COLUMNS[2:8:2])


def test_choosing(raw):
    fields = read_fields(raw)

    def images(*args, **options):
        return [field.image for field in choose(fields, *args, **options)]

    assert images() == [1, 2, 3, 4, 5]
    assert images(["Nocodazole"]) == [1, 2, 3]  # with the controls of its plates
    assert images(["nocodazole"], controls=False) == [2, 3]
    assert images(["nocodazole"], [1]) == [1, 2]
    assert images(["taxol", "nocodazole"], [0.3, 3.0], controls=False) == [3, 5]
    with pytest.raises(UserError, match=r"unknown compound 'nocodazol'; did you mean 'nocodazole'"):
        images(["nocodazol"])
    with pytest.raises(UserError, match=r"no field of nocodazole at 7; there are 1, 3"):
        images(["nocodazole"], [7])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("Replicate", "Repetition"), "has no column Replicate"),
        (
            lambda text: text.replace(",1.0\r\n", ",much\r\n"),
            "line 3: Image_Metadata_Concentration is 'much'; expected a number",
        ),
        (lambda text: text.replace("taxol,", "taxol,,"), "line 6 has 14 columns; expected 13"),
    ],
)
def test_a_wrong_table_is_refused(raw, change, message):
    path = raw / "BBBC021_v1_image.csv"
    path.write_bytes(change(path.read_bytes().decode()).encode())
    with pytest.raises(UserError, match=message):
        read_fields(raw)


def test_absent_and_damaged_tables_are_refused(raw):
    path = raw / "BBBC021_v1_image.csv"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    with pytest.raises(UserError, match="holds no BBBC021_v1_image"):
        read_fields(raw)
    path.with_suffix(".csv.gz").write_bytes(packed)
    assert len(read_fields(raw)) == 5
    path.with_suffix(".csv.gz").write_bytes(packed[:-20])
    with pytest.raises(UserError, match="not a readable table"):
        read_fields(raw)


def test_the_official_tables(test_data):
    start = time.perf_counter()
    fields = read_fields(test_data / "bbbc021")
    assert time.perf_counter() - start < 5
    assert len(fields) == 13200
    assert len({field.plate for field in fields}) == 55
    assert len({field.week for field in fields}) == 10
    assert len({field.compound for field in fields}) == 113
    labelled = {(field.compound, field.concentration): field.moa for field in fields if field.moa}
    assert len(labelled) == 104 and len(set(labelled.values()) - {"DMSO"}) == 12
    # Taxol at .3 is a control on every plate; Nocodazole sits on three.
    assert len({field.plate for field in choose(fields, ["taxol"], [0.3], controls=False)}) == 55
    assert len({field.plate for field in choose(fields, ["nocodazole"], controls=False)}) == 3
    # The rows of the ready-made crops are those of their fields.
    by_file = {field.files[0]: row_of(field) for field in fields}
    with (test_data / "bbbc021" / "crops.csv").open() as file:
        for row in csv.DictReader(file):
            row.pop("file")
            assert row == by_file[row["Image_FileName_DAPI"]]
