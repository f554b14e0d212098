import io
import json
import sys
from pathlib import Path

import pytest

from coterie.errors import InputError
from coterie.questions import LONGEST, open_queries, parse_questions, read_questions


def lines(*objects: object) -> list[bytes]:
    return [json.dumps(item).encode() + b"\n" for item in objects]


def test_a_question_needs_nothing_but_its_text() -> None:
    asked = parse_questions(lines({"question": "2 + 2?"}), "q.jsonl")
    assert (asked.queries[0].id, asked.queries[0].text) == ("1", "2 + 2?")
    assert (asked.references, asked.categories) == ((None,), (None,))


def test_answers_and_categories_stay_with_their_questions() -> None:
    asked = parse_questions(
        lines(
            {"id": "a", "question": "2 + 2?", "answer": 4, "category": "sums"},
            {"id": 7, "question": "2 + 3?", "answer": "5"},
        ),
        "q.jsonl",
    )
    assert [q.id for q in asked.queries] == ["a", "7"]
    assert (asked.references, asked.categories) == (("4", "5"), ("sums", None))


def test_messages_are_taken_as_they_are() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u", "name": "n"}]
    (query,) = parse_questions(lines({"messages": messages}), "q.jsonl").queries
    assert query.messages == tuple(messages)
    assert query.text == "u"


def test_empty_lines_are_skipped_but_counted() -> None:
    asked = parse_questions([b"\n", *lines({"question": "a"}), b"  \n"], "q.jsonl")
    assert [q.id for q in asked.queries] == ["2"]


def test_a_byte_order_mark_is_no_fault() -> None:
    asked = parse_questions([b"\xef\xbb\xbf" + lines({"question": "a"})[0]], "q.jsonl")
    assert asked.queries[0].text == "a"


def test_taking_rows_keeps_all_three_together() -> None:
    asked = parse_questions(
        lines({"question": "a", "answer": "x"}, {"question": "b", "category": "y"}), "q.jsonl"
    )
    turned = asked.take([1, 0])
    assert [q.text for q in turned.queries] == ["b", "a"]
    assert (turned.references, turned.categories) == ((None, "x"), ("y", None))


GOOD = lines({"question": "fine"})[0]


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        (lines({}), "question", "expected the question's text, got nothing"),
        (lines({"question": ""}), "question", "got ''"),
        (lines({"question": " \n"}), "question", "expected the question's text"),
        (lines({"question": 7}), "question", "got 7"),
        (lines({"question": ["a"]}), "question", "got ['a']"),
        (lines({"question": "a", "id": None}), "id", "got nothing"),
        (lines({"question": "a", "id": ""}), "id", "got ''"),
        (lines({"question": "a", "id": True}), "id", "got True"),
        (lines({"question": "a", "id": [1]}), "id", "got [1]"),
        (lines({"question": "a", "answer": {}}), "answer", "got {}"),
        (lines({"question": "a", "answer": False}), "answer", "got False"),
        (lines({"question": "a", "category": [1]}), "category", "got [1]"),
        (lines({"messages": "hello"}), "messages", "expected a list of {role, content}"),
        (lines({"messages": []}), "messages", "with a user message"),
        (lines({"messages": [{"role": "system", "content": "s"}]}), "messages", "user message"),
        (lines({"messages": [{"role": "user", "content": " "}]}), "messages", "that has text"),
        (lines({"messages": [{"role": "user"}]}), "messages", "expected a list"),
        (lines({"messages": [7]}), "messages", "expected a list"),
        (lines("just text"), None, "expected a JSON object, got str"),
        ([b"{'question': 'a'}\n"], None, "not JSON"),
        ([b'{"question": "a"\n'], None, "not JSON"),
        ([b'{"question": "caf\xe9"}\n'], None, "not UTF-8 at byte 18; save the file as UTF-8"),
        ([b'{"question": "\\uD800"}\n'], None, "half of a surrogate pair"),
        ([b'{"question": ' + b"[" * 100_000 + b"\n"], None, "not JSON"),
        ([b'{"question": ' + b'{"a":' * 100_000 + b"\n"], None, "not JSON"),
        ([b'{"answer": ' + b"9" * 5000 + b"}\n"], None, "not JSON"),
        ([b"\xff\xfe{\x00}\x00\n"], None, "not UTF-8 at byte 1"),
    ],
)
def test_a_bad_line_is_named_with_its_field(
    bad: list[bytes], field: str | None, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_questions([GOOD, *bad], "q.jsonl")
    assert (caught.value.path, caught.value.line, caught.value.field) == ("q.jsonl", 2, field)
    assert message in str(caught.value)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    asked = parse_questions([b'{"question": "\\ud83e\\udd99"}\n'], "q.jsonl")
    assert asked.queries[0].text == "🦙"


def test_a_question_of_ten_megabytes_is_refused_with_the_limit() -> None:
    huge = lines({"question": "a" * 10_000_000})
    with pytest.raises(InputError, match=r"line 1: 10,000,\d+ bytes are more than the 1,000,000"):
        parse_questions(huge, "q.jsonl")


def test_a_question_just_within_the_limit_is_read() -> None:
    room = LONGEST - len(lines({"question": ""})[0])
    (query,) = parse_questions(lines({"question": "a" * room}), "q.jsonl").queries
    assert len(query.text) == room


@pytest.mark.parametrize("first", [{"id": "b"}, {"id": 2}, {"id": "2"}])
def test_repeated_ids_are_named_with_both_lines(first: dict[str, object]) -> None:
    rows = lines({"question": "a", **first}, {"question": "b", "id": first["id"]})
    with pytest.raises(InputError, match=r"line 2, field 'id': '.' is also the id of line 1"):
        parse_questions(rows, "q.jsonl")


def test_a_line_number_may_not_collide_with_an_id() -> None:
    rows = lines({"question": "a", "id": "2"}, {"question": "b"})
    with pytest.raises(InputError, match="'2' is also the id of line 1"):
        parse_questions(rows, "q.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="holds no questions; expected one JSON object a line"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.jsonl", "No such file"), (".", "Is a directory")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"cannot be read: {reason}"):
        read_questions(tmp_path / name)


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GOOD + b"{}\n")))
    with pytest.raises(InputError, match="standard input, line 2, field 'question'"):
        read_questions("-")


def test_queries_opened_for_reading_are_those_that_are_read_at_once(tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "question": f"what is {i}?", "category": "c"} for i in range(3000)]
    text = "".join(json.dumps(row) + ("\n\n" if i % 7 == 0 else "\n") for i, row in enumerate(rows))
    (tmp_path / "q.jsonl").write_text(text)
    with open_queries(tmp_path / "q.jsonl") as opened:
        assert len(opened) == 3000
        assert tuple(opened[i] for i in (0, 2999, 1500)) == tuple(
            read_questions(tmp_path / "q.jsonl").queries[i] for i in (0, 2999, 1500)
        )


def test_opened_queries_are_checked_before_the_first_is_asked(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(
        '{"id": "a", "question": "x"}\n{"id": "a", "question": "y"}\n'
    )
    with (
        pytest.raises(InputError, match="'a' is also the id of line 1"),
        open_queries(tmp_path / "q.jsonl"),
    ):
        pass
    (tmp_path / "q.jsonl").write_text('{"question": "x"}\n{"question": 3}\n')
    with pytest.raises(InputError, match="line 2"), open_queries(tmp_path / "q.jsonl"):
        pass
