"""ImageNet-100 (`imagenet100:DIR`): of a tree of ImageNet's images, the 100 synsets that self-supervised papers use."""

import os
from pathlib import Path

from ssljax.data import folder
from ssljax.data.source import Contents, Request, Source
from ssljax.errors import UserError

SYNSETS: tuple[str, ...] = tuple(
    line
    for line in Path(__file__).with_name("imagenet100_synsets.txt").read_text(encoding="utf-8").split("\n")
    if line and not line.startswith("#")
)

# ImageNet's own test images have no labels; its validation images are what everyone tests on.
_SPLITS = ("train", "val", "validation")
# Missing synsets that the message names before it only counts.
_NAMED = 3


def source(request: Request) -> Source:
    """The 100 classes of a tree DIR/train/SYNSET/*.JPEG, DIR/val/SYNSET/*.JPEG; DIR as for `folder:DIR`.

    The tree may hold all 1000 synsets: the other 900, and DIR/test, are not looked into. Classes are the synsets
    in alphabetical order, as of a folder that holds only them. Images differ in size: they need `image_size`.

    Raises:
      UserError: a synset without an image in train or val, or what `folder.source` raises.
    """
    images = folder.source(request._replace(channels=3), keep=_kept)  # a few of ImageNet's photographs are grey
    root = str(images.location)

    def open_() -> Contents:
        if os.path.isdir(root):
            _refuse_missing(root, request.cache_dir)
        return images.open()

    # Not the root alone, which is what tells the same tree's `folder:DIR` from other sets.
    return images._replace(location=f"{root}:imagenet100", open=open_)


def _kept(path: str) -> bool:
    split, *rest = path.split("/")
    return split in _SPLITS and (not rest or rest[0] in SYNSETS)


def _refuse_missing(root: str, cache_dir: str) -> None:
    paths = [path.split("/") for path in folder.images_under(root, _kept, cache_dir)]
    for splits in (_SPLITS[:1], _SPLITS[1:]):
        found = {parts[1] for parts in paths if parts[0] in splits and len(parts) > 2}
        missing = [synset for synset in SYNSETS if synset not in found]
        if missing:
            named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
            raise UserError(
                f"{root}: {len(missing)} of ImageNet-100's {len(SYNSETS)} synsets have no image in {splits[0]} "
                f"({named}); expected {splits[0]}/SYNSET/*.JPEG for each"
            )
