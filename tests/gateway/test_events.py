import json
from itertools import pairwise

import pytest
from fault_upstream import FINISH, REPORT, ROLE, SAID, STREAM, chunk, event, word
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.gateway.entries import Tokens
from coterie.gateway.events import ChatTally, EventParser, EventTooLarge, ResponsesTally, read_event

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
WHOLE = b"".join([ROLE, b": ping\n\n", word("naïve 日本"), *SAID, FINISH, REPORT])


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@UNHURRIED
@given(st.lists(st.integers(0, 10_000), max_size=40), st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int], end: str) -> None:
    data = WHOLE.replace(b"\n", end.encode())
    parser = EventParser()
    events = [e.strip(b"\n") for piece in pieces(data, cuts) for e in parser.feed(piece)]
    assert [e for e in events if e] == WHOLE.split(b"\n\n")[:-1]
    assert parser.rest() in ([], [b"\n"])


@UNHURRIED
@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_what_is_passed_on_does_not_depend_on_the_cuts(cuts: list[int]) -> None:
    tally = ChatTally()
    passed = b"".join(map(tally.feed, pieces(WHOLE, cuts)))
    assert passed == WHOLE.replace(b": ping\n\n", b"").replace(REPORT, b"")
    assert (tally.tokens, tally.complete) == (Tokens(7, 10), True)


@UNHURRIED
@given(st.text(), st.text(min_size=1))
def test_any_text_is_passed_and_counted(first: str, second: str) -> None:
    tally, simple = ChatTally(), ChatTally()
    simple._remember = lambda *_: None  # type: ignore[method-assign]
    events = [chunk({"content": text}) for text in ("example", first, second)]
    assert b"".join(map(tally.feed, events)) == b"".join(events)
    assert b"".join(map(simple.feed, events)) == b"".join(events)
    assert (tally.size, tally.count, tally.shown) == (simple.size, simple.count, simple.shown)


@pytest.mark.parametrize("text", ['a"b', "a\x07b", "caf\xe9"])
def test_an_event_that_is_like_others_but_broken_is_skipped(text: str) -> None:
    tally = ChatTally()
    broken = word("x").replace(b"x ", text.encode("latin-1"))
    assert tally.feed(word("a") + broken + word("b")) == word("a") + word("b")
    assert tally.malformed == 1


def test_several_data_lines_become_one() -> None:
    assert read_event(b'data: {"a":\ndata: 1}') == (b'data: {"a": 1}', b'{"a": 1}', b"")
    assert read_event(b"id: 7\ndata:x\n: no") == (b"id: 7\ndata: x", b"x", b"")


def test_an_event_too_large_is_refused_early() -> None:
    parser = EventParser(largest=100)
    for _ in range(100):
        parser.feed(b"x")
    with pytest.raises(EventTooLarge):
        parser.feed(b"x")


@pytest.mark.parametrize(
    ("delta", "content", "shown"),
    [
        ({"role": "assistant"}, False, False),
        ({"role": "assistant", "content": ""}, False, False),
        ({"content": None, "tool_calls": []}, False, False),
        ({"content": "x"}, True, True),
        ({"reasoning_content": "x"}, True, False),
        ({"reasoning": "x", "content": ""}, True, False),
        ({"refusal": "no"}, True, True),
        ({"tool_calls": [{"index": 0}]}, True, True),
        ({"audio": {"id": "a"}}, True, True),
    ],
)
def test_content_is_what_says_something(delta: object, content: bool, shown: bool) -> None:
    tally = ChatTally()
    assert tally.feed(chunk(delta))
    assert (tally.content, tally.shown) == (content, shown)


def test_every_choice_has_to_finish() -> None:
    def part(index: int, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": {"content": "x"}, "finish_reason": finish}
        return event({"choices": [choice]})

    tally = ChatTally()
    tally.feed(part(0) + part(1) + part(0, "stop"))
    assert not tally.complete
    tally.feed(part(1, "stop"))
    assert tally.complete


def test_nan_is_no_reason_to_drop_an_event() -> None:
    tally = ChatTally()
    odd = b'data: {"choices":[{"delta":{"content":"x"},"logprobs":{"content":[NaN]}}]}\n\n'
    assert tally.feed(odd) == odd
    assert (tally.content, tally.malformed) == (True, 0)


@UNHURRIED
@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_break_it(data: bytes, cuts: list[int]) -> None:
    for tally in (ChatTally(), ResponsesTally()):
        for piece in pieces(b"data: " + data + b"\n\n" + STREAM[1], cuts):
            tally.feed(piece)
        tally.end()


def test_responses_have_events_of_their_own() -> None:
    usage = {
        "input_tokens": 5,
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    response = {"model": "served", "status": "completed", "usage": usage}
    tally = ResponsesTally()
    created = b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'
    assert tally.feed(created) == created
    assert not tally.content
    tally.feed(event({"type": "response.reasoning_text.delta", "delta": "hm"}))
    assert (tally.content, tally.shown) == (True, False)
    tally.feed(event({"type": "response.output_text.delta", "delta": "hi"}))
    assert (tally.shown, tally.complete) == (True, False)
    tally.feed(event({"type": "response.completed", "response": response}))
    assert (tally.complete, tally.tokens) == (True, Tokens(5, 2, reasoning=1))


def test_a_failed_response_is_an_error() -> None:
    tally = ResponsesTally()
    failed = {"status": "failed", "error": {"code": "server_error", "message": "boom"}}
    tally.feed(event({"type": "response.failed", "response": failed}))
    assert json.loads(tally.error or b"") == failed["error"]
