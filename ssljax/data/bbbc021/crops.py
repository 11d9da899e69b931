"""Raw fields to shards of single-cell crops: parallel, resumable, and never ended by one bad file.

out/manifest.json          settings, counts, percentiles of each plate, what was skipped and why
out/crops.csv              a row a crop: shard, row in it, BBBC021's own columns, place, area, mechanism
out/crops/PLATE_WELL.npy   uint16 [n, size, size, 3], the crops of one well
out/wells/, out/plates/    what is finished, for the next start
"""

import csv
import functools
import importlib.util
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssljax import files
from ssljax.data.bbbc021.metadata import CHANNELS, COLUMNS, Field, choose, read_fields, row_of
from ssljax.data.bbbc021.plates import Plate, read_plate, survey
from ssljax.data.bbbc021.processes import Run, mapped
from ssljax.data.bbbc021.segment import REASONS, Rules, find_nuclei, window_corners
from ssljax.data.bbbc021.tiff import Broken, index_files, paths_of, read_field
from ssljax.errors import UserError

CSV_COLUMNS = ("file", "row", *COLUMNS, "x", "y", "area", "moa")


class Settings(NamedTuple):
    """What a folder of crops is made with; another folder is needed for others."""

    size: int = 196  # the papers'
    compounds: tuple[str, ...] = ()
    concentrations: tuple[float, ...] = ()
    controls: bool = True
    normalize: bool = True
    per_field: int = 0
    rules: Rules = Rules()


class Task(NamedTuple):
    """One well, which becomes one shard: its fields and their files."""

    out: Path
    name: str
    fields: tuple[Field, ...]
    paths: tuple[tuple[Path | None, ...], ...]
    settings: Settings


def extract(
    raw: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int = 196,
    compounds: Sequence[str] = (),
    concentrations: Sequence[float] = (),
    controls: bool = True,
    normalize: bool = True,
    per_field: int = 0,
    rules: Rules = Rules(),  # noqa: B008
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Cuts the single cells out of BBBC021's fields.

    A well is a unit of work: its shard appears whole or not at all, and a second call goes on after the last whole one; wells with
    skipped fields are tried again. A field that cannot be read is skipped, and listed in the manifest with the reason.
    Memory is bounded by a well's crops for each worker, whatever the number of fields.

    Args:
      raw: the folder of BBBC021 as published: both tables, and the plates' folders anywhere in it.
      out: for the crops; made if need be.
      size: side of a crop in pixels.
      compounds, concentrations, controls: see `metadata.choose`.
      normalize: evens the illumination out and rescales each plate and channel, its .1 and 99.9 percentiles to 0 and 65535,
        clipped; False keeps the pixels of the files.
      per_field: at most so many crops of a field, drawn evenly with a fixed seed; 0 for all.
      rules: which nuclei are dropped.
      workers: processes; None for one a core.
      progress: whether a bar is shown.

    Returns:
      The manifest, as in out/manifest.json.

    Raises:
      UserError: bad tables or settings, no file at all, other settings in `out`, a full disk or a killed worker.
      KeyboardInterrupt: passed on after the wells in work are finished.
    """
    raw, out = Path(raw), Path(out)
    settings = Settings(size, tuple(compounds), tuple(concentrations), controls, normalize, per_field, rules)
    workers = _checked(settings, workers)
    every = read_fields(raw)
    chosen = choose(every, compounds, concentrations, controls)
    found = index_files(raw)
    if not any(path for field in chosen for path in paths_of(field, found)):
        places = " or ".join(f"{raw}/{at}" for at in (chosen[0].folders[0], chosen[0].plate))
        raise UserError(
            f"--raw: none of the {3 * len(chosen)} files wanted is there; expected such as {chosen[0].files[0]} in {places}"
        )
    known = {(field.plate, name) for field in every for name in field.files}
    unlisted = sorted(str(path.relative_to(raw)) for key, path in found.items() if key not in known)
    started = time.monotonic()
    try:
        _open_folder(out, settings)
        with mapped(workers) as run:
            _survey(run, every, chosen, found, out, progress)
            done = _cut(run, _tasks(chosen, found, out, settings), progress)
        manifest = _finish(out, settings, chosen, unlisted, done, time.monotonic() - started)
    except BrokenProcessPool:
        raise UserError(
            f"--workers: one of {workers} was killed, out of memory perhaps; the same command with fewer goes on"
        ) from None
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error}") from error
    return manifest


def _checked(settings: Settings, workers: int | None) -> int:
    for name, least in (("size", 8), ("per_field", 0)):
        value = getattr(settings, name)
        if value < least:
            raise UserError(f"--{name}: {value} given; expected {least} or more")
    if importlib.util.find_spec("skimage") is None:  # else each field would be skipped for it
        raise UserError("finding nuclei needs scikit-image: pip install scikit-image")
    if workers is not None and workers < 1:
        raise UserError(f"--workers: {workers} given; expected 1 or more")
    # The cores that this process may use, where the system tells; else all.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or cores


def _open_folder(out: Path, settings: Settings) -> None:
    """Makes the folder, or checks that what is in it was made with the same settings."""
    plain = json.loads(json.dumps(settings._asdict() | {"rules": settings.rules._asdict()}))
    path = out / "manifest.json"
    if path.is_file():
        try:
            there = json.loads(path.read_text())["settings"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--out: {path} is not a manifest of crops; expected a new folder") from None
        for name, value in plain.items():
            if there.get(name) != value:
                raise UserError(
                    f"--out: {out} was made with {name} {there.get(name)}, given {value}; expected the same or a new folder"
                )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} holds something else; expected a new folder, or one that this program began")
    for name in ("crops", "wells", "plates"):
        (out / name).mkdir(parents=True, exist_ok=True)
    _write_json(path, {"finished": False, "settings": plain})


def _write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    with files.replacing(path, encoding="utf-8") as file:
        json.dump(content, file, indent=indent)


def _bar(total: int, what: str, shown: bool, done: int = 0) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="field", initial=done, disable=not shown)


def _survey(
    run: Run,
    every: Sequence[Field],
    chosen: Sequence[Field],
    found: dict[tuple[str, str], Path],
    out: Path,
    progress: bool,
) -> None:
    """Looks at a sample of each plate that is not yet looked at."""
    plates: dict[str, list[Field]] = {field.plate: [] for field in chosen}
    for field in every:
        if field.plate in plates:
            plates[field.plate].append(field)
    open_ = [
        (plate_file(out, plate), tuple(fields), tuple(paths_of(field, found) for field in fields))
        for plate, fields in plates.items()
        if not plate_file(out, plate).exists()
    ]
    with _bar(len(plates), "plates", progress, len(plates) - len(open_)) as bar:
        bar.unit = "plate"
        for _ in run(survey, open_):
            bar.update()


def _tasks(chosen: Sequence[Field], found: dict[tuple[str, str], Path], out: Path, settings: Settings) -> list[Task]:
    wells: dict[tuple[str, str], list[Field]] = {}
    for field in chosen:
        wells.setdefault((field.plate, field.well), []).append(field)
    return [
        Task(out, f"{plate}_{well}", tuple(fields), tuple(paths_of(field, found) for field in fields), settings)
        for (plate, well), fields in sorted(wells.items())
    ]


def _cut(run: Run, tasks: Sequence[Task], progress: bool) -> list[tuple[str, int]]:
    """Works through the wells that are not finished; gives every well's name and the number of fields cut just now."""
    finished = {task.name for task in tasks if _is_whole(task)}
    open_ = [task for task in tasks if task.name not in finished]
    total = sum(len(task.fields) for task in tasks)
    with _bar(total, "fields", progress, total - sum(len(task.fields) for task in open_)) as bar:
        for count in run(cut_well, open_):
            bar.update(count)
    cut = {task.name: len(task.fields) for task in open_}
    return [(task.name, cut.get(task.name, 0)) for task in tasks]


def _is_whole(task: Task) -> bool:
    record = _well_file(task.out, task.name)
    return record.exists() and _shard(task.out, task.name).exists() and not json.loads(record.read_text())["skipped"]


def _well_file(out: Path, name: str) -> Path:
    return out / "wells" / f"{name}.json"


def plate_file(out: Path, plate: str) -> Path:
    """What `plates.survey` wrote of a plate."""
    return out / "plates" / f"{plate}.npz"


def well_files(out: Path) -> list[Path]:
    """The records of the finished wells."""
    return sorted((out / "wells").glob("*.json"))


def _shard(out: Path, name: str) -> Path:
    return out / "crops" / f"{name}.npy"


@functools.lru_cache(maxsize=1)  # wells come plate by plate
def _plate(path: Path) -> Plate | None:
    return read_plate(path)


def cut_well(task: Task) -> int:
    """Cuts the cells of one well out and writes its shard, then its record; gives the number of fields."""
    record = _well_file(task.out, task.name)
    record.unlink(missing_ok=True)  # a record never stands beside a shard of another time
    plate = _plate(plate_file(task.out, task.fields[0].plate))
    shard, rows, skipped, dropped = (
        list[NDArray[np.uint16]](),
        list[dict[str, Any]](),
        list[dict[str, Any]](),
        Counter[str](),
    )
    for field, paths in zip(task.fields, task.paths):
        try:
            crops, found, reasons = _cut_field(field, paths, plate, task.settings)
        except Exception as error:  # whatever one field holds, the others of a ten-hour job are cut
            reason = str(error) if isinstance(error, Broken) else f"unexpected {type(error).__name__}: {error}"
            skipped.append({"table": field.table, "image": field.image, "file": field.files[0], "reason": reason})
            continue
        first = len(rows)
        row = {"file": f"crops/{task.name}.npy", **row_of(field), "moa": field.moa}
        rows += [row | {"row": first + i} | place for i, place in enumerate(found)]
        shard.append(crops)
        dropped += reasons
    size = task.settings.size
    with files.replacing(_shard(task.out, task.name), "wb") as file:
        np.save(file, np.concatenate(shard) if shard else np.empty((0, size, size, len(CHANNELS)), np.uint16))
    content: dict[str, Any] = {
        "plate": task.fields[0].plate,
        "well": task.fields[0].well,
        "compound": task.fields[0].compound,
    }
    content |= {"fields": len(task.fields), "skipped": skipped, "dropped": dropped, "rows": rows}
    _write_json(record, content, indent=None)
    return len(task.fields)


def _cut_field(
    field: Field, paths: Sequence[Path | None], plate: Plate | None, settings: Settings
) -> tuple[NDArray[np.uint16], list[dict[str, Any]], Counter[str]]:
    """Crops uint16 [n, size, size, 3] of a field, where each is, and how many nuclei were dropped by which rule."""
    images = read_field(field, paths)
    if plate is None:
        raise Broken("no field of its plate was sound when the plate was looked at")
    if images.shape != plate.light.shape:
        raise Broken(f"{images.shape[1:]} pixels; expected {plate.light.shape[1:]} as in its plate")
    nuclei = find_nuclei(plate.even(images, 0), settings.size, settings.rules)
    kept = np.flatnonzero(nuclei.kept)
    if 0 < settings.per_field < len(kept):
        rng = np.random.default_rng((field.table, field.image))
        kept = np.sort(rng.choice(kept, settings.per_field, replace=False))
    if settings.normalize:
        images = plate.normalized(images)
    corners = window_corners(nuclei.centres[kept], settings.size)
    size = settings.size
    crops = np.empty((len(kept), size, size, len(images)), np.uint16)
    for i, (top, left) in enumerate(corners):
        crops[i] = np.moveaxis(images[:, top : top + size, left : left + size], 0, -1)
    places = [
        {"x": round(float(x), 2), "y": round(float(y), 2), "area": int(area)}
        for (y, x), area in zip(nuclei.centres[kept], nuclei.areas[kept])
    ]
    names, counts = np.unique(nuclei.reasons, return_counts=True)
    return crops, places, Counter({str(name): int(count) for name, count in zip(names, counts) if name})


def _finish(
    out: Path,
    settings: Settings,
    chosen: Sequence[Field],
    unlisted: list[str],
    done: Sequence[tuple[str, int]],
    seconds: float,
) -> dict[str, Any]:
    """Writes the table of all crops, a well at a time, and the manifest."""
    from ssljax import __version__

    dropped, skipped, crops = Counter[str](), list[dict[str, Any]](), 0
    plates = {name: {"fields": 0, "skipped": 0, "crops": 0} for name in dict.fromkeys(field.plate for field in chosen)}
    with files.replacing(out / "crops.csv", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for name, _ in done:
            record = json.loads(_well_file(out, name).read_text())
            writer.writerows(record["rows"])
            dropped.update(record["dropped"])
            skipped += record["skipped"]
            crops += len(record["rows"])
            counts = plates[record["plate"]]
            counts["fields"] += record["fields"]
            counts["skipped"] += len(record["skipped"])
            counts["crops"] += len(record["rows"])
    surveyed = {name: read_plate(plate_file(out, name)) for name in plates}
    worked = sum(fields for _, fields in done)
    manifest = {
        "finished": True,
        "settings": json.loads((out / "manifest.json").read_text())["settings"],
        "version": __version__,
        "channels": list(CHANNELS),
        "counts": {
            "fields": len(chosen),
            "fields_skipped": len(skipped),
            "wells": len(done),
            "crops": crops,
            "dropped": {reason: dropped[reason] for reason in REASONS},
        },
        "seconds": round(seconds, 1),
        "fields_per_second": round(worked / seconds, 3),
        "plates": {
            name: counts | (plate.summary() if (plate := surveyed[name]) else {}) for name, counts in plates.items()
        },
        "skipped": skipped,
        "files_without_row": unlisted,
    }
    _write_json(out / "manifest.json", manifest)
    return manifest
