import json
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from coterie.compositions import ask
from coterie.errors import ArtifactError, CoterieError, ResumeError
from coterie.store import VERSION, Journal
from coterie.types import Completion, Decision, Query, Usage

QUERY = Query.from_text("q", "what?")
A, B = (ask(QUERY, name, 0, 0, i) for i, name in enumerate("ab"))
YES = Completion("a", "yes", Usage(3, 1), 0.5, 0.25, logprob=-0.1)


def change(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def make(path: Path) -> Path:
    with Journal(path, {"seed": "0"}) as journal:
        journal.decide([(0, "q", Decision("recruit", ("a", "b"), (1.0, 0.5), 0.75, "because"))])
        journal.add(0, 0, 0, A, YES)
    return path


def test_what_was_journaled_comes_back_exactly(tmp_path: Path) -> None:
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        assert journal.find(0, 0, (A, B)) == [YES, None]
        assert journal.decisions()[0].reason == "because"
        assert journal.count() == 1


def test_token_probabilities_are_journaled(tmp_path: Path) -> None:
    sure = replace(YES, logprobs=(-0.1, -0.25), margin=0.5)
    with Journal(tmp_path / "j", {"seed": "0"}) as journal:
        journal.add(0, 0, 0, A, sure)
        journal.add(0, 0, 1, B, replace(sure, margin=None))
        assert journal.find(0, 0, (A, B)) == [sure, replace(sure, margin=None)]
    assert Completion.from_dict(json.loads(json.dumps(sure.to_dict()))) == sure


def test_a_journal_in_memory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(":memory:"))
    assert list(tmp_path.iterdir()) == []


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    assert make(tmp_path / "new" / "folder" / "j").exists()


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        ({"seed": "1"}, "seed was '0', is '1'"),
        ({}, "seed was '0', is None"),
        ({"seed": "0", "pool": "x"}, "pool was None, is 'x'"),
    ],
)
def test_another_run_is_refused_by_name(
    tmp_path: Path, header: dict[str, str], difference: str
) -> None:
    with pytest.raises(ResumeError, match=f"belongs to another run: {difference}"):
        Journal(make(tmp_path / "j"), header)


def test_a_changed_call_stops_the_run(tmp_path: Path) -> None:
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        for calls in ((B, A), ()):
            with pytest.raises(ResumeError, match="query 1, step 0, call 0 is not the call"):
                journal.find(0, 0, calls)


def test_later_steps_are_dropped_when_an_earlier_call_comes_to_something(tmp_path: Path) -> None:
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        journal.add_failure(0, 0, 1, Completion("b", finish_reason="error", error="no idea"))
        journal.add(0, 1, 0, A, YES)
        journal.add(1, 1, 0, A, YES)
        journal.find(0, 0, (A, B))
        assert journal.find(0, 1, (A,)) == [YES]
        journal.add(0, 0, 1, B, YES)
        assert journal.find(0, 1, (A,)) == [None]
        assert journal.find(1, 1, (A,)) == [YES]


def test_later_steps_are_kept_where_nothing_is_missing(tmp_path: Path) -> None:
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        journal.add(0, 1, 0, B, YES)
        assert journal.find(0, 0, (A,)) == [YES]
        assert journal.find(0, 1, (B,)) == [YES]


def test_an_expert_recruited_twice_has_two_entries(tmp_path: Path) -> None:
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        journal.add(0, 0, 1, A, Completion("a", "no"))
        found = journal.find(0, 0, (A, A))
    assert [c.text for c in found if c] == ["yes", "no"]


def test_a_failure_counts_in_its_own_run_and_is_a_fact_in_the_next(tmp_path: Path) -> None:
    failed = Completion("b", finish_reason="error", error="no idea")
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        assert journal.add_failure(0, 0, 1, failed)
        assert journal.find(0, 0, (A, B)) == [YES, failed]
    with Journal(tmp_path / "j", {"seed": "0"}) as journal:
        assert journal.find(0, 0, (A, B)) == [YES, None]
        assert not journal.add_failure(0, 0, 1, failed)


def test_decisions_are_journaled_all_or_none(tmp_path: Path) -> None:
    one = Decision("single", ("a",), (1.0,))
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal, pytest.raises(CoterieError):
        journal.decide([(1, "new", one), (0, "q", one)])  # q is decided already
    with Journal(tmp_path / "j", {"seed": "0"}) as journal:
        assert set(journal.decisions()) == {0}


def test_long_texts_that_come_expert_by_expert_take_little_more_than_their_length(
    tmp_path: Path,
) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        for query in (q for first in range(10) for q in range(first, 500, 10)):
            journal.add(query, 0, 0, A, replace(YES, text="x" * 1500))
    assert (tmp_path / "j").stat().st_size < 1.5 * 500 * 1500


def test_half_a_character_can_be_journaled(tmp_path: Path) -> None:
    half = Completion("b", "cut \ud83d")
    with Journal(make(tmp_path / "j"), {"seed": "0"}) as journal:
        journal.add(0, 0, 1, B, half)
        assert journal.find(0, 0, (A, B)) == [YES, half]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"j: damaged or no journal .* delete it to start over"):
        Journal(path, {})
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 7])
def test_a_database_of_something_else_is_refused_and_untouched(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "theirs.db"
    change(path, "CREATE TABLE bookmarks (url)", f"PRAGMA user_version={version}")
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="a database of something else; choose another journal"):
        Journal(path, {})
    assert path.read_bytes() == before


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "j")
    change(path, f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(ArtifactError, match=f"format {VERSION + 1}, newer than {VERSION}; upgrade"):
        Journal(path, {"seed": "0"})


def test_damaged_pages_are_reported(tmp_path: Path) -> None:
    path = make(tmp_path / "j")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(ArtifactError, match="damaged or no journal"):
        Journal(path, {"seed": "0"})


@pytest.mark.parametrize(
    "change_", ["text=x'ff'", "cost='dear'", "cost=NULL", "prompt_tokens='few'"]
)
def test_a_damaged_entry_is_reported(tmp_path: Path, change_: str) -> None:
    path = make(tmp_path / "j")
    change(path, f"UPDATE completions SET {change_}")
    with Journal(path, {"seed": "0"}) as journal, pytest.raises(ArtifactError, match="damaged"):
        journal.find(0, 0, (A, B))


def test_a_journal_in_use_is_locked_against_other_processes(tmp_path: Path) -> None:
    path = make(tmp_path / "j")
    script = f"from coterie.store import Journal; Journal({str(path)!r}, {{'seed': '0'}})"
    with Journal(path, {"seed": "0"}):
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "another run is using this journal" in other.stderr
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_kill_while_the_header_is_written_leaves_a_journal_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "j"
    script = f"""
        import os, signal
        from coterie.store import Journal

        def header():
            yield "seed", "0"
            os.kill(os.getpid(), signal.SIGKILL)

        class Deadly(dict):
            def items(self):
                return header()

        Journal({str(path)!r}, Deadly(seed="0"))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert killed.returncode == -9
    with Journal(path, {"seed": "0", "pool": "x"}) as journal:
        assert journal.count() == 0


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CoterieError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", {})
    with pytest.raises(CoterieError, match="cannot be written"):
        Journal(tmp_path, {})
