import hashlib
import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coterie.artifacts import HEADER, read_artifact, write_artifact
from coterie.errors import ArtifactError

ARRAYS: dict[str, NDArray[Any]] = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "names": np.array(["a", "é"]),
    "empty": np.zeros((0, 4), dtype=np.int8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "router", "router", {"k": 5}, ARRAYS)
    return tmp_path / "router"


def edit_header(folder: Path, **changes: object) -> None:
    path = folder / HEADER
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def arrays_file(folder: Path) -> Path:
    (path,) = folder.glob("arrays-*.npz")
    return path


def replace_arrays(folder: Path, data: bytes) -> None:
    """As an attacker would: the header's hash and name fit the new bytes."""
    contents = json.loads((folder / HEADER).read_text())["arrays"]["contents"]
    digest = hashlib.sha256(data).hexdigest()
    arrays_file(folder).unlink()
    (folder / f"arrays-{digest[:12]}.npz").write_bytes(data)
    edit_header(folder, arrays={"sha256": digest, "contents": contents})


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does, by the operating system's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_is_read_back(folder: Path) -> None:
    params, arrays = read_artifact(folder, "router")
    assert params == {"k": 5}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_an_artifact_without_arrays_is_fine(tmp_path: Path) -> None:
    write_artifact(tmp_path, "encoder", {"sha256": "00"}, {})
    assert read_artifact(tmp_path, "encoder") == ({"sha256": "00"}, {})


def test_equal_contents_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "again", "router", {"k": 5}, ARRAYS)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_writing_again_replaces_all_that_was_there(folder: Path) -> None:
    write_artifact(folder, "router", {"k": 7}, {"weights": np.ones(3)})
    params, arrays = read_artifact(folder, "router")
    assert (params, list(arrays)) == ({"k": 7}, ["weights"])
    assert len(list(folder.iterdir())) == 2


def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    (folder / "arrays-mine.npz").write_text("mine")
    write_artifact(folder, "router", {}, {})
    assert (folder / "arrays-mine.npz").read_text() == "mine"


@pytest.mark.parametrize("limit", [0, 600, 20_000])
def test_a_full_disk_leaves_the_old_artifact_untouched(folder: Path, limit: int) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    large = {"weights": np.zeros(10_000)}
    with (
        files_no_larger_than(limit),
        pytest.raises(ArtifactError, match=r"router: cannot write this router: .*unchanged"),
    ):
        write_artifact(folder, "router", {"k": 9}, large)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_header_that_does_not_fit_leaves_the_old_artifact_untouched(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    params = {"names": ["x" * 100] * 100}
    with files_no_larger_than(2_000), pytest.raises(ArtifactError, match="unchanged"):
        write_artifact(folder, "router", params, {"weights": np.ones(3)})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/router: cannot write this router"):
        write_artifact(tmp_path / "file" / "router", "router", {}, {})


def test_arrays_of_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_artifact(tmp_path, "router", {}, {"bad": np.array([{}], dtype=object)})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifact.json: there is no router here; fit it"):
        read_artifact(tmp_path, "router")


def test_the_remedy_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="; run `coterie profile` again"):
        read_artifact(tmp_path, "profile", remedy="run `coterie profile` again")


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / HEADER).mkdir()
    with pytest.raises(ArtifactError, match=r"artifact.json: cannot be read: Is a directory"):
        read_artifact(tmp_path, "router")


def test_missing_arrays_are_an_error(folder: Path) -> None:
    arrays_file(folder).unlink()
    with pytest.raises(ArtifactError, match=r"npz: the arrays are missing; fit it again"):
        read_artifact(folder, "router")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_arrays_cut_short_are_an_error(folder: Path, keep: int) -> None:
    path = arrays_file(folder)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"npz: damaged or cut short.*fit it again"):
        read_artifact(folder, "router")


@pytest.mark.parametrize("text", [b"", b'{"format": "coterie"', b"\xff\xfe", b"[" * 100_000])
def test_a_header_that_is_not_json_is_damaged(folder: Path, text: bytes) -> None:
    (folder / HEADER).write_bytes(text)
    with pytest.raises(ArtifactError, match=r"artifact.json: damaged, not valid JSON; fit"):
        read_artifact(folder, "router")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other"}', "null"])
def test_a_file_of_another_program_is_foreign(folder: Path, text: str) -> None:
    (folder / HEADER).write_text(text)
    with pytest.raises(ArtifactError, match="not written by coterie"):
        read_artifact(folder, "router")


@pytest.mark.parametrize(
    "changes",
    [
        {"params": None},
        {"arrays": []},
        {"arrays": {}},
        {"arrays": {"sha256": "../../secret"}},
        {"arrays": {"sha256": "/" * 64}},
        {"version": None},
        {"version": 0},
    ],
)
def test_a_header_with_missing_fields_is_damaged(folder: Path, changes: dict[str, Any]) -> None:
    edit_header(folder, **changes)
    with pytest.raises(ArtifactError, match=r"artifact.json: damaged, .*; fit it again"):
        read_artifact(folder, "router")


def test_another_kind_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="this is a 'router', expected a 'profile'"):
        read_artifact(folder, "profile")


def test_a_newer_format_asks_for_an_upgrade(folder: Path) -> None:
    edit_header(folder, version=2, coterie="9.0")
    message = r"by coterie 9.0 in format 2.*pip install --upgrade coterie"
    with pytest.raises(ArtifactError, match=message):
        read_artifact(folder, "router")


def test_pickled_objects_are_refused_without_running_them(folder: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([Attack()], dtype=object))
    replace_arrays(folder, buffer.getvalue())
    with pytest.raises(ArtifactError, match="not a file of plain arrays, refused"):
        read_artifact(folder, "router")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"])
def test_a_file_that_holds_no_arrays_is_refused(folder: Path, data: bytes) -> None:
    replace_arrays(folder, data)
    with pytest.raises(ArtifactError, match="not a file of plain arrays, refused"):
        read_artifact(folder, "router")


def test_arrays_other_than_those_listed_are_refused(folder: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.zeros(2))
    replace_arrays(folder, buffer.getvalue())
    with pytest.raises(ArtifactError, match=r"not those artifact.json lists"):
        read_artifact(folder, "router")
