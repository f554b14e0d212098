"""Weights in host memory: files that the operating system keeps in its page cache.

The cache belongs to the system, which may drop a file at any time; what is done here is to read a
file into it ahead of a load, and to let go of a file that nobody in this process uses any more.
"""

from __future__ import annotations

import os
import weakref
from collections import defaultdict
from pathlib import Path
from threading import Event

CHUNK = 1 << 22  # bytes read at a time


def read_through(path: Path, stop: Event) -> None:
    """Read the whole file, so that it is in the page cache; ``stop``, once set, ends it early."""
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and file.readinto(buffer):
            pass


def drop(path: Path) -> None:
    """Ask the system to forget the file; nothing happens where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):  # macOS, Windows
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError):
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


class Files:
    """Who in this process wants which file in memory; the last one to let go drops it."""

    def __init__(self) -> None:
        self._users: defaultdict[Path, weakref.WeakSet[object]] = defaultdict(weakref.WeakSet)

    def hold(self, path: Path, user: object) -> None:
        """``user`` wants ``path`` in memory."""
        self._users[path].add(user)

    def leave(self, path: Path, user: object) -> bool:
        """``user`` does not any more; True if it did and nobody else does."""
        users = self._users[path]
        held = user in users
        users.discard(user)
        if not users:
            del self._users[path]
        return held and not users


FILES = Files()
