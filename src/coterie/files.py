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
    scratch = ""
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, target)
    except OSError as error:
        if scratch:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written: {reason}; what was there is unchanged"
        raise CoterieError(message) from None
