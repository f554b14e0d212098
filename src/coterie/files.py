"""Files that are replaced in one step or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from coterie.errors import CoterieError


def replace_file(path: str | Path, content: str | bytes) -> None:
    """Put ``content`` in place of the file in one step; text is written as UTF-8.

    What was there stays until all is on disk; a link stays a link, and devices and pipes are
    written to. Raises CoterieError where writing fails, for example because the disk is full.
    """
    target = Path(os.path.realpath(path))
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(target, data)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written: {reason}; what was there is unchanged"
        raise CoterieError(message) from None


def replace_bytes(target: Path, data: bytes) -> None:
    """Replace one regular file, on disk before and after the step; raises OSError."""
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
        _sync(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise


def _sync(folder: Path) -> None:
    """Make renames inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
