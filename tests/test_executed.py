"""Code execution as the judge: off by default, in a process with limits."""

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from coterie.compositions.executed import Executed
from coterie.drivers.live import answer
from coterie.drivers.replay import replay
from coterie.errors import InputError, NotRecordedError
from coterie.experts.function import FunctionExpert
from coterie.experts.python import PythonExpert, code_of
from coterie.testing import EXPERT_CHECKS, Reply, converse, fail, make_records
from coterie.types import Answer, Call, Completion, Decision, Query

QUERY = Query.from_text("q", "Print 37 plus 58.", max_tokens=48)
PAIR = Decision("cascade-executed", ("small", "large"), (0.5, 0.9))
GOOD, BAD = "```python\nprint(37 + 58)\n```", "```python\nprint(37 + )\n```"


def run(code: str, **settings: object) -> Completion:
    expert = PythonExpert("python", allow_execution=True, **settings)  # type: ignore[arg-type]
    return asyncio.run(expert.complete(Call("python", ({"role": "user", "content": code},))))


def test_it_is_off_unless_somebody_switches_it_on() -> None:
    with pytest.raises(InputError, match="off by default and no sandbox"):
        PythonExpert("python")


def test_it_answers_with_what_the_last_block_prints() -> None:
    made = run(f"First {BAD} and then\n{GOOD}\nThat is it.")
    assert (made.text, made.error) == ("95\n", None)
    assert code_of("print(1)") == "print(1)"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("print(37 + )", "SyntaxError"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("bytearray(10**10)", "MemoryError"),
        ("open('big', 'wb').write(b'0' * 10**7)", "File too large|signal"),
        ("", "no code to run"),
    ],
)
def test_code_that_fails_is_a_failed_answer(code: str, message: str) -> None:
    made = run(code)
    assert made.failed
    assert any(part in (made.error or "") for part in message.split("|")), made.error


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    child = f"[{sys.executable!r}, '-c', 'import time; time.sleep(60)']"
    code = f"""
import subprocess
child = subprocess.Popen({child})
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
child.wait()
"""
    start = time.perf_counter()
    made = run(code, timeout=2.0)
    assert "ran for more than 2 s" in (made.error or "")
    assert time.perf_counter() - start < 20
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_the_process_sees_no_environment_and_no_endless_output_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    assert "do not tell" not in run("import os; print(os.environ)").text
    assert len(run("print('x' * 10**6)").text) == 20_000


def python() -> PythonExpert:
    return PythonExpert("python", allow_execution=True)


@pytest.mark.parametrize(
    "check", [c for c in EXPERT_CHECKS if c.__name__ == "check_reports_failure_instead_of_raising"]
)
def test_it_keeps_the_contract_where_it_can(check: object) -> None:
    check(python)  # type: ignore[operator]
    assert python().fingerprint() == python().fingerprint()


def coder(**texts: list[str]) -> Reply:
    """Each expert's answers in turn, and a judge that runs nothing: good code has ``37 + 58``."""
    left = {name: iter(answers) for name, answers in texts.items()}

    def reply(call: Call) -> Completion:
        if call.purpose == "judge":
            good = "37 + 58" in call.messages[0]["content"]
            return Completion("run", "95\n") if good else fail(call)
        return Completion(call.expert, next(left[call.expert]))

    return reply


def test_code_that_runs_stands_and_code_that_does_not_is_corrected_then_escalated() -> None:
    run_it = Executed("run")
    assert converse(run_it, coder(small=[GOOD]), PAIR, QUERY)[1].expert == "small"
    rounds, made = converse(run_it, coder(small=[BAD, GOOD]), PAIR, QUERY)
    assert (made.expert, len(rounds)) == ("small", 4)
    correction = rounds[2][0].messages
    assert [m["role"] for m in correction] == ["user", "assistant", "user"]
    assert "run: out of order" in correction[2]["content"]
    rounds, made = converse(run_it, coder(small=[BAD, BAD], large=[GOOD]), PAIR, QUERY)
    assert (made.expert, len(rounds)) == ("large", 6)


def test_where_nothing_runs_the_last_answer_stands() -> None:
    made = converse(Executed("run", 1), coder(small=[BAD], large=[f"{BAD} "]), PAIR, QUERY)[1]
    assert made.text == f"{BAD} "


def test_the_output_can_be_the_answer() -> None:
    assert converse(Executed("run", show=True), coder(small=[GOOD]), PAIR, QUERY)[1].text == "95\n"


def test_real_code_runs_in_a_live_conversation() -> None:
    experts = {
        "small": FunctionExpert("small", lambda call: BAD),
        "large": FunctionExpert("large", lambda call: GOOD),
        "python": python(),
    }

    async def main() -> Answer:
        return await answer(QUERY, PAIR, Executed("python", 1, show=True), experts)

    made = asyncio.run(main())
    assert made.completion.text == "95\n"
    assert [c.expert for c in made.trace] == ["small", "python", "large", "python"]


def test_nothing_runs_in_replay() -> None:
    records = make_records(1)
    decisions = [Decision("cascade-executed", ("sums",), (0.5,))]
    with pytest.raises(NotRecordedError, match="judge call to 'generalist'"):
        replay(records.queries, decisions, Executed("generalist"), records)


def test_a_runner_must_be_named() -> None:
    with pytest.raises(InputError, match="runner"):
        Executed("")
