"""One decision with its evidence, as ``coterie why`` tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.gateway.dashboard.nodes import (
    Element,
    Node,
    badge,
    element,
    facts,
    moment,
    number,
    seconds,
    table,
)
from coterie.gateway.entries import Entry, Feedback
from coterie.gateway.reasons import reasons

WIDTH, HEIGHT = 200, 16  # of an interval's bar


def decision(entry: Entry, feedback: Sequence[Feedback] = ()) -> list[Node]:
    """All there is to say about a request."""
    told = reasons(entry, feedback)
    return [
        facts(_summary(entry, told)),
        element("p", told["reason"], class_="reason") if told["reason"] else "",
        _candidates(told),
        _flip(told),
        _constraints(told["constraints"]),
        _attempts(told["attempts"]),
        _nearest(told["nearest"]),
        _content(entry),
    ]


def _summary(entry: Entry, told: Mapping[str, Any]) -> dict[str, Node | None]:
    tokens, count = told["tokens"], entry.tokens
    mark = " (estimated)" if count.estimated else ""
    cached = f", {count.cached:,} of the prompt cached" if count.cached else ""
    thought = f", {count.reasoning:,} of the answer reasoning" if count.reasoning else ""
    times = f"{seconds(entry.latency)} (gateway {seconds(entry.overhead)})"
    drawn = f"yes, with probability {entry.propensity:.3g}" if entry.explored else None
    several = (
        f" ({entry.composition})" if entry.composition not in ("", "single", entry.policy) else ""
    )
    expected = f", {number(entry.expected_cost)} was expected" if entry.expected_cost else ""
    best = f", always-best {number(entry.baseline)}" if entry.baseline is not None else ""
    scores = ", ".join(f"{f['score']:g} {f['note']}".strip() for f in told["feedback"])
    return {
        "decision": element("code", entry.id),
        "time": moment(entry.time, "%Y-%m-%d %H:%M:%S UTC"),
        "asked for": entry.asked,
        "answered by": entry.expert or "nobody",
        "policy": f"{entry.policy}{several}",
        "status": f"{entry.status} {entry.error}".strip(),
        "cost": f"{number(entry.cost)}{expected}{best}",
        "tokens": f"{tokens['prompt']:,} in, {tokens['completion']:,} out{cached}{thought}{mark}",
        "latency": times,
        "first content": seconds(entry.first_token) if entry.stream and entry.first_token else None,
        "explored": drawn,
        "shadow router": entry.shadow and f"would have asked {entry.shadow}",
        "distance from the records": None if entry.drift is None else f"{entry.drift:.2f} radii",
        "feedback": scores,
    }


def _candidates(told: Mapping[str, Any]) -> Node:
    runner_up = (told["runner_up"] or {}).get("expert")
    rows = [_candidate(one, runner_up) for one in told["candidates"]]
    head = ("expert", "expected quality, 95 % interval", "why not", "quality", "cost")
    return table("Candidates", head, rows, 3, "asked by name: nobody else was considered")


def _candidate(one: Mapping[str, Any], runner_up: str | None) -> list[Node]:
    name, quality = one["expert"], one["quality"]
    mark = badge("chosen", "good") if one["chosen"] else ""
    if name == runner_up:
        mark = badge("runner-up")
    bar = "" if quality is None else bar_of(quality, one["interval"])
    return [
        element("span", f"{name} ", mark),
        bar,
        one["barred"],
        number(quality),
        number(one["cost"], 4),
    ]


def bar_of(quality: float, interval: Sequence[float] | None) -> Element:
    """A quality between 0 and 1 with its interval, drawn."""
    low, high = interval or (quality, quality)
    left, right = _place(low), _place(high)
    told = f"{quality:.3f}" + (f", {low:.3f} to {high:.3f}" if interval else "")
    return element(
        "svg",
        element("title", told),
        element("line", x1=0, x2=WIDTH, y1=8, y2=8, class_="track"),
        element("rect", x=left, y=4, width=max(right - left, 1), height=8, rx=3, class_="span")
        if interval
        else None,
        element("circle", cx=_place(quality), cy=8, r=4, class_="dot"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="bar",
        role="img",
        aria_label=f"expected quality {told}",
    )


def _place(value: float) -> float:
    return round(5 + min(max(value, 0.0), 1.0) * (WIDTH - 10), 1)


def _flip(told: Mapping[str, Any]) -> Node:
    """What it would take for another choice."""
    flip, parts = told["flip"], []
    if flip["willingness_to_pay"] is not None:
        at = number(flip["willingness_to_pay"], 4)
        parts.append(f"At a willingness to pay of {at} it would be {flip['to']}.")
    if flip["quality"] is not None and told["runner_up"]:
        short, name = number(flip["quality"]), told["runner_up"]["expert"]
        parts.append(f"{name}, the runner-up, would need {short} more expected quality.")
    if not parts:
        return ""
    return element("p", element("strong", "What would flip it: "), " ".join(parts))


def _constraints(given: Mapping[str, Any]) -> Node:
    if not given:
        return ""
    shown = {name: _plain(value) for name, value in given.items()}
    return element("div", element("h3", "Constraints applied"), facts({**shown}))


def _attempts(attempts: Sequence[Mapping[str, Any]]) -> Node:
    rows = [_attempt(one) for one in attempts]
    head = ("expert", "outcome", "status", "time", "tokens", "cost")
    return table("Attempts", head, rows, 2, "nobody was asked")


def _attempt(one: Mapping[str, Any]) -> list[Node]:
    tokens, kind = one.get("tokens"), one.get("kind", "")
    count = f"{tokens['prompt'] + tokens['completion']:,}" if tokens else "–"
    return [
        one["expert"],
        badge(kind or "answered", "bad" if kind else "good"),
        str(one.get("status", 200)),
        seconds(one.get("seconds", 0.0)),
        count,
        number(one.get("cost", 0.0)),
    ]


def _nearest(records: Sequence[Mapping[str, Any]]) -> Node:
    if not records:
        return ""
    items = [element("li", _plain(one)) for one in records]
    return element("div", element("h3", "Nearest records"), element("ul", *items))


def _content(entry: Entry) -> Node:
    """The texts, where the operator keeps them."""
    if entry.content is None:
        return ""
    text = json.dumps(entry.content, ensure_ascii=False, indent=1)
    return element(
        "details", element("summary", "Logged content"), element("pre", text, tabindex=0)
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return number(value, 4) if isinstance(value, float) else str(value)
