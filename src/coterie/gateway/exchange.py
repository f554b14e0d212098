"""One request from its arrival to its row in the log: plan, reserve, ask, settle, remember."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from coterie.gateway.asked import Asked
from coterie.gateway.attempts import AttemptOptions, Delivery, Exhausted
from coterie.gateway.bridge import Bridged
from coterie.gateway.conversations import Composed, Talk, converse
from coterie.gateway.entries import Attempt, Entry, Key, Tokens
from coterie.gateway.observing import choice
from coterie.gateway.replies import Outgoing, Upstream
from coterie.gateway.retries import Deadline
from coterie.gateway.routing import Plan
from coterie.gateway.services import Services
from coterie.gateway.usage import bound_answers
from coterie.gateway.wire import ApiError

if TYPE_CHECKING:
    from coterie.gateway.accounts import Reservation

CLOSED = 499  # the client left; never sent, only logged


class Exchange:
    """One request under way. ``begin``, then the body or the events, then ``end``, always.

    ``entry`` becomes the log's row; ``delivery`` is the answer under way.
    """

    __slots__ = (
        "_at_begin", "_began", "_budgeted", "_said", "_shadow", "_start", "_trace", "_waited",
        "asked", "attempts", "delivery", "entry", "key", "over", "plan", "reservation", "services",
    )  # fmt: skip

    def __init__(self, services: Services, key: Key, asked: Asked, id: str, start: float) -> None:
        self.services, self.key, self.asked = services, key, asked
        self.entry = Entry(
            id=id,
            time=time.time(),
            key=key.id,
            team=key.team,
            path=asked.path,
            asked=asked.model,
            stream=asked.stream,
        )
        self.plan: Plan | None = None
        self.reservation: Reservation | None = None
        self.delivery: Delivery | Composed | None = None
        self.attempts: list[Attempt] = []
        self._start, self._began, self._waited = start, 0.0, 0.0
        self._at_begin = 0.0
        self._budgeted = services.accounts.budgeted(key)
        self.over = False
        self._said: list[bytes] = []
        self._shadow: Future[str | None] | None = None
        self._trace: str | None = None

    async def begin(self, headers: Mapping[str, str]) -> Delivery | Composed:
        """Plan, reserve and ask; returns when an answer is certain. Raises ApiError."""
        services, asked = self.services, self.asked
        self.plan = plan = self._planned(await self._stay())
        self._trace = headers.get("traceparent")
        self.reservation = await self._reserved(plan)
        self._at_begin = time.perf_counter()
        deadline = Deadline(services.limits.total)
        out = Outgoing(
            asked.path,
            asked.fields,
            asked.stream,
            asked.wants_usage,
            headers,
            self._bound(),
            asked.prompt_tokens,
        )
        try:
            if plan.composition:
                hold = self._hold if self._budgeted else None
                talk = Talk(services, deadline, self.attempts, self._barred, hold)
                self.delivery = await converse(talk, plan, out)
            else:
                candidates = self._candidates(plan)
                cover = self._cover if self._budgeted else None
                self.delivery = await services.attempts.serve(
                    candidates, out, deadline, self._options(), self.attempts, cover
                )
        except Exhausted as error:
            raise error.to_api_error() from None
        finally:
            self._began = time.perf_counter()
            self._waited = self._began - self._at_begin
        return self.delivery

    def _candidates(self, plan: Plan) -> list[Upstream]:
        """The plan's experts; of /responses a bridge to those that speak chat only."""
        candidates = [self.services.upstreams[name] for name in plan.experts]
        if self.asked.path != "/responses":
            return candidates
        profiles = self.services.routing.eligibility.profiles
        able = [one.name for one in candidates if "responses" in profiles[one.name].capabilities]
        return [one if one.name in able else Bridged(one) for one in candidates]

    def _barred(self, name: str) -> str:
        """Why an expert may not be asked that the plan does not name, "" where it may."""
        if self.plan is not None and name in self.plan.experts:
            return ""
        unpriced = self.services.prices.barred(self._budgeted)
        return self.services.routing.eligibility.bar(
            name, self.asked, self.key.experts, unpriced=unpriced
        )

    def _options(self) -> AttemptOptions:
        options, wish = self.services.options, self.asked.wishes.mid_stream
        if self.asked.path == "/responses":  # events of two answers make no Response
            return replace(options, midstream="error")
        if wish is None:
            return options
        return replace(options, midstream=wish, restart_shown=wish == "restart")

    async def _stay(self) -> str:
        """Who answered this conversation before, "" where nobody did."""
        sessions, asked = self.services.sessions, self.asked
        if sessions is None:
            return ""
        self.entry.session = sessions.name(self.key.id, asked)
        if asked.turns == 1 and asked.wishes.session is None:
            return ""
        return await sessions.expert(self.entry.session)

    def _planned(self, stay: str) -> Plan:
        services, asked, entry = self.services, self.asked, self.entry
        unpriced = services.prices.barred(self._budgeted)
        plan = services.routing.plan(asked, entry.id, self.key.experts, stay, unpriced=unpriced)
        entry.policy, entry.composition = plan.policy, plan.composition or "single"
        entry.decided, entry.propensity = plan.experts[0], plan.propensity
        entry.explored, entry.quality = plan.explored, plan.quality
        entry.expected_cost, entry.candidates = plan.cost, plan.candidates
        entry.constraints = plan.constraints
        if plan.decision is not None:
            entry.reason, entry.evidence = plan.decision.reason, dict(plan.decision.evidence)
            entry.drift = plan.drift
            observing = services.routing.observing
            observing.note(entry, asked.text)
            if plan.query is not None:
                self._shadow = observing.submit(plan.query, entry.decided)
        return plan

    async def _reserved(self, plan: Plan) -> Reservation:
        """Room in the key's budget and limits for one call, or one of each in a composition."""
        services, tokens = self.services, self._longest()
        together = len(plan.experts) if plan.composition else 1
        worst = services.prices.worst(plan.experts, tokens, together)
        expected = self.asked.prompt_tokens + tokens.completion
        return await services.accounts.reserve(self.key, worst, expected)

    def _longest(self) -> Tokens:
        """The most tokens that a call may take."""
        asked, bound = self.asked, self.asked.answer_tokens
        if asked.path == "/embeddings":
            return Tokens(asked.prompt_bound)
        longest = self.services.limits.answer_tokens if bound is None else bound
        return Tokens(asked.prompt_bound, bound_answers(asked.fields, longest))

    async def _cover(self, together: int) -> None:
        """Room in the budget for the dearest so many calls at a time, beside those paid for."""
        assert self.plan is not None
        await self._hold(self.services.prices.worst(self.plan.experts, self._longest(), together))

    async def _hold(self, most: float) -> None:
        """Room in the budget for calls that cost so much, beside those paid for; ApiError."""
        assert self.reservation is not None
        paid = sum([self._priced(one).cost for one in self.attempts])
        if (more := paid + most - self.reservation.cost) <= 0:
            return
        try:
            await self.services.accounts.extend(self.reservation, more)
        except ApiError as error:
            self.entry.constraints["budget"] = f"a further call was not made: {error.message}"
            raise

    def _bound(self) -> int | None:
        """What a budget pays for at most, where the client said nothing of the answer's length."""
        asked = self.asked
        if not self._budgeted or asked.answer_tokens is not None or asked.path == "/embeddings":
            return None
        return self.services.limits.answer_tokens

    def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's frames; raises UpstreamError when it fails for good."""
        assert self.delivery is not None
        if self.services.limits.log_content:
            return self._kept(self.delivery.events())
        return self.delivery.events()

    async def _kept(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for event in events:
                self._said.append(event)
                yield event

    async def end(self, status: int = 200, error: str = "") -> None:
        """Settle and log, whatever happened; only the first end counts."""
        if self.over:
            return
        try:
            if self.delivery is not None:
                await self.delivery.aclose()
        finally:  # money and the log do not depend on how an expert takes its end
            if not self.over:
                self.settle(status, error)

    def settle(self, status: int, error: str) -> None:
        """Count what was used, give back what was reserved, write the row."""
        self.over = True
        entry, services, delivery = self.entry, self.services, self.delivery
        attempts = delivery.attempts if delivery is not None else self.attempts
        entry.attempts = [self._priced(one) for one in attempts]
        used = [one.tokens for one in entry.attempts if one.tokens is not None]
        entry.cost = sum([one.cost for one in entry.attempts])
        entry.tokens = sum(used[1:], used[0]) if used else Tokens()
        if self.reservation is not None:
            if used or entry.cost:
                self.reservation.settle(entry.cost, entry.tokens.total)
            else:
                self.reservation.release()
        now = time.perf_counter()
        entry.status, entry.error = status, error
        entry.latency = now - self._start
        streamed = entry.stream and delivery is not None
        entry.overhead = max((self._began if streamed else now) - self._start - self._waited, 0.0)
        if delivery is not None:
            entry.expert = delivery.expert
            entry.first_token = self._began - self._start
            if services.sessions is not None and status == 200 and not entry.explored:
                services.sessions.put(entry.session, delivery.expert)
        if (best := services.routing.best_single) is not None and used:
            entry.baseline = services.prices.cost(best, used[-1])
        if services.limits.log_content:
            entry.content = self._content()
        entry.shadow = choice(self._shadow)
        services.meters.add(entry)
        services.log.write(entry)
        if services.access is not None:
            services.access(entry)
        if services.tracing is not None:
            services.tracing.record(entry, self._trace)

    def _priced(self, attempt: Attempt) -> Attempt:
        if attempt.tokens is None:
            return attempt
        cost = self.services.prices.cost(attempt.expert, attempt.tokens)
        return msgspec.structs.replace(attempt, cost=cost)

    def _content(self) -> dict[str, Any]:
        """Messages and answer, where the operator wants them in the log."""
        names = ("messages", "prompt", "input", "tools")
        asked = {n: _readable(v) for n, v in self.asked.fields.items() if n in names}
        body = self.delivery.reply.body if self.delivery is not None else None
        answer = b"".join(self._said) if body is None else body
        return {**asked, "answer": answer.decode("utf-8", "replace")}

    @property
    def spent(self) -> float:
        """Seconds since the request came, less those spent waiting for experts."""
        now, waited = time.perf_counter(), self._waited
        if self._at_begin and not self._began:  # a heartbeat while it still waits
            waited = now - self._at_begin
        return max(now - self._start - waited, 0.0)


def _readable(value: msgspec.Raw) -> Any:
    """A field's value, or the bytes that are none."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bytes(value).decode("utf-8", "replace")
