"""A bounded file of lines that wait for a store which cannot be reached."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from coterie.errors import CoterieError
from coterie.files import Closing

LIMIT = 256 * 1024 * 1024  # bytes
SIBLINGS = 64  # processes that may spool beside each other


class SpoolFull(CoterieError):
    """The spool holds as much as it may, or its disk is full."""


class Spool(Closing):
    """Lines on disk, appended in groups and forgotten once the store has them.

    A file belongs to one process at a time, a lock says so: while another has ``path``, it is
    ``path.1``, ``path.2`` ... None is made before the first line. A line that a kill or a full disk
    cut short is dropped, since nobody was told that it is safe.
    """

    def __init__(self, path: str | Path, limit: int = LIMIT) -> None:
        self.path, self.limit = str(path), limit
        self.waiting = self._size = 0
        self._file: int | None = None
        if any(_sized(name) for name in _names(self.path)):
            self._claim(left=True)

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines; they are on disk on return. Raises SpoolFull, and adds none, where not."""
        file = self._claim() if self._file is None else self._file
        block = b"".join(line + b"\n" for line in lines)
        if self._size + len(block) > self.limit:
            raise SpoolFull(f"{self.path}: full with {self.waiting:,} entries; start the store")
        try:
            written = os.pwrite(file, block, self._size)
            os.fsync(file)
        except OSError as error:
            written, reason = 0, error.strerror or str(error)
        else:
            reason = "the disk is full"
        if written < len(block):
            os.ftruncate(file, self._size)
            raise SpoolFull(f"{self.path}: cannot be written: {reason}")
        self._size += len(block)
        self.waiting += len(lines)

    def lines(self) -> Iterator[bytes]:
        """Everything that waits, the oldest first."""
        if self._file is not None:
            with open(os.dup(self._file), "rb") as file:
                file.seek(0)
                yield from (line.removesuffix(b"\n") for line in file)

    def clear(self) -> None:
        """Forget what waits, and take over what an ended process left, if anything."""
        if self._file is None:
            return
        os.ftruncate(self._file, 0)
        os.fsync(self._file)
        self.close()
        if any(_sized(name) for name in _names(self.path)):
            self._claim(left=True)

    def reject(self, line: bytes) -> None:
        """Put aside, in ``path.rejected``, a line that the store refuses for what it says."""
        with contextlib.suppress(OSError), open(f"{self.path}.rejected", "ab") as file:
            file.write(line + b"\n")

    def close(self) -> None:
        """Let another process have the file; what waits stays in it."""
        if self._file is not None:
            os.close(self._file)
        self._file, self.waiting, self._size = None, 0, 0

    def _claim(self, left: bool = False) -> int:
        """Lock the first free file, or the first free one with something left in it, if any."""
        for name in _names(self.path):
            if left and not _sized(name):
                continue
            try:
                file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise SpoolFull(f"{name}: cannot be written: {error.strerror}") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            return self._take(file)
        if left:
            return -1
        raise SpoolFull(f"{self.path}: {SIBLINGS} other processes spool here; choose another file")

    def _take(self, file: int) -> int:
        self._file, self._size, self.waiting = file, 0, 0
        with open(os.dup(file), "rb") as content:
            for line in content:
                if line.endswith(b"\n"):
                    self._size += len(line)
                    self.waiting += 1
        os.ftruncate(file, self._size)
        return file


def _names(path: str) -> Iterator[str]:
    yield path
    for number in range(1, SIBLINGS):
        yield f"{path}.{number}"


def _sized(name: str) -> bool:
    try:
        return os.stat(name).st_size > 0
    except OSError:
        return False
