"""Commands that learn from a pool: demo, profile, fit."""

from __future__ import annotations

import asyncio
import json
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
    check_profile,
    check_router,
    keep,
    show,
)
from coterie.errors import CoterieError

if TYPE_CHECKING:
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
    kept = journal_of(str(output), questions, pool)
    check_profile(output, kept)
    console = RichConsole()

    async def job() -> Any:
        try:
            queries = await annotated(made, asked.queries, annotator, seed, console, kept)
            known = replace(asked, queries=queries)
            with console.phase("profile") as report:
                records = await profile_questions(
                    made, known, journal=kept, seed=seed, report=report
                )
            records.write(output)
            if not aggregators:
                return records, None
            merger = ByExpert("", made.extractor)
            with console.phase("aggregators") as report:
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
    check_router(output, records)
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
    if blank := sum(not query.text for query in data.queries):
        lines.append(f"{blank} of them have no text: of these it learnt means, no differences")
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


def reads_tags(router: Router) -> bool:
    """Whether the router was fitted on skills that an annotating expert named."""
    return getattr(router, "annotator", None) == "tags"


def journal_of(output: str, *inputs: str, journal: Path | None = None) -> Path | str:
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


async def annotated(
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
    with Journal(path, header) as skills, console.phase("skills") as report:
        return await annotate_queries(
            pool, asked, annotator, seed=seed, journal=skills, report=report
        )
