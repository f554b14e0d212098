"""What users get wrong, through the real command line: one line that helps, and no traceback."""

import json
import resource
import subprocess
from pathlib import Path

import pytest
from cli_world import POOL, Project

import coterie
from coterie.records import Records

ADD = Path(coterie.__file__).parent / "embedded" / "experts" / "add-expert.gguf"
FAULTY = """[pool]
name = "test"
[[expert]]
name = "a"
kind = "local"
engine = "coterie.testing:FaultyEngine"
path = "weights.gguf"
timeout = 4
[policy]
k = 1
"""


def sole_error(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr of a run that failed."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no questions; expected one JSON object a line"),
        (b"\n \n", "holds no questions"),
        (b"{}", "line 1, field 'question': expected the question's text, got nothing"),
        (b'{"question": " "}', "line 1, field 'question': expected the question's text, got ' '"),
        (b'{"question": "a"}\nnot json', "line 2: not JSON"),
        (b'{"question": "a"}\n[1]', "line 2: expected a JSON object, got list"),
        (b'{"id": 1, "question": "a"}\n{"id": "1", "question": "b"}', "'1' is also the id of line"),
        (b'{"question": "\xff"}', "line 1: not UTF-8 at byte 15; save the file as UTF-8"),
        (b'{"question": "%s"}' % (b"x" * 10_000_000), "10,000,016 bytes are more than the 1,000"),
        (b'{"messages": [{"role": "user"}]}', "line 1, field 'messages': expected a list of"),
        (b"[" * 100_000, "line 1: not JSON"),
        (rb'{"question": "what is \ud83d?"}', "line 1: holds half of a surrogate pair"),
    ],
)
def test_a_question_file_that_is_wrong_is_named_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    project = Project(tmp_path)
    project.write("questions.jsonl", content)
    error = sole_error(project.answer())
    assert error.startswith("questions.jsonl")
    assert message in error
    assert project.calls() == []


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("", "field 'pool': the key is missing"),
        ("[pool", "not TOML"),
        (POOL.replace('"b"', '"a"'), "field 'expert.name': two experts are called 'a'"),
        (POOL.replace("log =", "lgo =", 1), "field 'expert a: lgo': unknown key; did you mean"),
        (POOL.replace("cli_world:Logged", "opnai", 1), "no expert called 'opnai'; did you mean 'o"),
        (POOL.replace("cli_world:", "nowhere:", 1), "there is no module 'nowhere'"),
        (POOL.replace(":Logged", ":Lodged", 1), "module 'cli_world' has no 'Lodged'"),
        (POOL + '[policy]\nname = "recuit"', "did you mean 'recruit'"),
        (POOL + '[composition]\naggregator = "majorty"', "did you mean 'majority'"),
    ],
)
def test_a_pool_file_that_is_wrong_is_named_with_its_key(
    tmp_path: Path, pool: str, message: str
) -> None:
    project = Project(tmp_path, pool)
    assert message in sole_error(project.answer())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("answer", "none.toml", "questions.jsonl", "--router", "router"), "none.toml"),
        (("answer", "pool.toml", "none.jsonl", "--router", "router"), "none.jsonl: cannot be read"),
        (("answer", "pool.toml", "questions.jsonl", "--router", "none"), "none"),
        (("answer", "pool.toml", "questions.jsonl"), "names no [router] and --router is not given"),
        (("fit", "none", "-o", "x"), "none: no such folder; `coterie records import"),
        (("fit", "none", "-o", "x", "--router", "skils"), "called 'skils'; did you mean 'skills'?"),
        (("route", "what?", "--router", "none"), "none"),
        (("route", " ", "--router", "router"), "the question is empty; give its text or pipe it"),
        (("profile", "pool.toml", "questions.jsonl", "-o", "x"), "question 'q0' has none; a profi"),
        (("answer", "pool.toml", "questions.jsonl", "--router", "pool.toml"), "pool.toml"),
    ],
)
def test_a_name_that_leads_nowhere_is_named(
    tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    assert message in sole_error(Project(tmp_path).main(*args))


def test_the_questions_are_not_overwritten_by_the_answers(tmp_path: Path) -> None:
    project = Project(tmp_path)
    error = sole_error(project.answer("./questions.jsonl"))
    assert error == "./questions.jsonl is one of the inputs; choose another --output"
    assert project.calls() == []


def test_debug_shows_where_it_went_wrong(tmp_path: Path) -> None:
    done = Project(tmp_path).main("--debug", "route", " ", "--router", "router")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith(
        "error: the question is empty; give its text or pipe it in with '-'\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; check the path of the weights"),
        (b"", "0 bytes are too few for a GGUF file"),
        (b"GGUF" + b"\xff" * 100, "copy or download the GGUF file again"),
        (b"PK\3\4" * 100, "not a GGUF file"),
        (ADD.read_bytes()[:200_000], "cut off: 200000 bytes of more than"),
    ],
)
def test_weights_that_are_missing_or_damaged_are_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    project = Project(tmp_path, FAULTY, experts="a")
    if content is not None:
        project.write("weights.gguf", content)
    error = sole_error(project.answer())
    assert error.startswith("weights.gguf: ")
    assert message in error


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("hang", "hung for 4 s and was given up"),
        ("crash", "its process was ended by SIGKILL"),
        ("exit", "its process exited with code 3; its last words: cannot go on"),
        ("nothing", "answered nothing"),
        ("refuse", "refused"),
    ],
)
def test_an_expert_that_fails_on_a_question_fails_only_it(
    tmp_path: Path, fault: str, message: str
) -> None:
    slots = 1 if fault == "hang" else 8  # in company it would hang twice
    project = Project(tmp_path, f"{FAULTY}".replace("path", f"slots = {slots}\npath"), experts="a")
    project.write("weights.gguf", ADD.read_bytes())
    asked = [{"id": "good", "question": "well?"}, {"id": "bad", "question": f"{fault} now"}]
    project.write("questions.jsonl", "\n".join(map(json.dumps, asked)))
    done = project.answer()
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "1 of 2 questions failed, the first (bad)" in done.stderr
    assert message in done.stderr
    good, bad = map(json.loads, project.answers().splitlines())
    assert (good["answer"], bad["answer"]) == ("well?", None)
    assert len(project.journaled()) == 1


def test_a_full_disk_keeps_the_old_output_and_the_journal(tmp_path: Path) -> None:
    project = Project(tmp_path, count=200)
    project.write("answers.jsonl", "old")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    error = sole_error(project.run(*project.answer_args(), preexec_fn=small_files))
    assert error.startswith("answers.jsonl.journal: cannot be written")
    assert (tmp_path / "answers.jsonl").read_text() == "old"
    before, known = len(project.calls()), project.journaled()
    assert len(known) >= before - 3
    assert project.answer().returncode == 0
    assert len(project.calls()) == 600 + before - len(known)


def test_a_full_disk_at_the_very_end_costs_only_the_output(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.answer("first.jsonl", "--journal", "kept")
    project.write("answers.jsonl", "old")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    args = project.answer_args("answers.jsonl", "--journal", "kept")
    error = sole_error(project.run(*args, preexec_fn=small_files))
    assert "cannot be written: File too large; make room or set TMPDIR" in error
    assert (tmp_path / "answers.jsonl").read_text() == "old"
    assert len(project.calls()) == 30


@pytest.mark.parametrize("output", ["/dev/full", "-"])
def test_a_full_device_is_reported(tmp_path: Path, output: str) -> None:
    project = Project(tmp_path, count=2)
    with open("/dev/full", "w") as full:
        done = project.run(*project.answer_args(output), stdout=full)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert not Path("/dev/full.journal").exists()


def test_a_reader_that_leaves_early_is_no_error_to_talk_about(tmp_path: Path) -> None:
    project = Project(tmp_path, count=2)
    process = project.start(*project.answer_args("-"))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1


DOWN = """
[[expert]]
name = "down"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
model = "m"
retries = 0
"""


def test_an_outage_is_no_score_and_the_profile_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path, POOL + DOWN, count=3)
    rows = [{"id": f"q{i}", "question": f"question {i}?", "answer": "yes"} for i in range(3)]
    project.write("labelled.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    done = project.run("profile", "pool.toml", "labelled.jsonl", "-o", "records")
    assert done.returncode == 1
    assert "failed (down: 3 of 3 calls)" in done.stderr
    records = Records.read(tmp_path / "records")
    assert not records.observed[:, records.experts.index("down")].any()


@pytest.mark.parametrize("flags", [("-o", "pool.toml"), ("-o", "x", "--journal", "x")])
def test_neither_pool_nor_answers_are_overwritten(tmp_path: Path, flags: tuple[str, ...]) -> None:
    project = Project(tmp_path)
    done = project.run("answer", "pool.toml", "questions.jsonl", "--router", "router", *flags)
    assert done.returncode == 1
    assert "choose another" in done.stderr
    assert (tmp_path / "pool.toml").read_text() == POOL
