"""Fields made for the tests in BBBC021's layout: nuclei at known places on a dark noisy background, written as three TIFFs."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from scipy import ndimage

COLUMNS = (
    "TableNumber", "ImageNumber", "Image_FileName_DAPI", "Image_PathName_DAPI", "Image_FileName_Tubulin",
    "Image_PathName_Tubulin", "Image_FileName_Actin", "Image_PathName_Actin", "Image_Metadata_Plate_DAPI",
    "Image_Metadata_Well_DAPI", "Replicate", "Image_Metadata_Compound", "Image_Metadata_Concentration",
)  # fmt: skip
SHAPE = (1024, 1280)
DARK, NOISE = (690.0, 900.0, 700.0), 25.0  # near the 1st percentiles and the noise of the real crops


class Cell(NamedTuple):
    """A cut-out cell: pixels [h, w, 3], where it is [h, w], and its nucleus [h, w]."""

    pixels: np.ndarray
    cell: np.ndarray
    nucleus: np.ndarray


def real_cells(folder: Path, count: int) -> list[Cell]:
    """Cells of the real crops that show one clear nucleus, in focus, in the middle and away from the others."""
    path = folder / "bbbc021" / "crops.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent: no real crops to make fields of")
    found = []
    for image in np.load(path)["images"]:
        dapi = ndimage.gaussian_filter(image[..., 0].astype(float), 1)
        middle, low = np.median(dapi[30:38, 30:38]), np.percentile(dapi, 2)
        labels, _ = ndimage.label(dapi > (low + middle) / 2)
        nucleus = ndimage.binary_fill_holes(labels == labels[34, 34]) & bool(labels[34, 34])
        rim = ndimage.gaussian_gradient_magnitude(dapi, 1)[nucleus ^ ndimage.binary_erosion(nucleus)]
        edge = np.concatenate([nucleus[0], nucleus[-1], nucleus[:, 0], nucleus[:, -1]])
        round_ = nucleus.sum() / max(1, _hull_area(nucleus))
        # A sharp rim rises by more than a tenth of the nucleus' height in a pixel; the rest says alone, whole, of usual size.
        if edge.any() or not 400 < nucleus.sum() < 2000 or rim.mean() < 0.1 * (middle - low) or round_ < 0.93:
            continue
        others = ndimage.binary_dilation((labels > 0) & ~nucleus, iterations=4)
        around = ndimage.binary_dilation(nucleus, iterations=9)
        if (others & ndimage.binary_dilation(nucleus, iterations=3)).any():
            continue
        found.append(Cell(image, around & ~others, nucleus))
        if len(found) == count:
            break
    return found


def drawn_cells(count: int, seed: int = 0) -> list[Cell]:
    """Cells drawn as smooth ellipses with a grain, of the real ones' sizes and brightness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-34:34, -34:34] + 0.0
    cells = []
    for _ in range(count):
        a, b, turn = rng.uniform(15, 20), rng.uniform(12, 15), rng.uniform(0, np.pi)
        u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        nucleus = (u / a) ** 2 + (v / b) ** 2 < 1
        grain = 1 + 0.15 * ndimage.gaussian_filter(rng.normal(size=nucleus.shape), 2) * 7
        body = ndimage.gaussian_filter(((u / a) ** 2 + (v / b) ** 2 < 2.2).astype(float), 2)
        height = rng.uniform(2000, 8000)
        dapi = ndimage.gaussian_filter(nucleus * grain, 1) * height + DARK[0]
        rest = [body * rng.uniform(3000, 9000) + dark for dark in DARK[1:]]
        cells.append(Cell(np.stack([dapi, *rest], -1).astype(np.uint16), body > 0.02, nucleus))
    return cells


class Made(NamedTuple):
    """A field: images uint16 [3, h, w] and the centroids [n, 2] (y, x) of its nuclei."""

    images: np.ndarray
    centres: np.ndarray


def field(cells: list[Cell], corners: list[tuple[int, int]], seed: int = 0, shape: tuple[int, int] = SHAPE) -> Made:
    """A dark noisy field with cells at the given corners (y, x), where a cell may hang over the border."""
    rng = np.random.default_rng(seed)
    images = np.stack([rng.normal(dark, NOISE, shape) for dark in DARK])
    centres = []
    for cell, (top, left) in zip(cells, corners, strict=True):
        y, x = np.nonzero(cell.cell)
        inside = (y + top >= 0) & (y + top < shape[0]) & (x + left >= 0) & (x + left < shape[1])
        y, x = y[inside], x[inside]
        place = (slice(None), y + top, x + left)
        images[place] = np.maximum(images[place], cell.pixels[y, x].T)
        centres.append(np.add(ndimage.center_of_mass(cell.nucleus), (top, left)))
    return Made(np.clip(np.rint(images), 0, 65535).astype(np.uint16), np.array(centres).reshape(-1, 2))


def grid(
    count: int, seed: int = 0, shape: tuple[int, int] = SHAPE, inset: int = 100, step: int = 84
) -> list[tuple[int, int]]:
    """Corners [count] of cells of 68x68, apart from each other, so far inside that windows of 196x196 fit."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.arange(inset, side - inset - 68, step) for side in shape)
    places = [(int(y), int(x)) for y in rows for x in columns]
    chosen = rng.permutation(len(places))[:count]
    return [(places[i][0] + int(rng.integers(-6, 7)), places[i][1] + int(rng.integers(-6, 7))) for i in chosen]


class Site(NamedTuple):
    """What the table says of a field."""

    plate: str
    well: str
    site: int
    compound: str
    concentration: float
    table: int = 4


def write(raw: Path, sites: list[Site], fields: list[Made], moa: list[tuple[str, float, str]]) -> list[dict[str, str]]:
    """Writes fields and tables as BBBC021 is published; gives the rows of its table."""
    rows = []
    for number, (site, made) in enumerate(zip(sites, fields, strict=True), start=1):
        folder = f"{site.plate.partition('_')[0]}/{site.plate}"
        (raw / folder).mkdir(parents=True, exist_ok=True)
        names = [f"{site.well}_s{site.site}_w{channel}{number:08X}-83F4.tif" for channel in (1, 2, 4)]
        for name, image in zip(names, made.images):
            tifffile.imwrite(raw / folder / name, image)
        places = [text for name in names for text in (name, folder)]
        values = [site.table, number, *places, site.plate, site.well, 1, site.compound, site.concentration]
        rows.append(dict(zip(COLUMNS, map(str, values))))
    with (raw / "BBBC021_v1_image.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with (raw / "BBBC021_v1_moa.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("compound", "concentration", "moa"), *moa])
    return rows


def matched(found: np.ndarray, known: np.ndarray, within: float) -> np.ndarray:
    """Pairs [n, 2] of indices into found and known that are nearest to each other and within so many pixels."""
    if not len(found) or not len(known):
        return np.empty((0, 2), int)
    distance = np.linalg.norm(found[:, None] - known[None], axis=-1)
    pairs = [
        (i, int(j))
        for i, j in enumerate(distance.argmin(1))
        if distance[:, j].argmin() == i and distance[i, j] <= within
    ]
    return np.array(pairs, int).reshape(-1, 2)


def _hull_area(mask: np.ndarray) -> float:
    from scipy.spatial import ConvexHull

    points = np.argwhere(mask)
    # The hull of pixel centres loses half a pixel all around: the perimeter's half, and a corner's.
    if len(points) < 10:
        return 1.0
    hull = ConvexHull(points)
    return hull.volume + hull.area / 2 + 1
