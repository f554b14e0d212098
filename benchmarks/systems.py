"""Systems of the literature side by side on real records: writes docs/systems.md and .json.

    python benchmarks/systems.py --data DIR --output docs

DIR holds the record sets (see docs/results.md). Routers are judged alone, compositions behind k
nearest neighbours; both on parts of the sets, so that a run takes minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.answers import Extractor, whole
from coterie.files import replace_file
from coterie.formats import read_records
from coterie.panel import Entrant, Panel, judge
from coterie.panel.composing import composition_entrants
from coterie.panel.specs import parse_specs, router_factory
from coterie.plugins import names
from coterie.records import Records
from coterie.routers.neighbors import KNN

FOLDS, SEED = 5, 0
LEADER = "knn"
ROUTERS = (
    "centroid",
    "centroid(reduce=max)",
    "centroid(assign=category, reduce=max)",
    "online-mean",
    "online-linear",
    "online-linear(dim=None, penalty=10.0)",
    "tryage",
    "adaptive",
    "smoothie",
    "soft-labels",
    "agent-graph",
)


@dataclass(frozen=True)
class Part:
    """Some questions and experts of a record set."""

    name: str
    folder: str
    questions: int
    experts: int  # the first of the set
    extract: Extractor = whole


PARTS = (
    Part("LLMRouter's nine models", "llmrouter9", 2000, 9),
    Part("ZeroEval, six models", "zeroeval", 900, 6),
)


def read(part: Part, data: Path) -> Records:
    """The part's records: questions drawn once, in their own order."""
    records = read_records(data / part.folder)
    drawn = np.random.default_rng(SEED).permutation(len(records))[: part.questions]
    return records.select(records.experts[: part.experts]).take(np.sort(drawn))


def measure(part: Part, data: Path) -> dict[str, Any]:
    """The panel of one part."""
    registered = names("routers")
    specs = [s for s in parse_specs(",".join(ROUTERS)) if s.name in registered]
    entrants = [Entrant(LEADER, KNN)]
    entrants += [Entrant(s.text, router_factory(s, "static")) for s in specs]
    entrants += composition_entrants("all", LEADER, KNN, part.extract)
    panel = judge(
        read(part, data),
        entrants,
        FOLDS,
        SEED,
        default=LEADER,
        extract=part.extract,
        tolerant=True,
    )
    return {"name": part.name, "notes": list(panel.notes), **panel.to_dict(), "rows": rows(panel)}


def rows(panel: Panel) -> list[dict[str, Any]]:
    """What the table shows of every row."""
    return [
        {
            "name": row.name,
            "reads": row.reads,
            "score": float(row.scores.mean()),
            "gain": [row.versus.value, row.versus.low, row.versus.high],
            "calls": float(row.calls.mean()),
            "cost": None if np.isnan(row.cost) else row.cost,
        }
        for row in panel.rows
    ]


def table(facts: dict[str, Any]) -> list[str]:
    """One set as Markdown."""
    data = facts["data"]
    lines = [f"## {facts['name']}", ""]
    lines += [f"{data['queries']:,} questions, {len(data['experts'])} experts.", ""]
    lines += ["| who answers | reads | calls | cost | mean score | vs best single (95 %) |"]
    lines += ["|---|---|--:|--:|--:|--:|"]
    for row in facts["rows"]:
        value, low, high = (100 * number for number in row["gain"])
        cost = "" if row["cost"] is None else f"{row['cost']:.3g}"
        lines.append(
            f"| {row['name']} | {row['reads']} | {row['calls']:.2f} | {cost} | "
            f"{row['score']:.4f} | {value:+.2f} [{low:+.2f}, {high:+.2f}] |"
        )
    return [*lines, "", *[f"- {note}" for note in facts["notes"]]]


def page(results: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# Systems of the literature on real records",
        "",
        "`python benchmarks/systems.py --data DIR` judges what `docs/strategies.md` names and "
        "`results.md` does not, on parts of two record sets: routers alone, compositions behind "
        f"`{LEADER}` (`{LEADER}: …`; cascades from the cheapest expert to the best, others with "
        "three experts). Five folds, seed 0; what is learnt is learnt inside the training folds. "
        "Settings are the defaults, not tuned. A row whose interval holds 0 does not beat best "
        "single here.",
    ]
    for facts in results:
        lines += ["", *table(facts)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the record sets")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write to")
    parser.add_argument("--only", default="", help="only sets whose name holds this; others stay")
    chosen = parser.parse_args()
    path = chosen.output / "systems.json"
    found = json.loads(path.read_text())["sets"] if path.exists() else []
    known = {old["name"]: old for old in found}
    for part in PARTS:
        if chosen.only in part.name:
            known[part.name] = measure(part, chosen.data)
            print("\n".join(table(known[part.name])), flush=True)
    results = [known[part.name] for part in PARTS if part.name in known]
    replace_file(path, json.dumps({"schema": 1, "sets": results}, indent=1) + "\n")
    replace_file(chosen.output / "systems.md", page(results))


if __name__ == "__main__":
    main()
