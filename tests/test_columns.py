"""Parquet files of records that are damaged, or hold columns of another kind."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.errors import InputError
from coterie.records import Records
from coterie.testing import make_records


@pytest.mark.parametrize("name", ["queries.parquet", "records.parquet"])
def test_names_of_columns_that_are_not_utf8_are_an_error_with_the_file(
    tmp_path: Path, name: str
) -> None:
    make_records(6).write(tmp_path / "r")
    path = tmp_path / "r" / name
    path.write_bytes(path.read_bytes().replace(b"query_id", b"query\xff\xfed"))
    with pytest.raises(InputError, match=f"{name}.*: cannot be read as Parquet: ") as caught:
        Records.read(tmp_path / "r")
    assert caught.value.path == path


def skills(folder: Path, values: pa.Array) -> Path:
    make_records(3).write(folder)
    table = pq.read_table(folder / "queries.parquet").drop_columns("skills")
    pq.write_table(table.append_column("skills", values), folder / "queries.parquet")
    return folder


@pytest.mark.parametrize("values", [pa.array([1, 2, 3]), pa.array(["a", "b", None])])
def test_skills_that_are_no_lists_are_refused_by_name(tmp_path: Path, values: pa.Array) -> None:
    with pytest.raises(InputError, match=r"queries\.parquet, field 'skills': expected list"):
        Records.read(skills(tmp_path / "r", values))


def test_a_skill_that_is_missing_in_its_list_is_refused(tmp_path: Path) -> None:
    values = pa.array([["a"], None, ["b", None]], pa.list_(pa.string()))
    with pytest.raises(InputError, match="field 'skills': expected lists of texts, got nothing"):
        Records.read(skills(tmp_path / "r", values))


def test_skills_come_back_as_tags_and_none_as_no_tags(tmp_path: Path) -> None:
    values = pa.array([["a", "b"], None, []], pa.large_list(pa.string()))
    found = Records.read(skills(tmp_path / "r", values)).queries
    assert [query.tags for query in found] == [("a", "b"), (), ()]
