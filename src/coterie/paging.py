"""Long sequences that are read from elsewhere, some pages of them in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, overload

T = TypeVar("T")
PAGE = 1024  # items read together
KEPT = 32  # pages in memory


class Paged(Sequence[T]):
    """``length`` items of which ``read(first, stop)`` returns a part; read again when needed.

    >>> squares = Paged(10_000, lambda first, stop: [i * i for i in range(first, stop)])
    >>> squares[5_000]
    25000000
    """

    def __init__(self, length: int, read: Callable[[int, int], Sequence[T]]) -> None:
        self._length, self._read = length, read
        self._pages: dict[int, Sequence[T]] = {}  # the least recently read first

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        number, place = divmod(index % self._length, PAGE)
        page = self._pages.get(number)
        return (self._load(number) if page is None else page)[place]

    def _load(self, number: int) -> Sequence[T]:
        first = number * PAGE
        page = self._read(first, min(first + PAGE, self._length))
        while len(self._pages) >= KEPT:
            del self._pages[next(iter(self._pages))]
        self._pages[number] = page
        return page
