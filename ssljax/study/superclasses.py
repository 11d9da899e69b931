"""Which superclass a class belongs to, and a sweep's curves of superclasses instead of classes."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from ssljax.errors import UserError
from ssljax.study.curves import Curves


def read_superclasses(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads a map from class to superclass.

    Args:
      path: a CSV file with a header and the columns `class` and `superclass`, a class a row; other columns are
        ignored.

    Raises:
      UserError: no such file, a column or a cell is missing, a class stands twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _superclasses(file.read(), str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV table ({error})") from error


def _superclasses(text: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    reader = csv.DictReader(text.splitlines())
    if missing := [name for name in ("class", "superclass") if name not in (reader.fieldnames or ())]:
        raise UserError(f"{where}: column {', '.join(missing)} is missing, expected class, superclass")
    for row in reader:
        name, above = ((row[column] or "").strip() for column in ("class", "superclass"))
        if not name or not above:
            raise UserError(f"{where}: row {reader.line_num} lacks its class or its superclass")
        if name in found:
            raise UserError(f"{where}: row {reader.line_num}, class '{name}' stands twice")
        found[name] = above
    return found


def superclasses(dataset: str, class_names: Sequence[str]) -> dict[str, str] | None:
    """The superclass of each class of a data set whose map comes with the package, which is CIFAR-100's.

    Args:
      dataset: as the tables call it; any spelling of CIFAR-100 is known: cifar100, cifar100:3.0.2, CIFAR-100.
      class_names: the classes to find; all of CIFAR-100's are recognised under any name of the data set.

    Returns:
      class -> superclass in the order of `class_names`; None where a class is in no map.
    """
    text = resources.files("ssljax.study").joinpath("cifar100_superclasses.csv").read_text(encoding="utf-8")
    known = _superclasses(text, "cifar100_superclasses.csv")
    named = re.sub(r"[^a-z0-9]", "", dataset.lower()).startswith("cifar100")
    if set(class_names) == set(known) or (named and set(class_names) <= set(known)):
        return {name: known[name] for name in class_names}
    return None


def superclass_curves(curves: Curves, of: Mapping[str, str]) -> Curves:
    """The same sweep with superclasses for classes: the mean accuracy of the classes of each.

    The accuracies stay those of the fine classes: an image counts as right when its own class was found, not when some
    class of its superclass was.

    Args:
      curves: of a sweep.
      of: superclass of every class in `curves`.

    Returns:
      The curves with `classes` the superclasses by name, `target` "superclass" and NaN where a class has NaN.

    Raises:
      UserError: a class has no superclass.
    """
    if lost := [name for name in curves.classes if name not in of]:
        raise UserError(f"superclasses: class '{lost[0]}' has none ({len(lost)} of {len(curves.classes)} classes)")
    above = [of[name] for name in curves.classes]
    names = tuple(sorted(set(above)))
    members = [np.array([each == name for each in above]) for name in names]
    accuracy = np.stack([curves.accuracy[..., member].mean(axis=-1) for member in members], axis=-1)
    return curves._replace(target="superclass", classes=names, accuracy=accuracy)
