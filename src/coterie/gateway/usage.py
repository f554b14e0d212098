"""Token counts as experts report them, and estimates, marked as such, where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from coterie.gateway.entries import Tokens
from coterie.gateway.wire import Fields

if TYPE_CHECKING:
    from coterie.gateway.replies import Outgoing

Count = int | float | None
PER_TOKEN = 4  # bytes, where nobody counted
BOUNDS: Mapping[str, tuple[str, ...]] = {  # of an answer's tokens, by what they mean something to
    "/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/completions": ("max_tokens",),
    "/responses": ("max_output_tokens",),
    "/embeddings": (),
}
TEMPLATE = 128  # tokens that an expert's chat template may add to a prompt, beyond JSON's own bytes
TOOLING = 512  # and where there are tools
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


def bound_prompt(size: int, fields: Fields) -> int:
    """The most tokens of a prompt that is ``size`` bytes of JSON, a token having at least a byte.

    JSON never writes a text shorter than it is, and what it writes around the text pays for what a
    template does, but for a system prompt of its own.
    """
    if "tools" in fields or "functions" in fields:
        return size + TEMPLATE + TOOLING
    return size + TEMPLATE


def bound_answers(fields: Fields, bound: int) -> int:
    """The most tokens of all answers of ``bound`` each; a refuted prediction is paid for too."""
    most = bound * answers_made(fields)
    return most + len(memoryview(fields["prediction"])) if "prediction" in fields else most


def longest(path: str, fields: Fields, unbounded: int) -> Tokens:
    """The most tokens of a request, its answers ``unbounded`` where it does not bound them."""
    size = sum([len(memoryview(value)) for value in fields.values()])
    bound = unbounded if (given := _bound(path, fields)) is None else given
    return Tokens(bound_prompt(size, fields), bound_answers(fields, bound))


def _bound(path: str, fields: Fields) -> int | None:
    most = None
    for name in BOUNDS[path]:
        if name in fields and (given := bytes(fields[name])).isdigit():
            most = max(int(given), most or 0)
    return most


def prompt_tokens(out: Outgoing) -> int:
    """Tokens of the prompt, as they were estimated when it was read."""
    return estimate_prompt(out.fields) if out.prompt_tokens is None else out.prompt_tokens


def expected_tokens(out: Outgoing) -> int:
    """The same with the longest answer, as far as the request bounds it."""
    return prompt_tokens(out) + (_bound(out.path, out.fields) or 0)


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


def estimate(out: Outgoing, answered: int) -> Tokens:
    """Tokens of a request and an answer of ``answered`` bytes, marked as estimated.

    No answer is longer than its bound, however few bytes its tokens have.
    """
    said = -(-answered // PER_TOKEN)
    bound = _bound(out.path, out.fields) if out.bound is None else out.bound
    if said and bound is not None:
        said = min(said, bound_answers(out.fields, bound))
    return Tokens(prompt_tokens(out), said, estimated=True)
