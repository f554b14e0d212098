from pathlib import Path

import pytest

import coterie
from coterie.errors import ExpertError
from coterie.experts.gguf import read_header

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"


def test_the_header_says_what_the_model_was_trained_for() -> None:
    header = read_header(ADD)
    assert (header.architecture, header.context_length) == ("llama", 256)
    assert header.tensors == 29


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ExpertError, match=r"nowhere\.gguf: there is no such file; check the path"):
        read_header("nowhere.gguf")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match="cannot be read"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 bytes are too few"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (b"GGUF\x01\0\0\0" + bytes(100), "GGUF version 1 is not supported"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 100, "cut short or damaged"),
    ],
)
def test_what_is_not_a_gguf_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(ExpertError, match=rf"odd\.gguf: .*{complaint}.*download the GGUF file"):
        read_header(path)


@pytest.mark.parametrize(("kept", "complaint"), [(0.5, "cut off"), (0.004, "cut short or damaged")])
def test_a_truncated_download_is_refused(tmp_path: Path, kept: float, complaint: str) -> None:
    path = tmp_path / "part.gguf"
    data = ADD.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ExpertError, match=complaint):
        read_header(path)


def test_a_file_that_was_repaired_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "add.gguf"
    path.write_bytes(b"half a download, and it is not even that")
    with pytest.raises(ExpertError):
        read_header(path)
    path.write_bytes(ADD.read_bytes())
    assert read_header(path).architecture == "llama"
