import os
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.errors import CoterieError
from coterie.files import replace_file


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    replace_file(tmp_path / "text", "äöü\n")
    replace_file(tmp_path / "bytes", b"\xff\0")
    assert (tmp_path / "text").read_bytes() == "äöü\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff\0"


def test_half_a_character_is_escaped_so_that_the_file_stays_utf8(tmp_path: Path) -> None:
    replace_file(tmp_path / "text", '{"text": "\ud83d"}')
    assert (tmp_path / "text").read_text(encoding="utf-8") == r'{"text": "\ud83d"}'


def test_folders_on_the_way_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file"
    replace_file(target, "one")
    replace_file(target, "two")
    assert target.read_text() == "two"
    assert os.listdir(target.parent) == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    replace_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    replace_file(pipe, "through")
    assert reader.communicate()[0] == b"through"
    assert pipe.is_fifo()


def test_a_full_device_says_so_and_stays_a_device() -> None:
    with pytest.raises(CoterieError, match="/dev/full: cannot be written: No space left on device"):
        replace_file("/dev/full", "much")
    assert Path("/dev/full").is_char_device()


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(CoterieError, match="cannot be written: Is a directory"):
        replace_file(tmp_path, "text")


def test_a_full_disk_keeps_the_old_file_and_leaves_no_scraps(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        f"from coterie.files import replace_file; replace_file({str(target)!r}, 'x' * 5000)"
    )
    full = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot be written: File too large; what was there is unchanged" in full.stderr
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
