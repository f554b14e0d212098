"""Files that are replaced in one step or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from coterie.errors import CoterieError


class Closing(ABC):
    """What is closed when its ``with`` block ends, however it ends."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def replace_file(path: str | Path, content: str | bytes | Iterable[bytes]) -> None:
    """Put ``content``, whole or in parts, in place of the file in one step; text as UTF-8.

    What was there stays until all is on disk; a link stays a link, and devices and pipes are
    written to. Raises CoterieError where writing fails, for example because the disk is full.
    """
    target = Path(os.path.realpath(path))
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    parts = [content] if isinstance(content, bytes) else content
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                file.writelines(parts)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(target, parts)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{path}: cannot be written: {reason}; what was there is unchanged"
        raise CoterieError(message) from None


def replace_bytes(target: Path, parts: Iterable[bytes]) -> None:
    """Replace one regular file, on disk before and after the step; raises OSError."""
    handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
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
