import pytest

from coterie.paging import KEPT, PAGE, Paged


def test_items_are_read_a_page_at_a_time_and_kept() -> None:
    reads: list[tuple[int, int]] = []

    def read(first: int, stop: int) -> list[int]:
        reads.append((first, stop))
        return list(range(first, stop))

    items = Paged(2 * PAGE + 5, read)
    assert [items[0], items[PAGE], items[-1], items[1]] == [0, PAGE, 2 * PAGE + 4, 1]
    assert reads == [(0, PAGE), (PAGE, 2 * PAGE), (2 * PAGE, 2 * PAGE + 5)]
    assert items[PAGE - 1 : PAGE + 1] == [PAGE - 1, PAGE]


def test_no_more_pages_are_kept_than_there_is_room_for() -> None:
    items = Paged(PAGE * 100, lambda first, stop: range(first, stop))
    for number in range(100):
        assert items[number * PAGE] == number * PAGE
    assert len(items._pages) == KEPT


def test_an_index_beyond_the_end_is_refused() -> None:
    with pytest.raises(IndexError):
        Paged(3, lambda first, stop: range(first, stop))[3]
