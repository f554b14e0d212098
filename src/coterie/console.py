"""Progress bars and tables for people, on stderr and stdout, through rich."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from coterie.drivers.batch import Progress
from coterie.pool import Pool
from coterie.records import Records
from coterie.study import Study, verdict


class RichConsole:
    """Live progress on stderr, so that results on stdout stay clean."""

    def __init__(self) -> None:
        self.stderr = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One line on stderr."""
        self.stderr.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[Progress], None]]:
        """A bar over the calls that are known, with rate, questions, loads and cost so far.

        Where standard error is no terminal, a line twice a minute instead.
        """
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        live = self.stderr.is_terminal
        start = shown = time.monotonic()
        with Bars(*columns, console=self.stderr, disable=not live) as bars:
            task = bars.add_task(name, total=None, facts="")

            def report(progress: Progress) -> None:
                nonlocal shown
                now = time.monotonic()
                if now - shown < (BAR if live else LINE) and progress.waiting:
                    return
                shown, facts = now, _facts(progress, now - start)
                total = progress.calls + progress.waiting
                bars.update(task, completed=progress.calls, total=total, facts=facts)
                if not live and progress.calls and now - start > LINE:
                    left = (now - start) * progress.waiting / progress.calls / 60
                    done = f"{progress.calls:,} of {total:,} calls, {left:.1f} min left"
                    self.say(f"{name}: {done}, {facts}")

            yield report


BAR, LINE = 0.1, 30.0  # seconds between updates of a bar, and between lines without one


def _facts(progress: Progress, seconds: float) -> str:
    """Rate, questions, loads and cost so far."""
    rate = progress.calls / max(seconds, 1e-9)
    answered = f"{progress.answered:,} of {progress.questions:,} questions"
    return f"{rate:.3g}/s, {answered}, {progress.loads} loads, cost {progress.cost:.3g}"


def show_table(study: Study) -> None:
    """Print the panel of a demo, and in words whether the coterie beats the best single expert."""
    table = Table(title=f"{len(study.test)} held-out questions", title_justify="left")
    for name in ("who answers", "reads"):
        table.add_column(name)
    for name in ("accuracy", "95 %", "vs best single", "cost", "calls"):
        table.add_column(name, justify="right")
    for row, facts in zip(study.rows, study.panel, strict=True):
        low, high = facts["ci"]
        against = facts["vs_best_single"]
        style = "bold" if row is study.headline else None
        table.add_row(
            Text(row.name),
            row.reads,
            f"{facts['accuracy']:.3f}",
            f"{low:.3f} .. {high:.3f}",
            f"{against['diff']:+.3f} [{against['ci'][0]:+.3f}, {against['ci'][1]:+.3f}]",
            f"{facts['cost']:.4f}",
            f"{row.calls:.2f}",
            style=style,
        )
    out = Console()
    out.print(table)
    for line in verdict(study):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def show_experts(records: Records, pool: Pool, as_json: bool) -> None:
    """Print each expert's mean score, cost and number of questions."""
    facts = []
    for j, name in enumerate(records.experts):
        seen = records.observed[:, j]
        facts.append(
            {
                "expert": name,
                "questions": int(seen.sum()),
                "accuracy": float(np.mean(records.quality[seen, j])) if seen.any() else None,
                "cost": float(np.nanmean(records.cost[seen, j])) if seen.any() else None,
            }
        )
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    table = Table("expert", "questions", "accuracy")
    table.add_column(Text(f"cost a question ({pool.unit})"))
    for fact in facts:
        shown = ["-" if v is None else f"{v:.4g}" for v in (fact["accuracy"], fact["cost"])]
        table.add_row(Text(str(fact["expert"])), str(fact["questions"]), *shown)
    Console().print(table)


def show_aggregators(accuracy: Mapping[str, float], out: Console) -> None:
    """Print who finds the right answer among one right and two wrong ones, the best first."""
    table = Table("as aggregator", "accuracy", title="one right, two wrong answers given")
    for name, value in sorted(accuracy.items(), key=lambda item: -item[1]):
        table.add_row(Text(name), f"{value:.3f}")
    out.print(table)
