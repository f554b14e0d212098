"""Eviction on a live trace from MMLU-Pro: how much of LRU's gap to Belady look-ahead closes.

    python benchmarks/arrivals.py --data DIR --output benchmarks/results/arrivals.json

The pool is the mid-tier: experts of 28 to 50 % accuracy on the half of the questions that the
router (``linear``) learns from. It recruits three of them for each of 3,000 questions of the other
half, in random order; four fit on the device. ``lookahead_gap_closed`` is the share of the loads
between LRU and Belady that evicting by the 16 requests at the head of the queue saves, in the order
of arrival, while that many are known. ``live`` is the same with Poisson arrivals, where look-ahead
sees only who has arrived: requests come so fast that a server under LRU would be busy for the given
share of the time, with a second a load and a second's work an expert. Waits are in those seconds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from coterie.files import replace_file
from coterie.formats import read_records
from coterie.records import Records
from coterie.residency import LFU, LookAhead
from coterie.routers.linear import Linear
from coterie.simulation import Service, Trace, compare_queues, compare_rules, recruit_trace, serve
from coterie.traces import grouped_loads, load_balance, segment_routing

LOW, HIGH = 0.28, 0.50  # accuracy of the mid-tier
RECRUITS, REQUESTS = 3, 3000
CAPACITY, WINDOW, PATIENCE = 4, 16, 15
UTILIZATIONS = (0.8, 0.95)
SEED = 0


def mid_tier(records: Records) -> Records:
    """The experts of middling accuracy on the questions that ``recruit_trace`` learns from."""
    learnt, _ = records.folds(2, SEED)
    means = np.nanmean(records.quality[learnt], axis=0)
    pairs = zip(records.experts, means, strict=True)
    return records.select([expert for expert, mean in pairs if LOW <= mean <= HIGH])


def measure(data: Path) -> dict[str, Any]:
    """Hit rates, loads and waits; ``skipped`` with the reason where the records are absent."""
    folder = data / "mmlu_pro"
    if not folder.exists():
        return {"skipped": f"no mmlu_pro in {data}; give the folder of record sets with --data"}
    trace = recruit_trace(mid_tier(read_records(folder)), Linear, RECRUITS, REQUESTS, SEED)
    rules = {one.rule: one for one in compare_rules(trace, CAPACITY, WINDOW)}
    belady = rules["belady"].replay.loads
    served = {str(share): live(trace, share, belady) for share in UTILIZATIONS}
    busiest = served[str(max(UTILIZATIONS))]
    return {
        **describe(trace),
        "hit_rate": {rule: round(one.replay.hit_rate, 4) for rule, one in rules.items()},
        "warm_hit_rate": {rule: round(one.replay.warm_hit_rate, 4) for rule, one in rules.items()},
        "loads": {rule: one.replay.loads for rule, one in rules.items()},
        "lookahead_gap_closed": round(rules["look-ahead"].gap_closed, 4),
        "sch_gap_closed": round(rules["sch"].gap_closed, 4),
        "overtaking": overtaking(trace),
        "live_gap_closed": busiest["look-ahead, then LFU"]["gap_closed"],
        "longest_wait_s": {name: one["longest_wait_s"] for name, one in busiest.items()},
        "live": served,
    }


def describe(trace: Trace) -> dict[str, Any]:
    """The trace itself."""
    experts = len(trace.experts)
    return {
        "requests": len(trace.steps),
        "experts": experts,
        "recruits": RECRUITS,
        "capacity": CAPACITY,
        "window": WINDOW,
        "entropy_bits": round(load_balance(trace.steps, experts).entropy, 3),
        "srp_16": [round(one, 4) for one in segment_routing(trace.steps, experts, 16)[:3]],
        "grouped_loads_per_1000": {
            m: round(grouped_loads(trace.steps, m)) for m in (1, 16, 64, 256)
        },
    }


def overtaking(trace: Trace) -> dict[str, int]:
    """Loads where requests of the window may overtake one another, and how often one was."""
    served = serve(trace, CAPACITY, LookAhead(beyond=LFU()), window=WINDOW, patience=PATIENCE)
    return {"loads": served.replay.loads, "most_overtaken": served.overtaken, "bound": PATIENCE}


def live(trace: Trace, utilization: float, belady: int) -> dict[str, Any]:
    """Loads, waits and the gap closed of every way to serve the same arrivals."""
    found = compare_queues(
        trace, CAPACITY, window=WINDOW, patience=PATIENCE, utilization=utilization, seed=SEED
    )
    gap = found["LRU"].replay.loads - belady
    return {name: facts(one, found["LRU"], gap) for name, one in found.items()}


def facts(service: Service, lru: Service, gap: int) -> dict[str, Any]:
    return {
        "loads": service.replay.loads,
        "hit_rate": round(service.replay.hit_rate, 4),
        "gap_closed": round((lru.replay.loads - service.replay.loads) / gap, 4),
        "mean_wait_s": round(float(service.waits.mean()), 1),
        "longest_wait_s": round(float(service.waits.max()), 1),
        "most_overtaken": service.overtaken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result = measure(args.data)
    print(json.dumps(result, indent=1))
    if args.output:
        replace_file(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
