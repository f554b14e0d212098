"""From a gateway's log to records, to another router's value, and to why."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import coterie
from log_world import POOL, entry, records, traffic

from coterie.gateway.entries import Attempt, Candidate, Entry, Tokens
from coterie.gateway.exporting import Log, write_log
from coterie.gateway.ledger import open_ledger
from coterie.policies import Utility
from coterie.routers.baselines import Always
from coterie.routers.linear import Linear
from coterie.types import Estimates, Query


def done(*args: str) -> str:
    code, out, err = coterie(*args)
    assert code == 0, err
    return out


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store(*entries: Entry, log: Log | None = None) -> None:
    with open_ledger("gateway.sqlite") as ledger:
        for one in entries or (log.entries if log else ()):
            ledger.write(one)
        for given in log.feedback if log else ():
            ledger.add_feedback(given.id, given.score)
        asyncio.run(ledger.flush())


def test_a_log_is_exported_described_merged_and_learnt_from(place: Path) -> None:
    store(log=traffic(60))
    text = done("log", "export", "-o", "served")
    assert "60 requests, 60 with a score: 60 records of 3 experts in served" in text
    assert "have no text" not in text
    records().write("profiled")
    done("records", "describe", "served")
    done("records", "merge", "served", "profiled", "-o", "both")
    done("fit", "both", "-o", "router", "--router", "linear")
    code, _, err = coterie("log", "export", "-o", "served")
    assert code == 1
    assert "--replace replaces them" in err
    facts = json.loads(done("log", "export", "-o", "served", "--replace", "--json"))
    assert (facts["texts"], facts["path"]) == (60, "served")


def test_an_export_says_what_is_missing(place: Path) -> None:
    store(log=traffic(10, hidden=True))
    text = done("log", "export", "-o", "served")
    assert "10 records have no text, as the gateway did not log content" in text
    assert "10 vectors by an encoder the log does not name in served.vectors.npz" in text
    assert "10 of them have no text" in done("fit", "served", "-o", "r", "--router", "linear")


def test_another_router_is_judged_on_the_store_and_on_its_export_alike(place: Path) -> None:
    store(log=traffic(600))
    Linear().fit(records()).save("router")
    done("log", "export", "-o", "served")
    command = ("evaluate", "--router", "router", "--json", "-", "--off-policy")
    from_store, from_export = (json.loads(done(*command, s)) for s in ("gateway.sqlite", "served"))
    assert from_store == from_export
    assert from_store["difference"]["low"] > 0.2
    assert from_store["values"]["snips"]["low"] < 0.9 < from_store["values"]["snips"]["high"]
    assert from_store["values"]["direct"]["low"] is None
    assert {row["name"] for row in from_store["coverage"]["experts"]} == set(POOL)


def test_the_table_says_in_words_whether_a_difference_is_shown(place: Path) -> None:
    write_log(traffic(600), "served")
    Linear().fit(records()).save("better")
    Always("ann").fit(records()).save("same")
    text = done("evaluate", "--off-policy", "served", "--router", "better", "--json", "out.json")
    assert "600 requests, 600 with a score (100%); reward: the latest score\n" in text
    assert "the router would have earned 0." in text
    assert "more a request than what was done [+" in text
    assert json.loads(Path("out.json").read_text())["shown"] is True
    done("evaluate", "--off-policy", "served", "--router", "same", "-w", "100")
    write_log(traffic(25), "few")
    text = done("evaluate", "--off-policy", "few", "--router", "same")
    assert "no difference shown" in text
    assert "doubtful: the weights are worth" in text


def test_a_log_without_chance_is_refused_or_judged_where_it_overlaps(place: Path) -> None:
    write_log(traffic(60, rate=0.0), "served")
    Linear().fit(records()).save("router")
    command = ("evaluate", "--off-policy", "served", "--router", "router")
    code, _, err = coterie(*command)
    assert code == 1
    assert "would ask bob, of which the log has no reward" in err
    assert "30 requests do not overlap" in done(*command, "--overlap-only")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--off-policy", "served"), "name its folder with --router"),
        (("records", "--off-policy", "served"), "leave records out"),
        (("--off-policy", "none", "--router", "r"), "none.log.jsonl: no such log"),
        (("--off-policy", "served", "--router", "r", "-w", "0"), "expected a number above 0"),
        ((), "name a folder of RECORDS"),
    ],
)
def test_what_cannot_be_judged_is_said(place: Path, arguments: tuple[str, ...], told: str) -> None:
    (place / "none").mkdir()
    code, _, err = coterie("evaluate", *arguments)
    assert code == 1
    assert told in err


def decided(**more: Any) -> Entry:
    """A request as routing makes it: ann expects more, bob stands in, cid is barred."""
    expected = Estimates(POOL[:2], np.array([[0.9, 0.6]]), np.array([[4.0, 1.0]]))
    (choice,) = Utility(20.0).decide([Query.from_text("q", "hello")], expected)
    candidates = [
        Candidate("ann", 0.9, 0.05, 4.0),
        Candidate("bob", 0.6, 0.1, 1.0),
        Candidate("cid", 0.95, None, 1.0, "lacks tools"),
    ]
    tried = [Attempt("ann", "http_5xx", 503, 0.1), Attempt("bob", "", 200, 0.3, Tokens(7, 3), 1.2)]
    settings = {"reason": choice.reason, "evidence": dict(choice.evidence), "cost": 1.2}
    return entry(0, "hello", "ann", 0.95, candidates=candidates, attempts=tried, expert="bob",
                 asked="auto", **{**settings, **more})  # fmt: skip


def test_why_tells_candidates_bars_runner_up_flip_and_attempts(place: Path) -> None:
    one = decided(shadow="cid", drift=1.25, constraints={"session": {"expert": "ann"}})
    store(one)
    with open_ledger("gateway.sqlite") as ledger:
        ledger.add_feedback(one.id, 0.5, note="too short")
    lines = done("why", one.id).splitlines()
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "bob answered instead of ann (policy auto, with chance 0.95)" in text
    assert "ann 0.90 0.80 .. 1.00 4 chosen" in text
    assert "cid 0.95 1 barred: lacks tools" in text
    assert "runner-up: bob; an expected quality 0.150 higher would have put it first" in text
    assert "at a willingness to pay of 10 it would have been bob" in text
    assert "ann 503 0.100 0 http_5xx" in text
    assert "bob 200 0.300 7+3 1.2" in text
    assert "the shadow router would have asked cid" in text
    assert "distance from the records: 1.25 radii" in text
    assert "score 0.5" in text
    assert "too short" in text


def test_why_tells_the_same_to_machines(place: Path) -> None:
    one = decided()
    store(one)
    facts = json.loads(done("why", one.id, "--json"))
    assert facts["candidates"][0]["interval"] == pytest.approx([0.802, 0.998])
    barred = facts["candidates"][2]
    assert (barred["expert"], barred["barred"], barred["interval"]) == ("cid", "lacks tools", None)
    assert [one["chosen"] for one in facts["candidates"]] == [True, False, False]
    assert facts["flip"].pop("to") == "bob"
    flip = pytest.approx({"willingness_to_pay": 10.0, "quality": 0.15})
    assert facts["flip"] == flip
    assert (facts["answered"], facts["tokens"]["total"]) == ("bob", 15)


def test_why_works_on_a_request_without_a_decision(place: Path) -> None:
    one = Entry(
        "req_1", 0.0, asked="ann", policy="direct", status=502, error="bad \x1b[31m gateway"
    )
    store(one)
    text = done("why", "req_1")
    assert "nobody answered (policy direct)" in text
    assert "\x1b" not in text
    code, _, err = coterie("why", "req_2")
    assert code == 1
    assert "no request 'req_2' in this log" in err
