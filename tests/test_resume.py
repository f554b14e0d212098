"""Runs that are killed, interrupted and resumed, through the real command line."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

from cli_world import POOL, Project

MERGED = POOL + '[policy]\nk = 2\n[composition]\naggregator = "expert"\n'
MERGED += 'aggregator_settings = { expert = "c" }\n'


def test_a_run_killed_again_and_again_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole = Project(tmp_path / "whole", MERGED, count=60)
    assert whole.run(*whole.answer_args()).returncode == 0
    assert len(whole.calls()) == 180

    project = Project(tmp_path / "broken", MERGED, count=60)
    draw = random.Random(7)
    known: set[str] = set()
    kills = 0
    while True:
        begin = len(project.calls())
        process = project.start(*project.answer_args())
        alive = project.wait_for(begin + draw.randint(1, 80), process)
        if alive:
            process.kill()
        process.communicate()
        asked = project.calls()[begin:]
        assert len(asked) == len(set(asked))
        assert not known & set(asked), "a journaled call was asked again"
        known = project.journaled()
        assert known <= set(project.calls())
        if process.returncode != -signal.SIGKILL:
            break
        kills += 1
        assert not (project.folder / "answers.jsonl").exists()
    assert process.returncode == 0
    assert kills >= 3
    repeated = len(project.calls()) - len(set(project.calls()))
    assert repeated <= 40 * kills  # two slots in flight, and what 20 ms had answered
    assert set(project.calls()) == set(whole.calls())
    assert project.answers() == whole.answers()


def test_every_question_is_answered_once_and_in_order(tmp_path: Path) -> None:
    project = Project(tmp_path, count=25)
    process = project.start(*project.answer_args())
    assert project.wait_for(20, process)
    process.kill()
    process.communicate()
    assert project.answer().returncode == 0
    rows = [json.loads(line) for line in project.answers().splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(25)]


def hear_interrupts() -> None:
    """As in a terminal: what a shell starts in the background ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_run_says_so_and_loses_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path, count=60)
    process = project.start(*project.answer_args(), preexec_fn=hear_interrupts)
    assert project.wait_for(30, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted; answers.jsonl.journal keeps what was done, run it again to go on\n"
    before, known = len(project.calls()), project.journaled()
    assert len(known) >= before - 2
    resumed = project.answer()
    assert resumed.returncode == 0
    assert f"{len(known)} from the journal" in resumed.stderr
    assert not known & set(project.calls()[before:])


def test_a_second_run_over_a_finished_output_asks_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.answer()
    before, content = project.calls(), (tmp_path / "answers.jsonl").read_bytes()
    again = project.answer()
    assert again.returncode == 0
    assert "10 questions, 0 calls, 30 from the journal, 0 loads" in again.stderr
    assert project.calls() == before
    assert (tmp_path / "answers.jsonl").read_bytes() == content


def test_failed_questions_fail_the_run_and_only_they_are_asked_again(tmp_path: Path) -> None:
    sick = POOL.replace('"calls.log"', '"calls.log"\npoison = "question 3?"')
    project = Project(tmp_path, sick)
    failed = project.answer()
    assert failed.returncode == 1
    assert "1 of 10 questions failed, the first (q3) with: every expert failed" in failed.stderr
    assert json.loads(project.answers().splitlines()[3])["answer"] is None
    before = len(project.calls())
    assert project.answer().returncode == 1
    assert len(project.calls()) == before + 3
    project.write("pool.toml", POOL)  # mended
    mended = project.answer()
    assert mended.returncode == 0
    assert "10 questions, 3 calls, 27 from the journal" in mended.stderr


def test_a_changed_run_is_refused_by_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.answer()
    old, before = project.answers(), project.calls()
    refused = project.answer("answers.jsonl", "--seed", "1")
    assert refused.returncode == 1
    assert "seed was '0', is '1'. Restore what changed" in refused.stderr
    project.write("pool.toml", POOL.replace('"test"', '"test"\noptions = { seed = 3 }'))
    assert "another run: pool was" in project.answer().stderr
    project.write("pool.toml", POOL)
    project.write("questions.jsonl", '{"id": "q0", "question": "another?"}\n')
    assert "another run: questions was" in project.answer().stderr
    assert (project.answers(), project.calls()) == (old, before)


def test_questions_and_answers_go_through_pipes(tmp_path: Path) -> None:
    project = Project(tmp_path)
    piped = project.run(
        "answer", "pool.toml", "-", "--router", "router", input='{"question": "one?"}\n'
    )
    (row,) = map(json.loads, piped.stdout.splitlines())
    assert (piped.returncode, row["id"], len(row["trace"])) == (0, "1", 3)
    assert not list(tmp_path.glob("*.journal*"))


def test_a_run_through_pipes_resumes_where_a_journal_is_named(tmp_path: Path) -> None:
    project = Project(tmp_path, count=3)
    first = project.answer("-", "--journal", "kept")
    second = project.answer("-", "--journal", "kept")
    assert first.stdout == second.stdout
    assert len(project.calls()) == 9


def test_skills_are_kept_in_a_journal_of_their_own(tmp_path: Path) -> None:
    project = Project(tmp_path, count=3)
    annotated = project.answer_args("answers.jsonl", "--annotator", "a")
    assert project.main(*annotated).returncode == 0
    assert len(project.calls()) == 3 * (5 + 3)
    project.main(*annotated)
    assert len(project.calls()) == 3 * (5 + 3)
    project.write("questions.jsonl", '{"id": "q0", "question": "another?"}\n')
    refused = "answers.jsonl.journal-skills belongs to another run: questions was"
    assert refused in project.main(*annotated).stderr


def test_a_run_killed_at_a_hundred_moments_loses_nothing_and_repeats_little(tmp_path: Path) -> None:
    script = Path(__file__).parent / "kill_world.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "100", "1"], check=True)
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["kills"] == 100
    assert facts["journaled_asked_again"] == 0
    assert (tmp_path / "resumed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert facts["distinct"] == len((tmp_path / "whole.log").read_text().split()) == 1400
    assert facts["repeated"] <= 100 * 100  # four in flight, and what 20 ms had answered


def test_a_capped_run_says_what_is_left_and_a_higher_cap_answers_it(tmp_path: Path) -> None:
    project = Project(tmp_path, POOL + "[policy]\nk = 1\n")
    capped = project.answer("answers.jsonl", "--max-calls", "4")
    assert capped.returncode == 1
    assert "6 of 10 questions were left unanswered" in capped.stderr
    assert [json.loads(row)["error"] is None for row in project.answers().splitlines()] == [
        True, True, True, True, False, False, False, False, False, False,
    ]  # fmt: skip
    assert len(project.calls()) == 4
    more = project.answer("answers.jsonl", "--max-calls", "10")
    assert (more.returncode, len(project.calls())) == (0, 10)


def test_a_cache_answers_the_same_questions_in_another_run(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.answer("one.jsonl", "--cache", "kept.db")
    again = project.answer("two.jsonl", "--cache", "kept.db")
    assert "0 calls, 0 from the journal, 30 from the cache" in again.stderr
    assert len(project.calls()) == 30
