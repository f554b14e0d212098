"""Commands that run a pool: demo, profile, fit, route, answer."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
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
    keep,
    show,
)
from coterie.errors import CoterieError

if TYPE_CHECKING:
    from coterie.config import Config
    from coterie.pool import Pool
    from coterie.routers.base import Router
    from coterie.types import Query


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for report, answers, summary.")] = Path(
        "demo"
    ),
    limit: Annotated[int | None, typer.Option(min=40, help="Only so many questions a set.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Recruit, answer and judge on the embedded pool of real models; write a report.

    Example: coterie demo --output demo
    """
    from coterie.console import RichConsole, show_table
    from coterie.demo import run_demo, write_demo
    from coterie.study import summary

    console = RichConsole()
    study = asyncio.run(run_demo(console, limit))
    write_demo(study, output)
    if as_json:
        print(json.dumps(summary(study), indent=1))
    else:
        show_table(study)
    console.say(f"report: {output / 'report.html'}")


@app.command()
def profile(
    pool: PoolArgument,
    questions: QuestionsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the records.")],
    annotator: AnnotatorOption = None,
    aggregators: Annotated[
        bool, typer.Option("--aggregators", help="Also measure who merges answers best.")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Put labelled questions to every expert and record score, cost and latency.

    Interrupt it whenever you like: the same command goes on where it stopped.

    Example: coterie profile embedded questions.jsonl -o records
    """
    from dataclasses import replace

    from coterie.aggregator_benchmark import aggregator_accuracy
    from coterie.aggregators import ByExpert
    from coterie.config import read_config
    from coterie.console import RichConsole, show_aggregators, show_experts
    from coterie.questions import read_questions
    from coterie.runs import profile_questions

    made = read_config(pool).pool()
    asked = read_questions(questions)
    if output.exists() and not output.is_dir():
        raise CoterieError(f"{output} is no folder; --output is a folder for the records")
    kept = _journal_of(str(output), questions, pool)
    console = RichConsole()

    async def job() -> Any:
        try:
            queries = await _annotated(made, asked.queries, annotator, seed, console, kept)
            known = replace(asked, queries=queries)
            total = len(known) * len(made.experts)
            with console.phase("profile", total) as report:
                records = await profile_questions(
                    made, known, journal=kept, seed=seed, report=report
                )
            records.write(output)
            if not aggregators:
                return records, None
            merger = ByExpert("", made.extractor)
            with console.phase("aggregators", total) as report:
                return records, await aggregator_accuracy(
                    made, records, merger, seed=seed, report=report
                )
        finally:
            await made.close()

    records, accuracy = asyncio.run(job())
    show_experts(records, made, as_json)
    if accuracy is not None:
        show_aggregators(accuracy, console.stderr)
    _complain_of_failures(records, made)
    console.say(f"records: {output}; next: coterie fit {output} -o router")


def _complain_of_failures(records: Any, pool: Pool) -> None:
    """Fail where calls did: their cells are not in the records."""
    asked = {name: pool.asked(name, len(records)) for name in pool.experts}
    missing = {
        name: asked[name] - int(seen)
        for name, seen in zip(records.experts, records.observed.sum(axis=0), strict=True)
    }
    failed = [f"{name}: {n} of {asked[name]} calls" for name, n in missing.items() if n]
    if failed:
        raise CoterieError(
            f"failed ({'; '.join(failed)}); what was answered is recorded, "
            "run the same command again to ask only the rest"
        )


@app.command()
def fit(
    records: Annotated[Path, typer.Argument(help="Folder written by 'coterie profile'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the fitted router.")],
    router: Annotated[
        str | None,
        typer.Option(
            help="One router, like knn, 'knn(k=50)' or module:Attr; by default stack, or skills "
            "where the records have an annotator's skills."
        ),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="static or lexical.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a router from records.

    Example: coterie fit records -o router --router 'knn(k=50)'
    """
    from coterie.records import Records

    _maker(router, encoder, ())  # a mistake shows before the records are read
    data = Records.read(records)
    make, tagged = _maker(router, encoder, data.queries)
    fitted = make().fit(data)
    fitted.save(output)
    vote = _calibration(make, data)
    facts = {
        "router": fitted.name,
        "experts": list(fitted.experts_),
        "queries": len(data),
        "fingerprint": fitted.fingerprint(),
        "path": str(output),
        "calibration": vote,
    }
    lines = [f"{fitted.name} router on {len(data)} queries: {output}"]
    if tagged:
        lines.append("it reads skills from the annotator: answer needs --annotator too")
    if vote:
        shown = ", ".join(f"{name} = {value}" for name, value in vote.items())
        lines += [
            "confidence-weighted vote for three recruits, fitted on these records:",
            '  aggregator = "calibrated"',
            f"  aggregator_settings = {{ {shown} }}",
        ]
    show(facts, as_json, "\n".join(lines))


def _maker(
    router: str | None, encoder: str | None, queries: Sequence[Query]
) -> tuple[Callable[[], Router], bool]:
    """Makes the router that was asked for, and whether it reads the annotator's skills."""
    from dataclasses import replace

    from coterie.panel import DEFAULT
    from coterie.panel.specs import parse_spec, router_factory

    tags = any(query.tags for query in queries)
    spec = parse_spec(router if router is not None else "skills" if tags else DEFAULT)
    if encoder is not None and "encoder" in spec.settings:
        raise CoterieError(f"--encoder {encoder}: --router {spec.text} names one already")
    given: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    if spec.name == "skills" and tags:
        given["annotator"] = "tags"
    spec = replace(spec, settings={**given, **spec.settings})
    return router_factory(spec, "static"), spec.settings.get("annotator") == "tags"


def _calibration(make: Callable[[], Router], data: Any) -> dict[str, float] | None:
    """Settings of the confidence-weighted vote, where records are many and have confidences."""
    from coterie.answers import whole
    from coterie.evaluation import FOLDS, calibrate, cross_fitted
    from coterie.policies import Recruit

    if len(data) < 10 * FOLDS or not (data.logprob == data.logprob).any():
        return None
    try:
        crossed = cross_fitted(make, data, {"greedy": Recruit()})
    except CoterieError:  # a router that knows only its own queries, such as the oracle
        return None
    vote = calibrate(crossed["greedy"], data, whole)
    names = ("intercept", "quality", "surprise")
    return None if vote is None else {name: getattr(vote, name) for name in names}


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
    lines = [f"{decision.composition}: {', '.join(decision.experts)}", f"why: {decision.reason}"]
    show({**decision.to_dict(), "estimates": expected}, as_json, "\n".join(lines))


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
        kept = _journal_of(output, questions, pool, journal=journal)
        answers = stack.enter_context(AnswerFile(len(asked), made.extractor))
        known = stack.enter_context(Cache(cache)) if cache else None
        made = stack.enter_context(_on_ray(made, ray, replicas, console))

        async def job() -> Any:
            try:
                queries = await _annotated(made, asked, annotator, seed, console, kept)
                with console.phase("answer", len(queries), by_question=True) as report:
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


def reads_tags(router: Router) -> bool:
    """Whether the router was fitted on skills that an annotating expert named."""
    return getattr(router, "annotator", None) == "tags"


def _journal_of(output: str, *inputs: str, journal: Path | None = None) -> Path | str:
    """Beside the output; in memory where the output is no file that stays.

    Raises CoterieError where output or journal would overwrite an input or each other.
    """
    path = Path(output)
    taken = {Path(name).resolve() for name in inputs if name != "-"}
    if output != "-" and path.resolve() in taken:
        raise CoterieError(f"{output} is one of the inputs; choose another --output")
    if journal is not None:
        if journal.resolve() in {*taken, path.resolve()}:
            raise CoterieError(f"{journal} is an input or the output; choose another --journal")
        keep(str(journal))
        return journal
    if output == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        return ":memory:"
    keep(f"{output}.journal")
    return Path(f"{output}.journal")


def _caps(cost: float | None, calls: int | None) -> Any:
    from coterie.drivers.limits import Caps

    if cost is None and calls is None:
        return None
    return Caps(math.inf if cost is None else cost, math.inf if calls is None else calls)


async def _annotated(
    pool: Pool, asked: Any, annotator: str | None, seed: int, console: Any, kept: Path | str
) -> Any:
    """The queries with skills as tags where an annotator is named, from a journal of its own."""
    from coterie.profiling import annotate_queries
    from coterie.runs import fingerprint
    from coterie.store import Journal

    if annotator is None:
        return asked
    path = kept if kept == ":memory:" else f"{kept}-skills"
    header = {
        "annotator": annotator,
        "questions": fingerprint(asked),
        "pool": pool.fingerprint(),
        "seed": str(seed),
    }
    with Journal(path, header) as skills, console.phase("skills", 5 * len(asked)) as report:
        return await annotate_queries(
            pool, asked, annotator, seed=seed, journal=skills, report=report
        )


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
