"""tfds' builders of sets: by name, prepared where they are not, with one line for whatever goes wrong on the way.

Preparing a set that is not on disk may need the network and, for some sets, TensorFlow.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ssljax.data.source import Request
from ssljax.errors import UserError

_log = logging.getLogger(__name__)

# Of requests, by name so that it need not be imported.
_NETWORK_ERRORS = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError")

# A tfds name: set, then /configuration, then :version.
_NAME = re.compile(r"\w+(/[\w.\-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")

# Attempts per download instead of tfds' ten, which keep a machine without network waiting for minutes.
_RETRIES = 4


def place_of(request: Request) -> tuple[str, str, str]:
    """The set's name, the folder of all sets, and the set's own."""
    name = request.name.lower()
    default = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    root = os.path.abspath(os.path.expanduser(request.data_dir or default))
    # Every version of the set: a new one beside the old one may change what the bare name means.
    return name, root, os.path.join(root, name.partition(":")[0].partition("/")[0])


@contextlib.contextmanager
def constructed(request: Request) -> Iterator[Any]:
    """tfds' builder of a set, prepared or not, while tfds is kept quiet.

    Raises:
      UserError: an unknown name, version or configuration.
    """
    name, root, _ = place_of(request)
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import registered
    except ImportError as error:
        raise UserError(f"data set '{request.name}': needs tensorflow-datasets ({error})") from error
    if not _NAME.fullmatch(name):
        raise _unknown(request.name, [], root)
    with _quiet():
        try:
            builder = tfds.builder(name, data_dir=root)
        except registered.DatasetNotFoundError as error:
            raise _unknown(request.name, registered.list_imported_builders(), root) from error
        except Exception as error:  # an unknown version or config: tfds asserts
            raise UserError(f"data set '{request.name}': {first_line(error)}") from error
        yield builder


@contextlib.contextmanager
def opened(request: Request) -> Iterator[Any]:
    """The builder of a set that is on disk, prepared now if it was not, while tfds is kept quiet."""
    with constructed(request) as builder:
        if not builder.is_prepared():
            _prepare(builder, request)
        yield builder


def _prepare(builder: Any, request: Request) -> None:
    """Downloads and prepares a set, or says in one line why it cannot."""
    _, _, folder = place_of(request)
    looked = f"data set '{request.name}': not prepared in {builder.data_path}"
    if os.path.isdir(folder):
        looked += f" (that folder's versions: {', '.join(sorted(os.listdir(folder))) or 'none'})"
    if request.manual_dir and not os.path.isdir(os.path.expanduser(request.manual_dir)):
        raise UserError(f"{looked}; manual_dir {request.manual_dir}: no such folder")
    _log.info("%s; preparing it, downloads included", looked)
    try:
        _download(builder, request.manual_dir)
    except Exception as error:  # the network, a checksum, a full disk, a missing module: each its own type
        raise UserError(f"{looked}; {_reason(error, request)}") from error


def _download(builder: Any, manual_dir: str) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    config = tfds.download.DownloadConfig(manual_dir=os.path.expanduser(manual_dir) or None)
    module = vars(downloader)  # tfds has no option for the retries
    before = module.get("MAX_RETRIES")
    module["MAX_RETRIES"] = _RETRIES
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    finally:
        module["MAX_RETRIES"] = before


def _reason(error: BaseException, request: Request) -> str:
    """Why preparing failed and what helps, from the error or any that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    missing = next((e.name for e in chain if isinstance(e, ModuleNotFoundError) and e.name), None)
    if missing and missing.split(".")[0] == "tensorflow":
        return "preparing it needs TensorFlow: pip install ssljax[prepare]"
    if missing:
        return f"preparing it needs the module {missing}: pip install {missing}"
    if any(type(e).__name__ in _NETWORK_ERRORS for e in chain):
        return "downloading failed, no network? Give manual_dir with its files, or a prepared data_dir"
    return f"preparing it failed: {first_line(error)}"


def _unknown(name: str, known: Sequence[str], root: str) -> UserError:
    bare = name.lower().partition(":")[0]
    near = difflib.get_close_matches(bare, ["aircraft", "digits", "folder", "npz", *known], n=1)
    known = "digits, folder:DIR, imagenet100:DIR, aircraft:DIR, npz:FILE or a tfds set's name"
    hint = f"did you mean '{near[0]}'?" if near else f"expected {known}"
    path = os.path.expanduser(name)
    if os.path.exists(path):
        hint = f"did you mean '{'folder' if os.path.isdir(path) else 'npz'}:{name}'?"
    return UserError(f"unknown data set '{name}' (also looked in {root}); {hint}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, without tfds' preamble; the error's type where none does."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"^Failed to construct dataset .*?\}\": ", "", line).rstrip(": ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tfds' prints and warnings; its download bars stay where someone watches."""
    import tensorflow_datasets as tfds

    disabled = logging.root.manager.disable
    watched = sys.stderr.isatty()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        if not watched:
            tfds.disable_progress_bar()
        try:
            yield
        finally:
            logging.disable(disabled)
            if not watched:
                tfds.enable_progress_bar()
