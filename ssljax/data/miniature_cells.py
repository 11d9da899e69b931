"""A made miniature of the cells that experiments/bbbc021.py cuts out of BBBC021: six compounds, three mechanisms, untreated."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssljax.data.bbbc021.metadata import CONTROL, Field, row_of
from ssljax.data.pictures import random_of

SIZE, FIELDS = 32, 2  # pixels; fields of a well
CELLS = {True: 4, False: 10}  # of a treated and of an untreated field
UNTREATED_WELLS = 4  # of a plate
# Compounds as in BBBC021: mechanism, plates (of the last three one each), highest concentration, and the lowest one that the table
# of mechanisms names.
_WEEK1 = ("Week1_22123", "Week1_22141", "Week1_22161")
_COMPOUNDS = {
    "nocodazole": ("Microtubule destabilizers", _WEEK1, 3.0, 1.0),
    "cytochalasin B": ("Actin disruptors", _WEEK1, 30.0, 10.0),
    "taxol": ("Microtubule stabilizers", _WEEK1, 3.0, 0.3),
    "cytochalasin D": ("Actin disruptors", ("Week2_24121",), 10.0, 0.3),
    "demecolcine": ("Microtubule destabilizers", ("Week3_25681",), 10.0, 0.3),
    "docetaxel": ("Microtubule stabilizers", ("Week7_34341",), 1.0, 0.03),
}
_LADDER, _DOSES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), 8  # micromolar; of a compound
# What a mechanism does at the highest concentration: times the radius of nucleus and cell, lobes apart by so many radii of the
# nucleus, times the brightness of tubulin and actin.
_EFFECTS = {
    "": (1.0, 1.0, 0.0, 1.0, 1.0),
    "Microtubule destabilizers": (0.8, 0.8, 1.2, 0.5, 1.2),
    "Actin disruptors": (1.0, 0.6, 0.0, 1.2, 2.0),
    "Microtubule stabilizers": (1.2, 1.3, 0.7, 2.0, 1.0),
}
_PEAK = np.array([9000.0, 6000.0, 5000.0])  # brightness of an untreated cell's channels, about the real ones'
_DARK, _NOISE = 700.0, 60.0


def write(folder: Path) -> None:
    """Writes shards, table and manifest into a folder, always the same."""
    from ssljax.data.bbbc021.crops import CSV_COLUMNS  # imports SciPy

    (folder / "crops").mkdir()
    count = 0
    with (folder / "crops.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        for fields, strength in _wells():
            first = fields[0]
            name = f"crops/{first.plate}_{first.well}.npy"
            cells = CELLS[first.compound != CONTROL]
            np.save(folder / name, _drawn(first, strength, len(fields) * cells))
            for row in range(len(fields) * cells):
                place = {"x": 0, "y": 0, "area": 0, "moa": first.moa}
                writer.writerow({"file": name, "row": row, **row_of(fields[row // cells]), **place})
                count += 1
    manifest = {"finished": True, "settings": {"size": SIZE}, "counts": {"crops": count}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _wells() -> Iterator[tuple[tuple[Field, ...], float]]:
    """The fields of each well, and how strongly it is treated, from 0 to 1."""
    plates = dict.fromkeys(plate for _, own, _, _ in _COMPOUNDS.values() for plate in own)
    holds: dict[str, list[tuple[str, float, str, float]]] = {
        plate: [(CONTROL, 0.0, CONTROL, 0.0)] * UNTREATED_WELLS for plate in plates
    }
    for compound, (mechanism, own, highest, known) in _COMPOUNDS.items():
        top = _LADDER.index(highest)
        for step, at in enumerate(_LADDER[top - _DOSES + 1 : top + 1], start=1):
            dose = at, mechanism if at >= known else "", step / _DOSES
            for plate in own:
                holds[plate].append((compound, *dose))
            if (compound, at) == ("taxol", 0.3):  # a control on every plate
                for plate in plates:
                    holds[plate].append((compound, *dose))
    image = 0
    for plate, wells in holds.items():
        for number, (compound, at, mechanism, strength) in enumerate(wells):
            well, week = f"{'BCDEFG'[number // 10]}{number % 10 + 2:02d}", plate.partition("_")[0]
            fields = []
            for site in range(1, FIELDS + 1):
                image += 1
                files = (f"{well}_s{site}_w1.tif", f"{well}_s{site}_w2.tif", f"{well}_s{site}_w4.tif")
                folders = (f"{week}/{plate}",) * 3
                fields.append(Field(1, image, files, folders, plate, week, well, 1, compound, at, mechanism))
            yield tuple(fields), strength


def _drawn(well: Field, strength: float, count: int) -> np.ndarray:
    """Cells uint16 [count, side, side, 3] of a well: one or two nuclei in a body, the mechanism's effect as strong as the dose."""
    random = random_of(f"bbbc021/{well.plate}/{well.well}")
    mechanism = _COMPOUNDS[well.compound][0] if well.compound in _COMPOUNDS else ""
    plain, full = np.array(_EFFECTS[""]), np.array(_EFFECTS[mechanism])
    nucleus, body, apart, tubulin, actin = plain + strength * (full - plain)
    spread = random.uniform(0.85, 1.15, (5, count, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    angle = random.uniform(0, np.pi, (count, 1, 1))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = SIZE / 6 * nucleus * spread[0]
    lobes = [
        np.exp(-((((u + side * apart * radius / 2) / radius) ** 2 + (v / radius / 0.8) ** 2) ** 2)) for side in (-1, 1)
    ]
    distance = np.hypot(u / spread[1], v * spread[1]) / (SIZE / 3 * body)
    shown = np.stack(
        [np.maximum(*lobes), tubulin * np.exp(-(distance**4)), actin * np.exp(-(((distance - 0.9) / 0.2) ** 2))], -1
    )
    # Plates differ in stain and light, as the real ones do.
    gain = random_of(f"bbbc021/{well.plate}").uniform(0.7, 1.3, 3)
    pixels = _DARK + _PEAK * gain * shown * spread[2, ..., None] + random.normal(0, _NOISE, shown.shape)
    return np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)
