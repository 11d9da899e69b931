"""The transforms and the transform sets, each with pictures of what it does to a real image."""

import hashlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage import data as pictures_of_skimage
from sklearn.datasets import load_digits

from generator.text import prose, table
from ssljax import augment

_SIDE, _GAP, _DRAWS = 96, 4, 5
# Each program runs once, so that compiling is what costs.
_ONCE = (
    {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    if jax.default_backend() == "cpu"
    else {}
)


def pages(target: Path) -> dict[str, str]:
    """The page of the transforms and that of the sets; pictures are written beside, anew where transforms have changed."""
    folder = target / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(__file__), *sorted(Path(augment.__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    made = folder / "made-from.txt"
    fresh = not made.exists() or made.read_text() != digest
    pages = {"transforms": _transforms(folder, fresh), "sets": _sets(folder, fresh)}
    made.write_text(digest)
    return pages


def _transforms(folder: Path, fresh: bool) -> str:
    lines = [
        "# Transforms",
        "",
        "First the image, then five draws at the default values with probability 1. Every number below is a *traced* value: it",
        "may be swept (`--sweep=rotation.degrees=0:180:7`), set (`--set=hue.strength=0.2`), or given in a definition",
        '(`--transforms="rotation(degrees=45)+horizontal_flip"`). What a channel count or an option means is in the',
        "[reference](api/augment.md).",
        "",
    ]
    original = _cat()
    for name, factory in augment.TRANSFORMS.items():
        default = factory()
        if fresh:
            made = factory(probability=1.0) if "probability" in default.defaults else default
            _write(folder / f"{name}.png", [[original, *_distinct(_draws((made,), original))]])
        rows = [(f"`{name}.{p}`", f"{v:g}", str(default.ranges[p])) for p, v in default.defaults.items()]
        channels = f" Images of {' or '.join(map(str, default.channels))} channels." if _few(default.channels) else ""
        lines += [
            f"## {name}",
            "",
            f"{_summary(factory.__doc__)}{channels}",
            "",
            f"![{name}: the image and draws](pictures/{name}.png){{.draws}}",
            "",
            table(("swept name", "default", "range"), rows),
            "",
        ]
    return "\n".join(lines)


def _sets(folder: Path, fresh: bool) -> str:
    lines = [
        "# Transform sets",
        "",
        "A set is an ordered composition, by name (`--transforms=mnist_first`). A row of draws is a view; the sets of the papers'",
        "digits are shown on a digit of 8x8 pixels, as the first study sees it. Paper 1 is *No Free Lunch in Self Supervised",
        "Representation Learning*, paper 2 its journal sequel on microscopy images; solo is solo-learn.",
        "",
    ]
    for name, chosen in augment.SETS.items():
        if fresh:
            original = _digit() if name.startswith("mnist") else _cat()
            first, second = chosen.views
            views = [first, *([second] if second is not first else []), *([chosen.local] if chosen.local else [])]
            _write(folder / f"set_{name}.png", [[original, *_distinct(_draws(view, original))] for view in views])
        lines += [f"## {name}", "", prose(chosen.description), ""]
        lines += [f"![{name}: the image and draws of each view](pictures/set_{name}.png){{.draws}}", ""]
        lines += ["```", *_definition(chosen), "```", ""]
    return "\n".join(lines)


def _definition(chosen: augment.TransformSet) -> list[str]:
    try:
        text = augment.to_text(chosen._replace(local=None))
    except ValueError:
        return [chosen.name]
    return [part.strip() for part in text.replace("|", "\n|\n").replace(")+", ")\n+ ").split("\n")]


def _few(channels: tuple[int, ...] | None) -> bool:
    return channels is not None and len(channels) < 4


def _summary(doc: str | None) -> str:
    """The docstring up to its sections."""
    text = inspect.cleandoc(doc or "").split("\n\nArgs:")[0]
    return prose(text)


def _draws(view: augment.View, image: np.ndarray) -> list[np.ndarray]:
    hyper = augment.hyper_of_views({"view": view})["view"]
    batch = jnp.repeat(jnp.asarray(image)[None], _DRAWS, axis=0)

    def draw(key: jax.Array, batch: jax.Array) -> jax.Array:
        return augment.apply_view(view, key, batch, hyper, image_size=image.shape[0])

    return list(np.asarray(jax.jit(draw, compiler_options=_ONCE)(jax.random.key(0), batch)))


def _distinct(images: list[np.ndarray]) -> list[np.ndarray]:
    """One of those that are alike: a transform without choices has a single picture."""
    return images[:1] if all(np.array_equal(image, images[0]) for image in images) else images


def _write(path: Path, rows: list[list[np.ndarray]]) -> None:
    sheet = np.full(
        (len(rows) * (_SIDE + _GAP) - _GAP, (_DRAWS + 1) * (_SIDE + _GAP) - _GAP, 4), 0, np.uint8
    )  # transparent: light and dark pages
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            shown = np.clip(
                np.repeat(np.repeat(image, _SIDE // len(image), 0), _SIDE // len(image), 1) * 255 + 0.5, 0, 255
            )
            y, x = i * (_SIDE + _GAP), j * (_SIDE + _GAP)
            sheet[y : y + _SIDE, x : x + _SIDE, :3] = (
                shown if shown.shape[-1] == 3 else np.repeat(shown[..., :1], 3, -1)
            )
            sheet[y : y + _SIDE, x : x + _SIDE, 3] = 255
    Image.fromarray(sheet).save(path, optimize=True)


def _cat() -> np.ndarray:
    """The cat of scikit-image's data (CC0, by Stefan van der Walt), its face, [96, 96, 3] in [0, 1]."""
    face = Image.fromarray(pictures_of_skimage.chelsea()[:300, 60:360])
    return np.asarray(face.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float32) / 255


def _digit() -> np.ndarray:
    """The three of scikit-learn's digits, at the 16 pixels of the first study's network, [16, 16, 1] in [0, 1]."""
    three = Image.fromarray((load_digits().images[3] * (255 / 16)).astype(np.uint8))  # dots of a 4x4 cell: 0 to 16
    return np.asarray(three.resize((16, 16), Image.Resampling.BILINEAR), np.float32)[..., None] / 255
