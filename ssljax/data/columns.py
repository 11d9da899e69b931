"""What is known of images, a column of text each: read from a CSV file, and made into labels."""

import csv
import sys

import numpy as np

from ssljax.data.bbbc021.metadata import CONTROL
from ssljax.errors import UserError


def read_csv(path: str) -> dict[str, np.ndarray]:
    """The columns of a CSV file: name -> text [n], without blanks around it.

    Cells are separated by commas, semicolons or tabs, whichever the header holds most of. A column without a name (pandas' index)
    is left out.

    Raises:
      UserError: no such file, not UTF-8, no row, a row of another length, or two columns of one name.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            header = [name.strip() for name in next(reader, [])]
            rows: list[list[str]] = []
            for row in reader:
                if row and len(row) != len(header):
                    raise UserError(f"{path}: line {reader.line_num} has {len(row)} columns; expected {len(header)}")
                if row:
                    rows.append([sys.intern(text.strip()) for text in row])  # of a million rows, few texts differ
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save the table as CSV in UTF-8") from None
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}; expected a table with a row for each image") from None
    if not rows:
        raise UserError(f"{path}: holds no row; expected one for each image")
    if twice := [name for i, name in enumerate(header) if name and name in header[:i]]:
        raise UserError(f"{path}: has two columns '{twice[0]}'; expected names that differ")
    return {name: np.array(column, np.str_) for name, column in zip(header, zip(*rows)) if name}


def labels_of(column: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as labels int32 [n], and the names of the classes: untreated first, numbers by size, all else by the alphabet."""
    found = np.unique(column).tolist()
    try:
        found.sort(key=float)
    except ValueError:
        found.sort(key=lambda name: (name != CONTROL, name))
    number = {name: i for i, name in enumerate(found)}
    return np.array([number[name] for name in column.tolist()], np.int32), tuple(found)
