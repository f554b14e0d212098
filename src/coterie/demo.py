"""The main job on the embedded pool: Symbolic-MoE, stages A to E, judged on held-out questions.

Everything that is chosen (rule, aggregator, best single, best trio, aggregating expert) is chosen
on the validation questions, with cross-fitted estimates; the test questions are only answered.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from coterie import evaluation
from coterie.aggregator_benchmark import aggregator_accuracy
from coterie.aggregators import Aggregator, ByExpert, Majority, Weighted
from coterie.answers import extractor
from coterie.compositions import Composition, recruit
from coterie.config import read_config
from coterie.drivers.batch import Progress, Result, answer_all, distinct_loads, naive_loads
from coterie.evaluation import Row
from coterie.experts.base import Expert
from coterie.experts.recorded import RecordedExpert
from coterie.files import replace_file
from coterie.policies import RULES, Recruit, Utility, distinct_experts
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import Questions, embedded_questions
from coterie.records import Records
from coterie.report import render
from coterie.routers.base import Router
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.routers.skills import Skills
from coterie.runs import answer_row
from coterie.study import Study, summary
from coterie.types import Call, Completion, Decision

FIVE = "recruit 5, greedy rule, calibrated vote"
K = 3  # experts per question (paper)
BENCHMARK = 80  # validation questions in the aggregator benchmark
TEMPLATE = "{question}\n{answers}\nBest answer?"  # what the larger generalist was trained on


class Console(Protocol):
    """Where progress goes: named phases of calls, and lines of text."""

    def phase(self, name: str) -> AbstractContextManager[Callable[[Progress], None]]:
        """A context that gives the progress callback of one phase."""

    def say(self, text: str) -> None:
        """One line for the reader."""


class _Merging(Expert):
    """Answers from records, but aggregates for real: an aggregator judged at little cost."""

    def __init__(self, recorded: RecordedExpert, real: Expert) -> None:
        self.recorded, self.real = recorded, real
        self.name, self.price = real.name, real.price
        self.slots = real.slots

    @property
    def size(self) -> int:
        return self.real.size

    async def complete(self, call: Call) -> Completion:
        source = self.real if call.purpose == "aggregate" else self.recorded
        return await source.complete(call)

    async def load(self) -> None:
        await self.real.load()

    async def unload(self, keep: bool = False) -> None:
        await self.real.unload(keep)


async def run_demo(console: Console, limit: int | None = None) -> Study:
    """Profile, fit, choose, answer and judge; ``limit`` cuts both question sets."""
    config = read_config("embedded")
    pool = config.pool()
    try:
        return await _Demo(pool, tuple(config.left_out()), console, limit).run()
    finally:
        await pool.close()


class _Demo:
    """One run, step by step."""

    def __init__(
        self, pool: Pool, left_out: tuple[str, ...], console: Console, limit: int | None
    ) -> None:
        self.pool, self.left_out, self.console = pool, left_out, console
        self.extract = pool.extractor
        self.questions = {
            split: _first(embedded_questions(split), limit) for split in ("validation", "test")
        }
        self.seconds: dict[str, float] = {}

    async def run(self) -> Study:
        start = time.perf_counter()
        profiled = await self._profile("validation", list(self.pool.experts))
        validation = evaluation.complete(profiled)
        router = Skills().fit(validation)
        accuracy = await self._benchmark(validation)
        merger = max(accuracy, key=lambda name: accuracy[name])
        policies = {rule: Recruit(K, rule) for rule in RULES} | {FIVE: Recruit(5)}
        crossed = evaluation.cross_fitted(Skills, validation, policies)
        five = evaluation.calibrate(crossed.pop(FIVE), validation, self.extract)
        votes = self._votes(validation, crossed["greedy"])
        selection = await self._select(validation, crossed, votes, merger)
        rule, name = max(selection, key=lambda key: selection[key]).split("/")
        aggregator = {**votes, "expert": self._merge_by(merger)}[name]
        result = await self._answer(router, validation, rule, aggregator)
        test = await self._profile("test", list(validation.experts))
        headline = evaluation.answers_row("coterie", result.answers, test, self.extract)
        rows = await self._rows(validation, test, router, votes, merger)
        if five is not None:
            rows.append(self._five(router, validation, test, five))
        rows += [headline, evaluation.oracle_row(test)]
        self.seconds["all"] = time.perf_counter() - start
        return Study(
            rows=tuple(rows),
            headline=headline,
            best_single=evaluation.best_single_row(validation, test),
            validation=validation,
            test=test,
            answers=result.answers,
            chosen={"rule": rule, "aggregator": name, "aggregating expert": merger},
            aggregators=accuracy,
            selection=selection,
            loads={
                "actual": result.progress.loads,
                "naive": naive_loads(result.answers, self.pool.experts, self.pool.capacity),
                "lower_bound": distinct_loads(result.answers, self.pool.experts),
            },
            unique=self._unique(router, validation),
            seconds=self.seconds,
            parameters=self.pool.parameters,
            left_out=self.left_out,
            unit=self.pool.unit,
            extract=self.pool.extract,
            sampled=sampled_experts(profiled, validation),
        )

    async def _profile(self, split: str, experts: list[str]) -> Records:
        """Stage B's calls on validation; on test the table that judges every baseline."""
        questions = self.questions[split]
        start = time.perf_counter()
        with self.console.phase(f"every expert on {split}") as report:
            records = await profile_pool(self.pool, questions, experts=experts, report=report)
        self.seconds[f"profile {split}"] = time.perf_counter() - start
        return records

    async def _benchmark(self, validation: Records) -> dict[str, float]:
        """Stage E: accuracy of every complete expert as aggregator."""
        pool = dataclasses.replace(
            self.pool, experts={e: self.pool.experts[e] for e in validation.experts}
        )
        part = validation.take(range(min(BENCHMARK, len(validation))))
        start = time.perf_counter()
        with self.console.phase("choosing an aggregator") as report:
            accuracy = await aggregator_accuracy(pool, part, self._merge_by(""), report=report)
        self.seconds["aggregator benchmark"] = time.perf_counter() - start
        return accuracy

    def _merge_by(self, expert: str) -> ByExpert:
        return ByExpert(expert, self.extract, TEMPLATE, brief=True)

    def _votes(self, validation: Records, decisions: Sequence[Decision]) -> dict[str, Aggregator]:
        """Ways to vote, the confidence-weighted one fitted on cross-fitted decisions."""
        votes: dict[str, Aggregator] = {
            "weighted": Weighted(self.extract),
            "majority": Majority(self.extract),
        }
        calibrated = evaluation.calibrate(decisions, validation, self.extract)
        return votes if calibrated is None else {**votes, "calibrated": calibrated}

    async def _select(
        self,
        validation: Records,
        crossed: Mapping[str, Sequence[Decision]],
        votes: Mapping[str, Aggregator],
        merger: str,
    ) -> dict[str, float]:
        """Validation accuracy of every rule and vote, and of the aggregating expert."""
        scores: dict[str, float] = {}
        for rule, decisions in crossed.items():
            for name in ("weighted", "majority"):
                vote = composed(votes[name])
                row = evaluation.replay_row("", decisions, vote, validation, self.extract)
                scores[f"{rule}/{name}"] = float(row.scores.mean())
            held_out = evaluation.calibrated_scores(decisions, validation, self.extract, composed)
            if held_out is not None:
                scores[f"{rule}/calibrated"] = float(held_out.mean())
        row = await self._merged(validation, crossed["greedy"], merger, "validation")
        scores["greedy/expert"] = float(row.scores.mean())
        return scores

    async def _merged(
        self, records: Records, decisions: Sequence[Decision], merger: str, split: str
    ) -> Row:
        """Recorded answers of the recruited, merged by a real call to the aggregating expert."""
        recorded = {e: RecordedExpert.from_records(records, e) for e in records.experts}
        real = self.pool.experts[merger]
        experts: dict[str, Expert] = {**recorded, merger: _Merging(recorded[merger], real)}
        start = time.perf_counter()
        with self.console.phase(f"aggregator on {split}") as report:
            result = await answer_all(
                self.pool.prepare(records.queries),
                decisions,
                composed(self._merge_by(merger)),
                experts,
                report=report,
            )
        self.seconds[f"merging on {split}"] = time.perf_counter() - start
        name = f"recruit 3, merged by {merger}"
        return evaluation.answers_row(name, result.answers, records, self.extract)

    async def _answer(
        self, router: Router, validation: Records, rule: str, aggregator: Aggregator
    ) -> Result:
        """The main job: the test questions through the batch driver, grouped by expert."""
        queries = self.pool.prepare(self.questions["test"].queries)
        policy = evaluation.trimmed(Recruit(K, rule), router, validation)
        start = time.perf_counter()
        decisions = policy.decide(queries, router.predict(queries))
        self.seconds["recruit"] = time.perf_counter() - start
        start = time.perf_counter()
        with self.console.phase("coterie answers test") as report:
            result = await answer_all(
                queries,
                decisions,
                composed(aggregator),
                self.pool.experts,
                capacity=self.pool.capacity,
                report=report,
            )
        self.seconds["answer"] = time.perf_counter() - start
        return result

    async def _rows(
        self,
        validation: Records,
        test: Records,
        router: Router,
        votes: Mapping[str, Aggregator],
        merger: str,
    ) -> list[Row]:
        """The table, from the floor up."""
        weighted = composed(votes["weighted"])
        replayed = functools.partial(evaluation.replay_row, records=test, extract=self.extract)
        trio = evaluation.static_vote(validation, K, votes["weighted"])
        by_category = evaluation.category_decisions(validation, test, K)
        rows = [
            evaluation.random_row(test),
            evaluation.confidence_row(test),
            evaluation.best_single_row(validation, test),
            replayed("static best-3 vote", [trio] * len(test), weighted, reads="nothing"),
            evaluation.category_row(validation, test),
            replayed("per-category best-3 vote", by_category, weighted, reads="category"),
        ]
        for other in (router, KNN().fit(validation), Linear().fit(validation)):
            rows.append(_top_row(other, test))
        greedy = self._recruited(router, validation, test, "greedy")
        for name, vote in votes.items():
            rows.append(replayed(f"recruit 3, greedy rule, {name} vote", greedy, composed(vote)))
        for rule in RULES[1:]:
            decisions = self._recruited(router, validation, test, rule)
            rows.append(replayed(f"recruit 3, {rule} rule, weighted vote", decisions, weighted))
        return [*rows, await self._merged(test, greedy, merger, "test")]

    def _five(self, router: Router, validation: Records, test: Records, vote: Aggregator) -> Row:
        """Five experts a question: what more calls buy."""
        policy = evaluation.trimmed(Recruit(5), router, validation)
        decisions = policy.decide(test.queries, router.predict(test.queries))
        return evaluation.replay_row(FIVE, decisions, composed(vote), test, self.extract)

    def _recruited(
        self, router: Router, validation: Records, test: Records, rule: str
    ) -> list[Decision]:
        policy = evaluation.trimmed(Recruit(K, rule), router, validation)
        return policy.decide(test.queries, router.predict(test.queries))

    def _unique(self, router: Router, validation: Records) -> dict[str, float]:
        """Mean number of different experts a question under every rule, on validation."""
        estimates = router.predict(validation.queries)
        return {
            rule: distinct_experts(Recruit(K, rule).decide(validation.queries, estimates))
            for rule in RULES
        }


def sampled_experts(profiled: Records, complete: Records) -> dict[str, tuple[float, int]]:
    """Accuracy and number of questions of the experts that are not in the complete records."""
    seen = {e: profiled.quality[profiled.observed[:, j], j] for j, e in enumerate(profiled.experts)}
    return {
        e: (float(scores.mean()) if len(scores) else 0.0, len(scores))
        for e, scores in seen.items()
        if e not in complete.experts
    }


def composed(aggregator: Aggregator) -> Composition:
    """Recruit-and-aggregate with this aggregator."""
    return functools.partial(recruit, aggregator=aggregator)


def _first(questions: Questions, limit: int | None) -> Questions:
    return questions if limit is None else questions.take(range(min(limit, len(questions))))


def _top_row(router: Router, test: Records) -> Row:
    """The router's first choice for every question."""
    decisions = Utility().decide(test.queries, router.predict(test.queries))
    columns = np.array([test.experts.index(d.experts[0]) for d in decisions])
    return evaluation.column_row(f"{router.name} router, top 1", test, columns, "text")


def write_demo(study: Study, folder: Path) -> None:
    """Write ``report.html``, ``answers.jsonl`` and ``summary.json``, each in one piece."""
    facts, extract = summary(study), extractor(study.extract)
    rows = zip(study.answers, study.test.references, study.test.categories, strict=True)
    lines = [
        json.dumps({**answer_row(a, extract), "reference": r, "category": c}, ensure_ascii=False)
        for a, r, c in rows
    ]
    replace_file(folder / "answers.jsonl", "\n".join(lines) + "\n")
    replace_file(folder / "summary.json", json.dumps(facts, indent=1) + "\n")
    replace_file(folder / "report.html", render(study))
