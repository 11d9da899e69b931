"""Files that appear whole or not at all, so that a reader never meets half of one."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], mode: str = "w", *, encoding: str | None = None, newline: str | None = None
) -> Iterator[IO[Any]]:
    """Opens a temporary file beside `path` that takes its place when the context ends; after an error `path` is as before.

    The content is on the disk before the name points to it. The permissions are those of any new file.

    Args:
      path: in a folder that exists; an existing file is replaced.
      mode: "w" or "wb".
      encoding: as for `open`.
      newline: as for `open`.

    Raises:
      OSError: the file cannot be written.
    """
    target = Path(path)
    # Not tempfile.mkstemp: its files are private, whatever the umask allows.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        # A file's name need not be text in UTF-8; where it is written down, what is not is escaped.
        errors = None if "b" in mode else "backslashreplace"
        with temporary.open(mode.replace("w", "x"), encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        raise


# As `replacing` names them.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")


def forget_unfinished(folder: str | os.PathLike[str]) -> None:
    """Removes what killed processes left of files that they were writing in a folder and in those directly below it.

    Args:
      folder: nobody else writes there now.
    """
    for pattern in (".*", "*/.*"):
        for path in Path(folder).glob(pattern):
            if _UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink()
