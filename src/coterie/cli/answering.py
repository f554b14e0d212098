"""Commands that put questions to a pool: route, answer."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.base import (
    AnnotatorOption,
    JsonOption,
    PoolArgument,
    QuestionsArgument,
    SeedOption,
    app,
    show,
)
from coterie.cli.running import annotated, journal_of, reads_tags
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.config import Config
    from coterie.pool import Pool
    from coterie.routers.base import Router
    from coterie.types import Decision


@app.command()
def route(
    question: Annotated[str, typer.Argument(help="The question; '-' reads standard input.")],
    router: Annotated[Path, typer.Option(help="Folder written by 'coterie fit'.")],
    k: Annotated[int, typer.Option(min=1, help="How many experts to recruit.")] = 3,
    rule: Annotated[str, typer.Option(help="greedy, paper, released or top-p.")] = "greedy",
    willingness_to_pay: Annotated[
        float | None,
        typer.Option("--willingness-to-pay", "-w", help="Choose one expert by utility instead."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="module:Attr of a router of your own.")] = None,
    skills: Annotated[
        str | None, typer.Option(help="Skills, for a router fitted with --annotator: 'a, b'.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show which experts would answer, and why. Nothing is asked.

    Example: coterie route "What is 37 plus 58?" --router router
    """
    from dataclasses import replace

    from coterie.policies import Policy, Recruit, Utility
    from coterie.types import Query

    text = _piped() if question == "-" else question
    if not text.strip():
        raise CoterieError("the question is empty; give its text or pipe it in with '-'")
    fitted = _load_router(router, kind)
    tags = tuple(word.strip() for word in (skills or "").split(",") if word.strip())
    query = replace(Query.from_text("question", text), tags=tags)
    policy: Policy = Recruit(k, rule, seed=seed)
    if willingness_to_pay is not None:
        policy = Utility(willingness_to_pay)
    if reads_tags(fitted) and not tags:
        raise CoterieError("this router reads skills from an annotator; name them: --skills 'a, b'")
    estimates = fitted.predict([query])
    (decision,) = policy.decide([query], estimates)
    pairs = zip(estimates.experts, estimates.quality[0], estimates.cost[0], strict=True)
    expected = {e: {"quality": float(q), "cost": float(c)} for e, q, c in pairs}
    facts = {**decision.to_dict(), "estimates": expected}
    show(facts, as_json, "\n".join(_explained(decision)))


def _explained(decision: Decision) -> list[str]:
    """A decision for people: who answers, what is expected of them, and what would change it."""
    first, *others = decision.experts
    if decision.composition == "single":
        lines = [f"{first} answers" + (f"; if it fails: {', '.join(others)}" if others else "")]
    else:
        lines = [f"{decision.composition}: {', '.join(decision.experts)}"]
    known = decision.evidence
    for fact in known.get("chosen", []):
        lines.append(f"  {_expected(fact)}")
    if runner_up := known.get("runner_up"):
        lines.append(f"not chosen: {_expected(runner_up)}")
    if known.get("flips_at") is not None:
        worth, to = known["flips_at"], known.get("flips_to")
        lines.append(f"at a willingness to pay of {worth:.4g} it would be {to}")
    for record in (r for r in known.get("nearest") or [] if r["text"]):
        lines.append(f"nearest record: {record['text']}")
    return [*lines, f"why: {decision.reason}"]


def _expected(fact: Mapping[str, Any]) -> str:
    """One expert with its expected quality, 95 % interval and cost, as far as they are known."""
    interval, cost = fact.get("interval"), fact.get("cost")
    within = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    price = f", cost {cost:.4g}" if cost is not None else ""
    return f"{fact['expert']}: expected quality {fact['quality']:.2f}{within}{price}"


@app.command()
def answer(
    pool: PoolArgument,
    questions: QuestionsArgument,
    output: Annotated[str, typer.Option("--output", "-o", help="JSONL file, or '-'.")] = "-",
    router: Annotated[
        Path | None, typer.Option(help="Fitted router; default: [router] of the pool file.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="module:Attr of a router of your own.")] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Where progress is kept; default: OUTPUT.journal.")
    ] = None,
    annotator: AnnotatorOption = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Spend at most so much, in the pool's unit; the rest is left."),
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(min=0, help="Make at most so many calls; the rest is left.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep completions in this file and reuse equal calls.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Conversations in memory at a time.")] = 20_000,
    ray: Annotated[
        str | None,
        typer.Option(help="Local experts run on this Ray cluster: local, auto or HOST:PORT."),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: actors an expert.")] = 1,
    seed: SeedOption = 0,
) -> None:
    """Answer questions with the pool: recruited experts, each loaded once, merged answers.

    Interrupt it whenever you like, even with kill -9: the same command goes on where it stopped.
    Under --max-cost or --max-calls the questions that gain most are answered; the same command with
    more answers the rest.

    Example: coterie answer embedded questions.jsonl --router router -o answers.jsonl
    """
    from contextlib import ExitStack

    from coterie.caching import Cache
    from coterie.config import read_config
    from coterie.console import RichConsole
    from coterie.files import replace_file
    from coterie.questions import open_queries
    from coterie.runs import AnswerFile, answer_questions

    config = read_config(pool)
    made = config.pool()
    fitted = _router_of(config, router, kind)
    if reads_tags(fitted) and annotator is None:
        raise CoterieError("this router reads skills from an annotator; name it with --annotator")
    policy, composition = config.policy(seed), config.composition(made)
    if Path(output).is_dir():
        raise CoterieError(f"{output} is a folder; --output is a file, or '-'")
    console, caps = RichConsole(), _caps(max_cost, max_calls)

    with ExitStack() as stack:
        asked = stack.enter_context(open_queries(questions))
        kept = journal_of(output, questions, pool, journal=journal)
        answers = stack.enter_context(AnswerFile(len(asked), made.extractor))
        known = stack.enter_context(Cache(cache)) if cache else None
        made = stack.enter_context(_on_ray(made, ray, replicas, console))

        async def job() -> Any:
            try:
                queries = await annotated(made, asked, annotator, seed, console, kept)
                with console.phase("answer") as report:
                    return await answer_questions(
                        made, queries, fitted, policy, composition, answers.take,
                        journal=kept, seed=seed, caps=caps, cache=known, window=window,
                        report=report,
                    )  # fmt: skip
            finally:
                await made.close()

        progress = asyncio.run(job())
        if output == "-":
            sys.stdout.writelines(line.decode() for line in answers.lines())
        else:
            replace_file(output, answers.lines())
        _finish(progress, answers, output, kept, console)


def _on_ray(pool: Pool, address: str | None, replicas: int, console: Any) -> Any:
    """The pool, with its local experts on a cluster where one is named; for ``with``."""
    from contextlib import nullcontext

    if address is None:
        if replicas > 1:
            raise CoterieError("--replicas are Ray actors; name a cluster with --ray")
        return nullcontext(pool)
    from coterie.drivers.distributed import on_ray

    console.say(f"connecting to Ray: {address}")
    return on_ray(pool, address, replicas)


def _piped() -> str:
    """The question on standard input; raises CoterieError where it is closed or not UTF-8."""
    if sys.stdin is None:
        raise CoterieError("standard input is closed")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise CoterieError("standard input is not UTF-8") from None


def _caps(cost: float | None, calls: int | None) -> Any:
    from coterie.drivers.limits import Caps

    if cost is None and calls is None:
        return None
    return Caps(math.inf if cost is None else cost, math.inf if calls is None else calls)


def _finish(done: Any, answers: Any, output: str, kept: Path | str, console: Any) -> None:
    """Say what was done; fail where questions were left without an answer."""
    where = "" if output == "-" else f"; answers: {output}"
    hits = f"{done.hits} from the cache, " if done.hits else ""
    console.say(
        f"{done.answered} questions, {done.calls} calls, {done.reused} from the journal, {hits}"
        f"{done.loads} loads, cost {done.cost:.4g}{where}"
    )
    again = "run the same command again"
    if kept == ":memory:":
        again = "name a --journal so that a second run asks only these"
    complaints = []
    if done.left:
        complaints.append(
            f"the cap was reached: {done.left} of {done.questions} questions were left unanswered"
        )
    if (first := answers.failed) is not None:
        complaints.append(
            f"{answers.failures} of {done.questions} questions failed, the first "
            f"({first.query_id}) with: {first.completion.error}"
        )
    if complaints:
        more = " with a higher cap" if done.left else " to ask only these"
        raise CoterieError(f"{'; '.join(complaints)}; {again}{more}")


def _router_of(config: Config, folder: Path | None, kind: str | None) -> Router:
    path = folder or config.router_path()
    if path is None:
        raise CoterieError(
            f"{config.path} names no [router] and --router is not given; make one with: "
            "coterie profile POOL QUESTIONS -o records && coterie fit records -o router"
        )
    return _load_router(path, kind or config.router_kind())


def _load_router(path: Path, kind: str | None) -> Router:
    from coterie import plugins
    from coterie.routers.base import load_router

    if kind is None:
        return load_router(path)
    loaded: Router = plugins.load("routers", kind, allow_import=True).load(path)
    return loaded
