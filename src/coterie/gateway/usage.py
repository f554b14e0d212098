"""Token counts as experts report them, and estimates, marked as such, where they do not."""

from __future__ import annotations

import msgspec

from coterie.gateway.entries import Tokens
from coterie.gateway.wire import Fields

Count = int | float | None
PER_TOKEN = 4  # bytes, where nobody counted
BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
ASKED = ("messages", "prompt", "input", "instructions", "tools", "system")


class Details(msgspec.Struct):
    """Parts of a count."""

    cached_tokens: Count = None
    reasoning_tokens: Count = None


class Usage(msgspec.Struct):
    """The shapes of usage that OpenAI's endpoints and others have."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    input_tokens: Count = None
    output_tokens: Count = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    prompt_cache_hit_tokens: Count = None


_decode = msgspec.json.Decoder(Usage | None).decode


def count_tokens(usage: Usage | None) -> Tokens | None:
    """What was reported; None where that is nothing or no count at all."""
    if usage is None:
        return None
    prompt = usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens
    made = usage.completion_tokens if usage.output_tokens is None else usage.output_tokens
    asked = usage.prompt_tokens_details or usage.input_tokens_details or Details()
    answered = usage.completion_tokens_details or usage.output_tokens_details or Details()
    cached = asked.cached_tokens or usage.prompt_cache_hit_tokens
    counts = [prompt or 0, made or 0, cached or 0, answered.reasoning_tokens or 0]
    if not all(0 <= count < 2**53 for count in counts) or not (counts[0] or counts[1]):
        return None
    prompt, made, cached, reasoning = map(int, counts)
    return Tokens(prompt, made, min(cached, prompt), min(reasoning, made))


def read_usage(data: msgspec.Raw) -> Tokens | None:
    """The same from JSON; None for what is no usage."""
    try:
        return count_tokens(_decode(data))
    except (msgspec.DecodeError, RecursionError):
        return None


def estimate_prompt(fields: Fields) -> int:
    """Tokens of a request by its length, everything that a model reads counted."""
    size = sum(len(memoryview(fields[name])) for name in ASKED if name in fields)
    return -(-size // PER_TOKEN)


def longest(fields: Fields, unbounded: int) -> Tokens:
    """The same and the longest answer, ``unbounded`` where the request does not bound it."""
    given = [bytes(fields[name]) for name in BOUNDS if name in fields]
    bounds = [int(one) for one in given if one.isdigit()]
    return Tokens(estimate_prompt(fields), max(bounds, default=unbounded))


def expected_tokens(fields: Fields) -> int:
    """The same with the longest answer, as far as the request bounds it."""
    for name in BOUNDS:
        if name in fields and (bound := bytes(fields[name])).isdigit():
            return estimate_prompt(fields) + int(bound)
    return estimate_prompt(fields)


def answers_to(fields: Fields) -> int:
    """Choices of the answer: ``n`` for each prompt, of which /completions takes a list."""
    return _count(fields, "n") * _prompts(fields)


def answers_made(fields: Fields) -> int:
    """Answers that are written, and paid for: of ``best_of`` only the best are shown."""
    return max(_count(fields, "n"), _count(fields, "best_of")) * _prompts(fields)


def _count(fields: Fields, name: str) -> int:
    given = bytes(fields[name]) if name in fields else b""
    return max(1, int(given)) if given.isdigit() and len(given) < 10 else 1


def _prompts(fields: Fields) -> int:
    """A list of numbers is one prompt, in tokens."""
    given = bytes(fields["prompt"]) if "prompt" in fields else b""
    if not given.lstrip().startswith(b"["):
        return 1
    try:
        prompts = msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
    return max(1, sum(not isinstance(one, int) for one in prompts))


def estimate(fields: Fields, answered: int) -> Tokens:
    """Tokens of a request and an answer of ``answered`` bytes, marked as estimated."""
    return Tokens(estimate_prompt(fields), -(-answered // PER_TOKEN), estimated=True)
