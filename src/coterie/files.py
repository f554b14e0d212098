"""Files that are replaced in one step or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from coterie.errors import CoterieError


def replace_file(path: str | Path, content: str | bytes) -> None:
    """Put ``content`` in place of the file in one step; text is written as UTF-8.

    What was there stays until all is on disk. Raises CoterieError where that fails, for example
    because the disk is full.
    """
    target = Path(path)
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    scratch = ""
    try:
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
        message = f"{target}: cannot be written: {reason}; what was there is unchanged"
        raise CoterieError(message) from None
