"""What every reader promises, on a tiny sample of its format."""

import json
from pathlib import Path

import numpy as np
import pytest
from format_samples import NAMES, SAMPLES, SCORES, TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie import formats
from coterie.errors import InputError

every = pytest.mark.parametrize("name", SAMPLES)
FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
HOSTILE = (
    *("NaN", "Infinity", "-1", "1e999", "1" + "0" * 400, "1" + "0" * 5000, "null", '"nan"', '""'),
    *("[]", "{}", "true", '"\\ud800"', '"x"', "2", "[" * 20_000 + "]" * 20_000, "[" * 20_000),
)


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def read_or_refuse(path: Path, name: str) -> None:
    """Any other exception fails the test; an error names the file or folder."""
    refusal = str(path)
    try:
        records = formats.read_records(path, name)
        formats.read_split(path, name)
        assert records.observed.any()
    except InputError as error:
        refusal = str(error)
    assert str(path) in refusal


def test_every_format_has_a_sample() -> None:
    assert set(formats.names()) - set(SAMPLES) == {"inspect"}


@every
def test_detects_its_own(name: str, tmp_path: Path) -> None:
    assert formats.detect(SAMPLES[name](tmp_path)) == name


@every
def test_reads_the_scores_of_each_question_and_expert(name: str, tmp_path: Path) -> None:
    records = formats.read_records(SAMPLES[name](tmp_path))
    assert records.experts == NAMES
    assert tuple(q.text for q in records.queries) == TEXTS
    assert np.array_equal(records.quality, SCORES)


@every
def test_survives_the_native_form(name: str, tmp_path: Path) -> None:
    records = formats.read_records(SAMPLES[name](tmp_path))
    records.write(tmp_path / "out")
    again = formats.read_records(tmp_path / "out")
    assert [q.id for q in again.queries] == [q.id for q in records.queries]
    assert np.array_equal(again.quality, records.quality)


@every
def test_splits_are_of_questions_that_exist(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name](tmp_path)
    ids = {query.id for query in formats.read_records(path).queries}
    assert set(formats.read_split(path)) <= ids


@every
def test_refuses_an_unknown_mapping(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column mapping 'colour'"):
        formats.read_records(SAMPLES[name](tmp_path), columns={"colour": "red"})


@every
def test_refuses_another_file(name: str, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("nothing of use")
    with pytest.raises(InputError, match=r"notes\.txt"):
        formats.read_records(other, name)


@every
@FUZZ
@given(data=st.data())
def test_broken_bytes_are_an_error_or_records(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path if tmp_path.exists() and any(tmp_path.iterdir()) else None
    path = SAMPLES[name](tmp_path) if path is None else sample_in(name, tmp_path)
    file = data.draw(st.sampled_from(files_of(path)))
    content = file.read_bytes()
    try:
        file.write_bytes(broken(content, data))
        read_or_refuse(path, name)
    finally:
        file.write_bytes(content)


def sample_in(name: str, folder: Path) -> Path:
    """The sample that stands in the folder already."""
    if name == "native":
        return folder / "records"
    inside = sorted(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_file() else folder


def broken(content: bytes, data: st.DataObject) -> bytes:
    """The content cut off, with bytes changed, or with a piece doubled."""
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(("cut", "change", "double"))):
        case "cut":
            return content[:at]
        case "double":
            return content[:at] + content[max(0, at - 40) :]
        case _:
            noise = data.draw(st.binary(min_size=1, max_size=8))
            return content[:at] + noise + content[at + len(noise) :]


TEXTUAL = [n for n in SAMPLES if n not in ("native", "instances", "routereval", "rorf")]


@pytest.mark.parametrize("name", TEXTUAL)
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda value: value[:12])
def test_a_hostile_value_in_any_field_is_an_error_or_records(
    name: str, hostile: str, tmp_path: Path
) -> None:
    path = SAMPLES[name](tmp_path)
    file = files_of(path)[-1]
    whole = file.read_text()
    for old in fields_of(whole, file.suffix):
        file.write_text(whole.replace(old, old.replace(value_of(old), hostile), 1))
        read_or_refuse(path, name)


def fields_of(text: str, suffix: str) -> list[str]:
    """Pieces of the file that hold one value each."""
    if suffix == ".csv":
        return [f",{part}," for part in text.splitlines()[1].split(",")[1:-1] if part]
    first = json.loads(text.splitlines()[0]) if suffix == ".jsonl" else None
    if first is None:
        whole = json.loads(text)
        first = whole[0] if isinstance(whole, list) else whole["records"][0]
    pairs = flat(first)
    return [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs]


def flat(value: dict[str, object]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += flat(inner)
        elif not isinstance(inner, list):
            found.append((key, inner))
    return found


def value_of(piece: str) -> str:
    return piece.split(": ", 1)[1] if ": " in piece else piece.strip(",")


@pytest.mark.parametrize("score", ["nan", "inf", "-0.1", "1.5", "x"])
@pytest.mark.parametrize("name", ["csv", "embedllm", "routellm"])
def test_a_score_that_is_none_names_file_and_line(name: str, score: str, tmp_path: Path) -> None:
    path = SAMPLES[name](tmp_path)
    header, first, *rest = path.read_text().splitlines()
    changed = first.replace("True", score).replace(",1,", f",{score},").replace("1.0", score)
    path.write_text("\n".join([header, changed, *rest]))
    with pytest.raises(InputError, match=rf"{path.name}, line 2.*expected a (score|finite)"):
        formats.read_records(path, name)


def test_unknown_formats_and_paths_say_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x00")
    with pytest.raises(InputError, match=r"a\.bin: no known format; there are native, instances"):
        formats.read_records(tmp_path / "a.bin")
    with pytest.raises(InputError, match="no format called 'xml'; there are native"):
        formats.read_records(tmp_path / "a.bin", "xml")
    with pytest.raises(InputError, match="no such file"):
        formats.detect(tmp_path / "b.csv")


def test_a_folder_without_files_is_no_known_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no known format"):
        formats.detect(tmp_path)
    for name in SAMPLES:
        with pytest.raises(InputError):
            formats.read_records(tmp_path, name)
