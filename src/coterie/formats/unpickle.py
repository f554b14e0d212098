"""Reads pickles of numpy arrays in plain containers, and nothing else.

Three fences. The opcodes are walked first: one that is not needed for such data, or that claims
more bytes or memory than the file has, is refused. Symbols are looked up in a list of exact
(module, name) pairs; any other is refused by its name. And even those never reach numpy: each
stands for a small function here that checks shape, type and bytes and builds the array with
``frombuffer``, since numpy's own ``__setstate__`` trusts what it is given.

Sources: the pickle protocols as ``pickletools`` documents them; the reduce values of numpy 1.26 to
2.4 (``ndarray.__reduce__``, ``ndarray.__reduce_ex__(5)``, ``dtype.__reduce__``).
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError

MOST_BYTES = 1 << 33  # 8 GiB; RouterEval's largest file is below
MOST_OPCODES = 50_000_000
OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()  # noqa: SIM905 (a table reads better as text)
)
KINDS = "biufU"
PLAIN = (str, int, float, bool)
DEEPEST = 100
PANDAS = (
    "it is a pandas data frame; in an environment with pandas, "
    "pandas.read_pickle(name).to_parquet(other_name) writes what can be read here"
)
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class Refused(ValueError):
    """The pickle asks for something that plain data does not need."""


def load(path: Path) -> Any:
    """The value in the pickle; raises InputError that names what it refused."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"is larger than {MOST_BYTES >> 30} GiB", path=path)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=path) from None
    try:
        check_opcodes(content)
        return Finish(len(content))(_Unpickler(io.BytesIO(content)).load())
    except Refused as error:
        raise InputError(str(error), path=path) from None
    except BROKEN as error:
        reason = str(error)[:100] or type(error).__name__
        raise InputError(f"not a whole pickle of plain data: {reason}", path=path) from None


def check_opcodes(content: bytes) -> None:
    """Walk the opcodes without running them; raises Refused or ValueError."""
    for number, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        if opcode.name not in OPCODES:
            raise Refused(f"byte {position}: the pickle opcode {opcode.name} is refused")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > number:
            raise Refused(f"byte {position}: memo number {argument} is refused")
        if number > MOST_OPCODES:
            raise Refused(f"more than {MOST_OPCODES:,} opcodes are refused")


class _Unpickler(pickle.Unpickler):
    """Looks symbols up in ``SYMBOLS`` alone."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for an allowed symbol; raises Refused for any other."""
        if (module, name) in SYMBOLS:
            return SYMBOLS[module, name]
        hint = f"; {PANDAS}" if module.split(".")[0] == "pandas" else ""
        raise Refused(f"the pickle asks for {module}.{name}, which is refused{hint}")

    def persistent_load(self, pid: Any) -> Any:
        """Refused: data has no such thing."""
        raise Refused(f"the pickle asks for the outside object {str(pid)[:60]!r}, which is refused")


class Kind:
    """Stands for ``numpy.dtype`` while loading: an element type, fixed size or ``object``."""

    def __init__(self, code: object = "", align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or len(code) > 12 or not code or code[0] not in KINDS + "O":
            raise Refused(f"the array type {str(code)[:40]!r} is refused")
        if not code[1:].isdecimal():
            raise Refused(f"the array type {code!r} is refused")
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        """Only the byte order counts; anything structured is refused."""
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise Refused("a structured array type is refused")
        if state[1] not in ("<", ">", "|", "="):
            raise Refused("an array type without a byte order is refused")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """The numpy type; raises TypeError for one that numpy does not have."""
        return np.dtype(object) if self.code[0] == "O" else np.dtype(self.order + self.code)


class Array:
    """Stands for ``numpy.ndarray`` while loading; what it holds is built afterwards."""

    def __init__(self, state: tuple[object, ...] | None = None) -> None:
        self.state = state

    def __setstate__(self, state: object) -> None:
        """Keep (shape, type, order, bytes or list) out of numpy's state."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array's state is not what numpy writes")
        _, shape, kind, fortran, data = state
        self.state = (data, kind, shape, "F" if fortran else "C")


def built(data: object, kind: object, shape: object, order: object) -> NDArray[Any]:
    """An array over the bytes, or of the list's elements; raises Refused where sizes disagree."""
    if not isinstance(kind, Kind) or order not in ("C", "F"):
        raise Refused("an array without a type is refused")
    size = math.prod(sides(shape))
    dtype = kind.dtype()
    layout: Any = order
    if dtype.hasobject:
        flat = _objects(data, size)
    elif isinstance(data, bytes | bytearray) and len(data) == size * dtype.itemsize:
        flat = np.frombuffer(data, dtype) if size and data else np.empty(size, dtype)
    else:
        raise Refused("an array whose bytes do not fit its shape is refused")
    return flat.reshape(sides(shape), order=layout)


def _objects(data: object, size: int) -> NDArray[Any]:
    if not isinstance(data, list) or len(data) != size:
        raise Refused("an array of objects without a list of them is refused")
    if not all(value is None or type(value) in PLAIN for value in data):
        raise Refused("an array of objects other than texts and numbers is refused")
    values = np.empty(size, object)
    values[:] = data
    return values


def sides(shape: object) -> tuple[int, ...]:
    """The shape as non-negative integers, at most 8 of them."""
    sized = isinstance(shape, tuple) and len(shape) <= 8
    if not sized or not all(type(side) is int and side >= 0 for side in shape):  # type: ignore[attr-defined]
        raise Refused(f"the array shape {str(shape)[:40]} is refused")
    return shape  # type: ignore[return-value]


def reconstruct(base: object, shape: object, code: object) -> Array:
    """What ``_reconstruct`` makes: an array still without content."""
    if base is not Array:
        raise Refused("an array of a class other than numpy.ndarray is refused")
    return Array()


def scalar(kind: object, data: object) -> Any:
    """One number out of its bytes."""
    return built(data, kind, (), "C").item()


def from_buffer(data: object, kind: object, shape: object, order: object) -> Array:
    """What protocol 5 makes of an array."""
    return Array((data, kind, shape, order))


class Finish:
    """Puts arrays in place of their stand-ins, each once, and counts what it builds."""

    def __init__(self, budget: int) -> None:
        self.left = budget
        self.done: dict[int, Any] = {}

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The value with every stand-in replaced; raises Refused for anything but plain data."""
        if value is None or type(value) in PLAIN:
            return value
        if depth > DEEPEST:
            raise Refused(f"containers nested more than {DEEPEST} deep are refused")
        if id(value) not in self.done:
            self.done[id(value)] = self._built(value, depth + 1)
        return self.done[id(value)]

    def _built(self, value: Any, depth: int) -> Any:
        if isinstance(value, Array) and value.state is not None:
            return self._array(*value.state)
        if type(value) is dict:
            if not all(type(key) in (str, int) for key in value):
                raise Refused("a dict with keys other than texts and whole numbers is refused")
            return {key: self(inner, depth) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return [self(inner, depth) for inner in value]
        raise Refused("a symbol where data belongs is refused")

    def _array(self, data: object, kind: object, shape: object, order: object) -> NDArray[Any]:
        self.left -= len(data) if isinstance(data, list) else 0
        if self.left < 0:
            raise Refused("arrays of more objects than the file has bytes are refused")
        return built(data, kind, shape, order)


_CORES = ("numpy.core", "numpy._core")
SYMBOLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    **{(f"{core}.multiarray", "_reconstruct"): reconstruct for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): from_buffer for core in _CORES},
}
