"""BBBC021's two tables: which field holds which compound at which concentration, and the mechanisms that are known."""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ssljax.errors import UserError, unknown

CHANNELS = ("DAPI", "Tubulin", "Actin")  # as the columns of the table name them, in the order of a crop's channels
CONTROL = "DMSO"  # what the untreated wells hold

# The table's own columns, in its order.
COLUMNS = (
    "TableNumber", "ImageNumber", "Image_FileName_DAPI", "Image_PathName_DAPI", "Image_FileName_Tubulin",
    "Image_PathName_Tubulin", "Image_FileName_Actin", "Image_PathName_Actin", "Image_Metadata_Plate_DAPI",
    "Image_Metadata_Well_DAPI", "Replicate", "Image_Metadata_Compound", "Image_Metadata_Concentration",
)  # fmt: skip
_MOA_COLUMNS = ("compound", "concentration", "moa")
_Number = TypeVar("_Number", int, float)
_IMAGES, MOA = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"


class Field(NamedTuple):
    """A field of view: three files of one place in one well. Table and image number together are its name in BBBC021."""

    table: int
    image: int
    files: tuple[str, str, str]  # in the order of `CHANNELS`
    folders: tuple[str, str, str]  # such as Week4/Week4_27481
    plate: str
    week: str  # the plate's prefix, which is the batch
    well: str
    replicate: int
    compound: str
    concentration: float  # micromolar; 0 for the controls
    moa: str  # mechanism of action, "" where none is known


def read_fields(raw: Path) -> list[Field]:
    """Every field of BBBC021_v1_image.csv, with the mechanism that BBBC021_v1_moa.csv gives it.

    Args:
      raw: the folder that holds both tables, each as .csv or .csv.gz.

    Returns:
      The fields in the table's order.

    Raises:
      UserError: a table that is absent, lacks a column, or has a row that cannot be read, naming its line.
    """
    return list(_fields(_find(raw, _IMAGES), read_mechanisms(_find(raw, MOA))))


def read_mechanisms(path: Path) -> dict[tuple[str, float], str]:
    """The mechanism of action of each (compound, concentration) that BBBC021_v1_moa.csv names.

    Raises:
      UserError: a table that lacks a column, or has a row that cannot be read, naming its line.
    """
    return {
        (compound, _number(concentration, float, path, line, "concentration")): mechanism
        for line, (compound, concentration, mechanism) in _rows(path, _MOA_COLUMNS)
    }


def row_of(field: Field) -> dict[str, str]:
    """The field under the table's own column names."""
    places = itertools.chain.from_iterable(zip(field.files, field.folders))
    values = (field.table, field.image, *places, field.plate, field.well, field.replicate, field.compound)
    return dict(zip(COLUMNS, (*map(str, values), repr(field.concentration))))


def choose(
    fields: Sequence[Field], compounds: Iterable[str] = (), concentrations: Iterable[float] = (), controls: bool = True
) -> list[Field]:
    """The fields of some compounds and concentrations, with the untreated ones of the same plates.

    Args:
      fields: to choose from.
      compounds: names as in the table, upper or lower case; none for all.
      concentrations: in micromolar, of the treated fields; none for all.
      controls: whether the DMSO fields of the plates of what was chosen come too.

    Raises:
      UserError: a compound that no field holds, or a concentration that none of its compounds has.
    """
    by_name = {field.compound.casefold(): field.compound for field in fields}
    wanted = set()
    for name in compounds:
        if name.casefold() not in by_name:
            raise unknown("compound", name, by_name.values(), "--compounds")
        wanted.add(by_name[name.casefold()])
    chosen = [field for field in fields if not wanted or field.compound in wanted]
    asked = set(concentrations)
    if asked:
        treated = [field for field in chosen if field.compound != CONTROL]
        held = sorted({field.concentration for field in treated})
        for value in sorted(asked.difference(held)):
            of = f"of {', '.join(sorted(wanted))}" if wanted else "of any compound"
            known = ", ".join(f"{one:g}" for one in held) or "none"
            raise UserError(f"--concentrations: no field {of} at {value:g}; there are {known}")
        asked_for = [field for field in treated if field.concentration in asked]
        chosen = asked_for + [field for field in chosen if field.compound == CONTROL and CONTROL in wanted]
    if controls:
        plates = {field.plate for field in chosen}
        chosen += [field for field in fields if field.compound == CONTROL and field.plate in plates]
    kept = set(chosen)
    return [field for field in fields if field in kept]


def _fields(path: Path, mechanisms: dict[tuple[str, float], str]) -> Iterator[Field]:
    for line, row in _rows(path, COLUMNS):
        table, image, dapi, dapi_at, tubulin, tubulin_at, actin, actin_at, plate, well, replicate, compound, amount = (
            row
        )
        concentration = _number(amount, float, path, line, "Image_Metadata_Concentration")
        yield Field(
            table=_number(table, int, path, line, "TableNumber"),
            image=_number(image, int, path, line, "ImageNumber"),
            files=(dapi, tubulin, actin),
            folders=(dapi_at, tubulin_at, actin_at),
            plate=plate,
            week=plate.partition("_")[0],
            well=well,
            replicate=_number(replicate, int, path, line, "Replicate"),
            compound=compound,
            concentration=concentration,
            moa=mechanisms.get((compound, concentration), ""),
        )


def _find(raw: Path, name: str) -> Path:
    for path in (raw / name, raw / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"--raw: {raw} holds no {name} or {name}.gz; expected BBBC021 as it is published")


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The line number and the named columns of each row."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise UserError(f"{path}: has no column {', '.join(missing)}; expected {', '.join(columns)}")
        places = [header.index(name) for name in columns]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f"{path}: line {reader.line_num} has {len(row)} columns; expected {len(header)}")
            yield reader.line_num, [row[place].strip() for place in places]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable table ({error})") from error


def _number(text: str, kind: type[_Number], path: Path, line: int, column: str) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{path}: line {line}: {column} is '{text}'; expected a number") from None
