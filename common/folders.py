"""Folders are written whole or not at all, as files are: a temporary sibling, then a rename."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import locks
from common.errors import UserError


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`; when the block ends without an error it becomes `path`.

    `path` may be an empty folder; it is never one with something in it.

    Raises:
        UserError: `path` has something in it, or the disk cannot be written to or is full.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already. Choose another place, or move it away first.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.temporary(path.parent, path.name, lambda start: tempfile.mkdtemp(prefix=start, dir=path.parent)) as (
            temporary
        ):
            inner = temporary / path.name  # made by mkdir, so that it has the usual permissions; mkdtemp's are private
            inner.mkdir()
            yield inner
            if path.is_dir():
                path.rmdir()  # empty; where it is not any more, the rename must fail
            inner.rename(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Expected a place that can be written to, with free "
            "space; mend it or choose another, and start the same command again."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
