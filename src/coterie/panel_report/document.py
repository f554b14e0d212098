"""The sections in the order a reader needs them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import partial

import coterie
from coterie.learning import LearningCurve
from coterie.page import page, section, table, tag
from coterie.panel import Panel
from coterie.panel_report.choices import confusion_matrix, knowing, regret, shares
from coterie.panel_report.costs import plane
from coterie.panel_report.held_out import HeldOut, held_out
from coterie.panel_report.opening import opening
from coterie.panel_report.scores import calibration, learning, panel_table, whiskers
from coterie.views import estimators


def render(panel: Panel, learned: LearningCurve | None = None, more: Iterable[HeldOut] = ()) -> str:
    """The report of ``panel`` as one HTML page that makes no request.

    ``learned`` is the learning curve of one of its routers; without it the page says that none was
    computed. ``more`` is what else its routers were judged on: transfer, cold start, robustness.
    """
    sections: dict[str, Callable[[Panel], str]] = {
        "Quality against cost": plane,
        "The panel": panel_table,
        "Scores with intervals": whiskers,
        "What routers know about questions": knowing,
        "Whether estimates come true": calibration,
        "Regret by category": regret,
        "Chosen and best expert": confusion_matrix,
        "Who is chosen": shares,
        "Quality against questions to learn from": partial(learning, learned=learned),
    }
    last = {"What was left out": _left_out, "How this was made": _made}
    parts = (
        opening(panel),
        *(section(heading, content(panel)) for heading, content in sections.items()),
        *(held_out(found, panel.default) for found in more),
        *(section(heading, content(panel)) for heading, content in last.items()),
    )
    return page("\n".join(parts))


def _left_out(panel: Panel) -> str:
    lines = []
    if panel.left_out:
        lines.append(f"Experts observed too seldom: {', '.join(panel.left_out)}.")
    if panel.queries_left_out:
        lines.append(f"Questions without every expert's score: {panel.queries_left_out:,}.")
    lines += [f"{note[:1].upper()}{note[1:]}." for note in panel.notes]
    return "".join(tag("p", line) for line in lines or ["Nothing was left out."])


def _made(panel: Panel) -> str:
    text = (
        f"Questions were shuffled with seed {panel.seed} and held out in {panel.folds} parts; "
        "everything, also who the best single expert is, was learnt on the other parts. "
        f"Coterie {coterie.__version__}, Python {platform.python_version()}."
    )
    phases = [(name, f"{seconds:.1f}") for name, seconds in panel.seconds.items()]
    fits = [(names, f"{seconds:.1f}") for names, _, seconds in estimators(panel)]
    seconds = table(("phase", "seconds"), phases, words=1)
    if fits:
        seconds += table(("router and policies", "seconds"), fits, words=1)
    return tag("p", text) + f'<div class="tables">{seconds}</div>'
