"""Just enough of the GGUF format to refuse a damaged file and to know what a model was trained for.

Layout: magic, version, counts, key-value pairs, tensor descriptions, padding, tensor data.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from coterie.errors import ExpertError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9

Scalar = int | float | bool | str | None


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says about its model; ``context_length`` is 0 where it does not say."""

    architecture: str
    context_length: int
    tensors: int


def read_header(path: str | Path) -> Header:
    """The header of the GGUF file at ``path``; raises ExpertError naming the file and a remedy."""
    path = Path(path)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise ExpertError(f"{path}: there is no such file; check the path of the weights") from None
    except OSError as error:
        raise ExpertError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ExpertError(f"{str(path)!r}: no path of a file ({error})") from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, modified: int, size: int) -> Header:
    """Cached by time of change and size, because experts are loaded again and again."""
    if size < 24:
        raise _damaged(path, f"{size} bytes are too few for a GGUF file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except OSError as error:
        raise ExpertError(f"{path}: cannot be read ({error.strerror})") from None
    except (struct.error, KeyError, ValueError, TypeError, OverflowError, RecursionError):
        raise _damaged(path, "its header is cut short or damaged") from None


def _damaged(path: Path, why: str) -> ExpertError:
    return ExpertError(f"{path}: {why}; copy or download the GGUF file again")


class _Reader:
    """Reads a mapped file from its start; every read past the end raises struct.error."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def header(self) -> Header:
        if (magic := self.data[:4]) != MAGIC:
            raise _damaged(self.path, f"not a GGUF file (it starts with {magic!r}, not {MAGIC!r})")
        self.at = 4
        if (version := self.number("I")) not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise _damaged(self.path, f"GGUF version {version} is not supported ({known} are)")
        tensors, pairs = self.number("Q"), self.number("Q")
        values = dict(self.pair() for _ in range(pairs))
        self.check_tensors(tensors, int(values.get("general.alignment") or 32))
        architecture = str(values.get("general.architecture"))
        context = int(values.get(f"{architecture}.context_length") or 0)
        return Header(architecture, context, tensors)

    def check_tensors(self, count: int, alignment: int) -> None:
        """Every tensor has to begin inside the file; llama.cpp checks where the last one ends."""
        starts = [self.tensor() for _ in range(count)]
        data = -(-self.at // alignment) * alignment
        if starts and data + max(starts) >= len(self.data):
            wanted = data + max(starts)
            raise _damaged(self.path, f"cut off: {len(self.data)} bytes of more than {wanted}")

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value  # type: ignore[no-any-return]

    def text(self) -> str:
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def pair(self) -> tuple[str, Scalar]:
        return self.text(), self.value(self.number("I"))

    def value(self, kind: int) -> Scalar:
        """A scalar or string; arrays (token tables) are stepped over and come back as None."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS:
            self.at += count * struct.calcsize("<" + _SCALARS[inner])
        else:
            for _ in range(count):
                self.value(inner)
        return None

    def tensor(self) -> int:
        """Step over one tensor description; returns its offset in the data section."""
        self.text()
        dimensions = self.number("I")
        self.at += 8 * dimensions + 4  # their sizes, and the type
        return self.number("Q")
