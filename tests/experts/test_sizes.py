import pytest

from coterie.errors import InputError
from coterie.experts.sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("7 kb", 7000), ("1.5KiB", 1536), ("2 TB", 2 * 10**12), (" 3 MiB ", 3 * 2**20)],
)
def test_sizes_are_read_with_either_kind_of_prefix(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "size", [0, -1, True, 1.5, None, "", "GB", "4 G", "0 GB", "-1 GB", "4 GB 2", "1e9", [], 2**63]
)
def test_what_is_no_size_is_refused_with_an_example(size: object) -> None:
    with pytest.raises(InputError, match=r"'host_memory': expected bytes above 0 .*\"14 GB\""):
        parse_bytes(size, "host_memory")
