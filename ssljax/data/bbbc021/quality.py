"""The page to look at before the crops are used: outlines, plate maps, intensities, and what was dropped and skipped."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from scipy import ndimage

from ssljax import files
from ssljax.data.bbbc021.crops import plate_file, well_files
from ssljax.data.bbbc021.metadata import CHANNELS, CONTROL, Field, read_fields
from ssljax.data.bbbc021.plates import EDGES, Plate, read_plate
from ssljax.data.bbbc021.segment import Rules, find_nuclei
from ssljax.data.bbbc021.tiff import Broken, index_files, paths_of, read_field
from ssljax.errors import UserError
from ssljax.report import frame
from ssljax.report.figures import COLORS, STYLE, save

# Our choices: what a page of 55 plates can hold and a reader take in.
PLATES_SHOWN = 8  # with outlined fields
FIELDS_SHOWN = 2  # of each: an untreated and a treated one
REASONS_LISTED = 50
_KEPT, _DROPPED = COLORS[3], COLORS[1]
_ROWS = "ABCDEFGH"  # of a plate of 96 wells, in 12 columns


def write_page(out: str | os.PathLike[str], raw: str | os.PathLike[str]) -> Path:
    """Writes out/quality.html, one file with its figures inside (also as PNGs in out/figures), from finished crops.

    Args:
      out: the folder that `crops.extract` filled.
      raw: the fields that it was filled from; a few are read again to draw the outlines.

    Returns:
      The page.

    Raises:
      UserError: `out` holds no finished crops.
    """
    out, raw = Path(out), Path(raw)
    try:
        manifest = json.loads((out / "manifest.json").read_text())
    except (OSError, ValueError):
        manifest = {}
    if not manifest.get("finished"):
        raise UserError(f"--out: {out} holds no finished crops; expected what extract wrote")
    plates = {name: plate for name in manifest["plates"] if (plate := read_plate(plate_file(out, name)))}
    with plt.rc_context(STYLE):
        sections = [_summary(manifest), _outlines(out, raw, manifest, plates), _maps(out, manifest)]
        sections += [
            _intensities(out, plates, manifest["settings"]["normalize"]),
            _dropped(manifest),
            _skipped(manifest),
        ]
    page = out / "quality.html"
    with files.replacing(page, encoding="utf-8") as file:
        file.write(frame.page("BBBC021: single-cell crops", sections))
    return page


def _summary(manifest: Mapping[str, Any]) -> str:
    counts, settings = manifest["counts"], manifest["settings"]
    sound = counts["fields"] - counts["fields_skipped"]
    per_field = f"{counts['crops'] / sound:.1f} a field" if sound else "no sound field"
    chosen = ", ".join(settings["compounds"]) or "all"
    concentrations = ", ".join(f"{one:g}" for one in settings["concentrations"]) or "all"
    pixels = "evenly lit, rescaled by plate and channel" if settings["normalize"] else "as in the files"
    rows = [
        ("Crops", f"{counts['crops']:,} of {settings['size']}x{settings['size']} pixels, {per_field}"),
        ("Fields", f"{sound:,} of {counts['fields']:,}; {counts['fields_skipped']:,} skipped"),
        ("Plates, wells", f"{len(manifest['plates'])}, {counts['wells']:,}"),
        ("Compounds", f"{chosen}; concentrations: {concentrations}"),
        ("Pixels", f"uint16, {pixels}; channels {', '.join(manifest['channels'])}"),
    ]
    return frame.section("What was cut", frame.pairs(rows))


def _outlines(out: Path, raw: Path, manifest: Mapping[str, Any], plates: Mapping[str, Plate]) -> str:
    fields, found = read_fields(raw), index_files(raw)
    rules, size = Rules(**manifest["settings"]["rules"]), manifest["settings"]["size"]
    names = list(plates)
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(PLATES_SHOWN, len(names))).astype(int))]
    parts = []
    for name in shown:
        examples = _examples([field for field in fields if field.plate == name], found)
        if not examples:
            continue
        figure, axes = plt.subplots(1, FIELDS_SHOWN, figsize=(9, 3.9), layout="constrained", squeeze=False)
        for axis in axes[0]:
            axis.set_axis_off()
        for axis, (field, images) in zip(axes[0], examples):
            if images.shape == plates[name].light.shape:
                _draw_field(axis, plates[name].even(images, 0), size, rules)
            treated = "" if field.compound == CONTROL else f" {field.concentration:g} µM"
            axis.set_title(f"{field.well}, image {field.image}: {field.compound}{treated}")
        figure.suptitle(name)
        path = save(figure, out / "figures" / f"outlines_{name}.png")
        parts.append(
            frame.figure(path, f"{name}: DAPI, evenly lit, with the outlines of kept (blue) and dropped (red) nuclei.")
        )
    which = f"{len(shown)} of {len(names)} plates, the first sound untreated and treated field of each."
    return frame.section("Nuclei found", frame.paragraph(which), *parts)


def _examples(fields: Sequence[Field], found: Mapping[tuple[str, str], Path]) -> list[tuple[Field, Any]]:
    """The first sound untreated and treated field of a plate, with their pixels."""
    examples = []
    for control in (True, False):
        for field in fields:
            if (field.compound == CONTROL) == control:
                try:
                    examples.append((field, read_field(field, paths_of(field, dict(found)))))
                    break
                except Broken:
                    continue
    return examples


def _draw_field(axis: Axes, dapi: Any, size: int, rules: Rules) -> None:
    from skimage.segmentation import find_boundaries

    nuclei = find_nuclei(dapi, size, rules)
    low, high = np.percentile(dapi, (1, 99.7))
    # The square root shows dim nuclei beside bright ones.
    grey = np.sqrt(np.clip((dapi - low) / max(high - low, 1), 0, 1))
    picture = np.repeat(grey[..., None], 3, -1)
    # Five pixels wide: less is lost where a field of 1280 pixels is shown at a third of its size.
    owner = ndimage.grey_dilation(np.where(find_boundaries(nuclei.labels, mode="inner"), nuclei.labels, 0), (5, 5))
    rim, kept = owner > 0, np.concatenate([[False], nuclei.kept])[owner]
    for where, color in ((rim & kept, _KEPT), (rim & ~kept, _DROPPED)):
        picture[where] = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    axis.imshow(picture, interpolation="antialiased")


def _maps(out: Path, manifest: Mapping[str, Any]) -> str:
    counts = {name: np.full((8, 12), np.nan) for name in manifest["plates"]}
    untreated: dict[str, list[tuple[int, int]]] = {name: [] for name in counts}
    for path in well_files(out):
        record = json.loads(path.read_text())
        well = record["well"]
        if (
            record["plate"] not in counts
            or well[:1] not in _ROWS
            or not well[1:].isdigit()
            or not 1 <= int(well[1:]) <= 12
        ):
            continue
        at = _ROWS.index(well[0]), int(well[1:]) - 1
        counts[record["plate"]][at] = len(record["rows"])
        if record["compound"] == CONTROL:
            untreated[record["plate"]].append(at)
    highest = max((float(np.nanmax(one)) for one in counts.values() if not np.isnan(one).all()), default=1.0)
    across = min(4, len(counts))
    down = -(-len(counts) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(2.4 * across + 0.8, 1.75 * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(counts) :]:
        axis.set_axis_off()
    for axis, (name, map_) in zip(axes.flat, counts.items()):
        image = axis.imshow(map_, vmin=0, vmax=max(highest, 1), cmap="viridis")
        y, x = np.array(untreated[name], int).reshape(-1, 2).T
        axis.scatter(x, y, s=7, c="white", edgecolors="black", linewidths=0.5)
        axis.set_title(name, fontsize=8)
        axis.set_xticks([0, 5, 11], ["1", "6", "12"], fontsize=7)
        axis.set_yticks([0, 7], ["A", "H"], fontsize=7)
        axis.spines[:].set(visible=True, color="#cccccc")
    figure.colorbar(image, ax=axes, label="crops", shrink=0.8, aspect=25)
    path = save(figure, out / "figures" / "wells.png")
    return frame.section(
        "Crops of each well", frame.figure(path, "Crops by well, one map a plate; a dot marks untreated wells.")
    )


def _intensities(out: Path, plates: Mapping[str, Plate], normalized: bool) -> str:
    if not plates:
        return frame.section("Intensities", frame.paragraph("No plate has a sound field."))
    kinds = ("before", "after") if normalized else ("before",)
    figure, axes = plt.subplots(len(kinds), 3, figsize=(9, 2.5 * len(kinds)), layout="constrained", squeeze=False)
    few = len(plates) <= len(COLORS)
    weeks = sorted({name.partition("_")[0] for name in plates}, key=lambda week: (len(week), week))
    for row, kind in zip(axes, kinds):
        edges = EDGES[kind]
        for c, axis in enumerate(row):
            for i, (name, plate) in enumerate(plates.items()):
                counts = (plate.before if kind == "before" else plate.after)[c]
                week = name.partition("_")[0]
                color = COLORS[i if few else weeks.index(week) % len(COLORS)]
                axis.stairs(100 * counts / counts.sum(), edges, color=color, linewidth=1, label=name if few else week)
            axis.set_yscale("log")
            axis.set_ylim(1e-3, 100)
            if kind == "before":
                axis.set_xscale("log")
            axis.set_title(f"{CHANNELS[c]}, {'in the files' if kind == 'before' else 'normalised'}")
            axis.set_xlabel("level")
        row[0].set_ylabel("% of pixels")
    entries = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels())))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=5)
    path = save(figure, out / "figures" / "intensities.png")
    words = "Pixels of the fields looked at, a line a plate" + ("." if few else ", coloured by week.")
    return frame.section("Intensities", frame.figure(path, words))


def _dropped(manifest: Mapping[str, Any]) -> str:
    counts = manifest["counts"]
    total = counts["crops"] + sum(counts["dropped"].values())
    rows = [frame.TableRow(f"dropped: {why}", [f"{n:,}", _share(n, total)]) for why, n in counts["dropped"].items()]
    rows.append(
        frame.TableRow(
            "kept", [f"{total - sum(counts['dropped'].values()):,}", _share(counts["crops"], total)], rule=True
        )
    )
    plates = [
        frame.TableRow(
            name,
            [f"{one['fields']:,}", f"{one['skipped']:,}", f"{one['crops']:,}"]
            + ["-".join(f"{v:.0f}" for v in one["percentiles"][c]) if "percentiles" in one else "" for c in CHANNELS],
        )
        for name, one in manifest["plates"].items()
    ]
    heads = ["Plate", "fields", "skipped", "crops", *(f"{c}, .1 to 99.9 %" for c in CHANNELS)]
    limit = manifest["settings"]["per_field"]
    note = (
        [frame.caption(f"At most {limit} of those kept were cut from a field; they alone are counted.")]
        if limit
        else []
    )
    return frame.section(
        "Kept and dropped", frame.table(["Nuclei", "count", "share"], rows), *note, "<br>", frame.table(heads, plates)
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _skipped(manifest: Mapping[str, Any]) -> str:
    skipped, unlisted = manifest["skipped"], manifest["files_without_row"]
    rows = [
        frame.TableRow(f"table {one['table']}, image {one['image']}", [one["reason"]])
        for one in skipped[:REASONS_LISTED]
    ]
    parts = [frame.table(["Field", "why"], rows, prose=True)] if rows else [frame.paragraph("No field was skipped.")]
    if len(skipped) > REASONS_LISTED:
        parts.append(frame.caption(f"and {len(skipped) - REASONS_LISTED:,} more, in manifest.json"))
    if unlisted:
        parts.append(
            frame.paragraph(
                f"{len(unlisted):,} files that no row names: {', '.join(unlisted[:5])}", "Not in the table."
            )
        )
    return frame.section("Skipped", *parts)
