import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.experts.retries import retry_after
from coterie.gateway.failures import KINDS, from_error, from_response, redact
from coterie.gateway.retries import Deadline, RetryBudget, duration, pause

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
AZURE = b'{"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}'
LLAMA = b'{"message": "exceeds the available context size", "code": 400}'
FLAGGED = b'{"error": {"message": "your input was flagged", "code": 403}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "shown"),
    [
        (400, b'{"error": {"message": "bad"}}', "bad_request", 400),
        (422, b'{"detail": [{"msg": "field required"}]}', "bad_request", 422),
        (400, b'{"error": {"message": "prompt is too long: 9 > 8"}}', "context_length", 400),
        (400, LLAMA, "context_length", 400),
        (400, AZURE, "content_filter", 400),
        (403, FLAGGED, "content_filter", 403),
        (402, b'{"error": {"message": "no credits"}}', "quota", 429),
        (429, b'{"error": {"code": "insufficient_quota", "message": "x"}}', "quota", 429),
        (429, b"slow", "rate_limited", 429),
        (401, b"", "auth", 502),
        (404, b'[{"error": {"message": "no model"}}]', "missing", 502),
        (408, b"", "http_5xx", 504),
        (409, b"", "conflict", 409),
        (500, b"<html>", "http_5xx", 502),
        (503, b"{}", "overloaded", 503),
        (529, b'{"error": {"type": "overloaded_error", "message": "x"}}', "overloaded", 503),
        (302, b"", "redirect", 502),
        (204, b"", "wrong_shape", 502),
    ],
)
def test_answers_of_many_servers_have_their_kinds(
    status: int, body: bytes, kind: str, shown: int
) -> None:
    told = from_response("far", status, {}, body)
    assert (told.kind, told.status) == (kind, shown)
    assert "<" not in told.message


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"error": {"code": 429, "message": "x"}}, "rate_limited"),
        ({"error": {"code": "content_filter"}}, "content_filter"),
        ({"error": "boom"}, "http_5xx"),
        ({"object": "error", "message": "x", "code": 503}, "overloaded"),
        ("text", "http_5xx"),
        (None, "http_5xx"),
    ],
)
def test_errors_inside_a_success_have_theirs(told: Any, kind: str) -> None:
    assert from_error("far", told).kind == kind


def test_the_providers_code_and_type_are_kept() -> None:
    body = b'{"error": {"message": "m", "type": "odd_error", "code": "odd", "param": "n"}}'
    told = from_response("far", 400, {}, body).to_api_error()
    assert (told.type, told.code, told.param, told.message) == ("odd_error", "odd", "n", "m")


def test_retry_after_reaches_the_client() -> None:
    error = from_response("far", 429, {"retry-after": "7"}, b"").to_api_error()
    assert (b"retry-after", b"7") in error.headers


@UNHURRIED
@given(st.integers(100, 599), st.binary(max_size=300))
def test_no_body_breaks_the_classification(status: int, body: bytes) -> None:
    told = from_response("far", status, {}, body)
    assert told.kind in KINDS
    assert told.to_api_error().body()


@pytest.mark.parametrize(
    "secret",
    ["sk-proj-0123456789", "Bearer abc.def-123", "gsk_0123456789", "AIzaSyD-0123456789abc"],
)
def test_what_looks_like_a_key_is_masked(secret: str) -> None:
    assert secret not in redact(f"wrong key: {secret}, sorry")


def test_our_own_key_is_masked_whatever_it_looks_like() -> None:
    assert redact("the key opensesame is wrong", ["opensesame"]) == "the key *** is wrong"


def test_a_message_is_one_short_line() -> None:
    assert len(redact("x\n\r\0 " * 10_000)) <= 500
    assert redact("a\x1b[2Jb\x9bc") == "a [2Jb c"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "whenever"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({}, None),
    ],
)
def test_retry_after_has_many_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_resets_are_read_in_every_form() -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    assert 25 < (duration(soon) or 0) <= 30
    assert (duration("1h2m3s"), duration("1733000000"), duration("")) == (3723.0, None, None)


def test_an_upstream_without_room_is_paused() -> None:
    used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
    few = {"x-ratelimit-remaining-tokens": "90", "x-ratelimit-reset-tokens": "2s"}
    assert (pause(used_up, 10), pause(few, 100), pause(few, 50)) == (120.0, 2.0, 0.0)


@UNHURRIED
@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_a_fifth_of_the_requests_at_most(steps: list[bool]) -> None:
    budget, first, extra = RetryBudget(), 0, 0
    for retry in steps:
        if retry:
            extra += budget.spend()
        else:
            budget.earn()
            first += 1
        assert extra <= 3 + 0.2 * first + 1e-6


def test_a_deadline_follows_its_clock() -> None:
    now = [5.0]
    deadline = Deadline(2.0, lambda: now[0])
    assert (deadline.left(), deadline.allows(1.9), deadline.allows(2.0)) == (2.0, True, False)
    now[0] = 8.0
    assert deadline.left() == 0.0
    assert Deadline().left() == math.inf
