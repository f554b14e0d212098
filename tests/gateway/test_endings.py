"""Streams of several choices end when all of them have, and not before."""

import asyncio
import json
from typing import Any

import pytest
from fault_upstream import DONE, FAULTS, HEAD, Exchange, event, whole
from gateway_world import Outcome, ask

from coterie.gateway import conversations
from coterie.gateway import locals as locals_
from coterie.gateway.attempts import AttemptOptions
from coterie.gateway.entries import Tokens
from coterie.gateway.replies import Reply
from coterie.gateway.usage import answers_made, answers_to
from coterie.gateway.wire import decode_fields, raw


def said(index: int, text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return event({**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


FIRST = [said(0, "one "), said(0, finish="stop")]
SECOND = [said(1, "two "), said(1, finish="stop")]


def answered(*events: bytes, **fields: Any) -> Outcome:
    async def send(x: Exchange) -> None:
        await x.events(*events)

    FAULTS["choices"] = send
    return ask("choices", fields=fields)


def test_a_stream_cut_between_two_choices_is_no_success() -> None:
    outcome = answered(*FIRST, n=2)
    assert (outcome.kind, outcome.late) == ("cut", True)


def test_a_stream_with_all_of_its_choices_may_end_without_done() -> None:
    outcome = answered(*FIRST, *SECOND, n=2)
    assert (outcome.kind, outcome.text) == ("", "one two ")


def test_a_server_that_says_it_is_done_is_believed() -> None:
    assert answered(*FIRST, DONE, n=2).kind == ""


def test_a_pause_between_two_choices_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.gateway.streams.TAIL", 0.05)

    async def send(x: Exchange) -> None:
        x.head(type="text/event-stream")
        x.writer.write(b"".join(FIRST))
        await asyncio.sleep(0.3)
        x.writer.write(b"".join([*SECOND, DONE]))

    FAULTS["choices"] = send
    assert ask("choices", fields={"n": 2}).text == "one two "


@pytest.mark.parametrize(
    ("fields", "shown", "made"),
    [({}, 1, 1), ({"n": 3}, 3, 3), ({"n": 2, "best_of": 5}, 2, 5), ({"prompt": "a"}, 1, 1),
     ({"prompt": ["a", "b"], "n": 2}, 4, 4), ({"prompt": [1, 2, 3]}, 1, 1),
     ({"prompt": [[1], [2]]}, 2, 2), ({"prompt": []}, 1, 1), ({"n": None}, 1, 1)],
)  # fmt: skip
def test_answers_are_counted(fields: dict[str, Any], shown: int, made: int) -> None:
    given = decode_fields(json.dumps(fields).encode())
    assert (answers_to(given), answers_made(given)) == (shown, made)


def test_an_error_beside_a_number_that_is_none_is_an_error() -> None:
    async def send(x: Exchange) -> None:
        x.head()
        x.writer.write(b'{"error": {"message": "sorry", "score": NaN}}')

    FAULTS["nan"] = send
    outcome = ask("nan", stream=False, options=AttemptOptions(retries=0))
    assert (outcome.kind, outcome.status) == ("http_5xx", 502)


@pytest.mark.parametrize("choice", [{"finish_reason": None}, {}, {"finish_reason": "length"}])
def test_a_whole_answer_does_not_end_otherwise_for_being_streamed(choice: dict[str, Any]) -> None:
    async def send(x: Exchange) -> None:
        message = {"role": "assistant", "content": "one "}
        await x.json(whole(choices=[{"index": 0, "message": message, **choice}]))

    FAULTS["whole"] = send
    outcome = ask("whole")
    assert (outcome.kind, outcome.text) == ("", "one ")
    ends = [
        json.loads(e[6:])["choices"][0]["finish_reason"] for e in outcome.body.split(b"\n\n")[:-1]
    ]
    assert ends == [None, choice.get("finish_reason")]


def test_a_whole_answer_that_is_cut_is_no_success_where_a_stream_was_asked_for() -> None:
    async def send(x: Exchange) -> None:
        await x.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(raw(whole()))[:-9])

    FAULTS["whole"] = send
    assert ask("whole").kind == "malformed"


def test_how_a_composed_answer_ended_is_not_made_up() -> None:
    body = bytes(raw(whole(choices=[{"index": 0, "message": {"content": "one"}}])))
    reply = Reply("m", body, Tokens(1, 1))
    made = locals_.whole([conversations._completion("ann", reply, 0.1)])
    assert json.loads(made.body or b"")["choices"][0]["finish_reason"] is None
