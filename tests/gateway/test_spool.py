import resource
from pathlib import Path

import pytest

from coterie.gateway.spool import Spool, SpoolFull


def test_lines_wait_until_they_are_forgotten(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        assert not (tmp_path / "spool").exists()  # nothing waits, nothing is made
        spool.append([b"one", b"two"])
        spool.append([b"three"])
        assert [*spool.lines()] == [b"one", b"two", b"three"]
        assert spool.waiting == 3
        spool.clear()
        assert (spool.waiting, [*spool.lines()]) == (0, [])


def test_what_waits_survives_its_process_but_not_a_line_cut_short(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        spool.append([b"one", b"two"])
    with (tmp_path / "spool").open("ab") as file:
        file.write(b"thr")
    with Spool(tmp_path / "spool") as spool:
        assert spool.waiting == 2
        spool.append([b"four"])
        assert [*spool.lines()] == [b"one", b"two", b"four"]


def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool", limit=10) as spool:
        spool.append([b"1234"])
        with pytest.raises(SpoolFull, match="full with 1 entries"):
            spool.append([b"56", b"789"])
        spool.append([b"5678"])
        assert [*spool.lines()] == [b"1234", b"5678"]


def test_each_process_has_a_file_of_its_own_and_the_last_takes_over(tmp_path: Path) -> None:
    one, other = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    one.append([b"one"])
    other.append([b"other"])
    assert {p.name for p in tmp_path.iterdir()} == {"spool", "spool.1"}
    other.close()
    one.clear()
    assert [*one.lines()] == [b"other"]
    one.clear()
    assert Spool(tmp_path / "spool").waiting == 0


def test_a_place_that_cannot_be_written_is_full(tmp_path: Path) -> None:
    with pytest.raises(SpoolFull, match="No such file"):
        Spool(tmp_path / "none" / "spool").append([b"x"])


def test_a_disk_that_fills_up_costs_the_group_but_not_what_was_there(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool(tmp_path / "spool") as spool:
        spool.append([b"one"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(SpoolFull, match="disk is full"):
                spool.append([b"a longer line"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        spool.append([b"two"])
        assert [*spool.lines()] == [b"one", b"two"]
