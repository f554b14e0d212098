import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from log_world import POOL, START, entry, traffic

from coterie.describing import describe
from coterie.errors import CoterieError, InputError
from coterie.features import StaticEncoder
from coterie.gateway.entries import Attempt, Entry, Feedback, Tokens
from coterie.gateway.exporting import (
    Log,
    answer_of,
    beside,
    note_encoder,
    read_log,
    text_of,
    to_records,
    write_log,
)
from coterie.gateway.keys import make_key
from coterie.gateway.ledger import open_ledger
from coterie.records import Records
from coterie.routers.neighbors import KNN

PARTS = [{"type": "text", "text": "b"}, {"type": "image_url"}]


def stored(log: Log, path: Path) -> Path:
    """A ledger that holds this log."""
    with open_ledger(path) as ledger:
        for one in log.entries:
            ledger.write(one)
        for given in log.feedback:
            ledger.add_feedback(given.id, given.score)
        asyncio.run(ledger.flush())
    return path


def test_a_score_becomes_the_record_of_who_answered() -> None:
    log = traffic(20)
    records = to_records(log)
    assert records.experts == POOL
    assert records.observed.sum(axis=1).tolist() == [1] * 20
    for row, one in enumerate(log.entries):
        column = POOL.index(one.expert)
        assert records.quality[row, column] == log.scores[one.id]
        assert records.propensity[row, column] == one.propensity
        assert (records.cost[row, column], records.latency[row, column]) == (one.cost, 0.5)
        assert records.queries[row].text == text_of(one)
    assert np.nansum(records.prompt_tokens) == 200


def test_an_answer_of_a_stand_in_is_its_own_and_has_no_propensity() -> None:
    tried = [Attempt("ann", "http_5xx", 500), Attempt("bob", "", 200, 0.2, Tokens(3, 4), 0.7)]
    one = entry(0, "hello", "ann", 0.8, expert="bob", attempts=tried, cost=0.9)
    records = to_records(Log([one], [Feedback(one.id, 0.5, 1.0)]))
    assert records.quality[0].tolist() == pytest.approx([np.nan, 0.5, np.nan], nan_ok=True)
    assert (records.cost[0, 1], records.completion_tokens[0, 1]) == (0.7, 4)
    assert np.isnan(records.propensity).all()


def test_the_latest_score_counts_and_merged_or_failed_answers_do_not() -> None:
    one, merged, failed = (entry(i, "hello", "ann", 0.5) for i in range(3))
    merged.composition, failed.expert = "recruit", ""
    given = [Feedback(one.id, 1.0, 2.0), Feedback(one.id, 0.0, 9.0), Feedback(one.id, 0.7, 5.0)]
    given += [Feedback(merged.id, 1.0, 1.0), Feedback(failed.id, 1.0, 1.0), Feedback("x", 1.0, 1.0)]
    log = Log([one, merged, failed], given)
    assert (log.scores[one.id], len(log.scores)) == (0.0, 3)
    assert [q.id for q in to_records(log).queries] == [one.id]


def test_without_feedback_there_are_no_records() -> None:
    with pytest.raises(InputError, match="none of 2 requests has a score"):
        to_records(Log(traffic(2).entries))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}, "a"),
        ({"messages": [{"role": "user", "content": PARTS}]}, "b"),
        ({"prompt": "c"}, "c"),
        ({"prompt": ["d", "e"]}, "d\ne"),
        ({"input": [{"role": "user", "content": "f"}]}, "f"),
        ({"input": [1, 2]}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_the_text_is_what_users_said(content: dict[str, Any] | None, text: str) -> None:
    assert text_of(Entry("id", 0.0, content=content)) == text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"choices": [{"message": {"content": "four"}}]}', "four"),
        ('{"choices": [{"text": "four"}]}', "four"),
        ('data: {"choices": [{"delta": {"content": "fo"}}]}\n\n'
         'data: {"choices": [{"delta": {"content": "ur"}}]}\n\n', "four"),
        ('{"choices": [{"message": {"content": null}}]}', None),
        ("<html>", None),
    ],
)  # fmt: skip
def test_the_answer_is_read_from_replies_and_streams(answer: str, text: str | None) -> None:
    assert answer_of(Entry("id", 0.0, content={"answer": answer})) == text


def test_exported_records_can_be_read_described_and_learnt_from(tmp_path: Path) -> None:
    facts = write_log(traffic(60), tmp_path / "out")
    assert (facts["records"], facts["texts"], facts["vectors"]) == (60, 60, 0)
    records = Records.read(tmp_path / "out")
    assert describe(records)["observed"] == 60
    fitted = KNN().fit(records)
    assert fitted.predict(records.queries[:1]).quality.shape == (1, 3)
    write_log(traffic(10), tmp_path / "out")
    assert len(Records.read(tmp_path / "out")) == 10


def test_hidden_texts_stay_hidden_and_vectors_go_along(tmp_path: Path) -> None:
    log = traffic(12, hidden=True)
    facts = write_log(log, tmp_path / "out")
    assert (facts["texts"], facts["vectors"]) == (0, 12)
    with np.load(beside(tmp_path / "out", "vectors.npz")) as arrays:
        assert arrays["ids"].tolist() == [one.id for one in log.entries]
        assert arrays["vectors"].dtype == np.float16
        assert arrays["vectors"].shape == (12, 128)
        assert str(arrays["encoder"]) == StaticEncoder().fingerprint()


def test_a_log_comes_back_from_ledger_and_export_without_keys(tmp_path: Path) -> None:
    log = traffic(30, hidden=True)
    for one in log.entries:
        one.key, one.session = "key_secret", "session-secret"
    from_ledger = read_log(stored(log, tmp_path / "gateway.sqlite"))
    assert [one.id for one in from_ledger.entries] == [one.id for one in log.entries]
    assert from_ledger.scores == log.scores
    write_log(log, tmp_path / "out")
    from_export = read_log(tmp_path / "out")
    assert from_export.scores == log.scores
    assert from_export.encoder == log.encoder
    plain = msgspec.structs.replace(log.entries[3], key="", session="")
    assert from_export.entries[3] == plain
    assert b"secret" not in beside(tmp_path / "out", "log.jsonl").read_bytes()


def test_requests_are_chosen_by_time_key_and_team(tmp_path: Path) -> None:
    log = traffic(20)
    key, _ = make_key("alice")
    for one in log.entries[:5]:
        one.key = key.id
    log.entries[0].team = log.entries[10].team = "red"
    path = stored(log, tmp_path / "gateway.sqlite")
    with open_ledger(path) as ledger:
        asyncio.run(ledger.put_key(key))
    assert len(read_log(path, since=START + 60.0 * 15)) == 5
    assert len(read_log(path, key="alice")) == 5
    assert len(read_log(path, key="alice", team="red")) == 1
    with pytest.raises(InputError, match="no key 'bob'; there are alice"):
        read_log(path, key="bob")
    write_log(log, tmp_path / "out")
    assert len(read_log(tmp_path / "out", team="red")) == 2
    with pytest.raises(CoterieError, match="holds no keys"):
        read_log(tmp_path / "out", key="alice")


def test_vectors_of_an_earlier_encoder_are_left_out(tmp_path: Path) -> None:
    path = stored(traffic(10, hidden=True), tmp_path / "gateway.sqlite")

    async def change() -> None:
        for name, number in (("old", 0), ("old", 3), ("new", 6)):
            await note_encoder(ledger, name, START + 60.0 * number)
            await ledger.flush()

    with open_ledger(path) as ledger:
        asyncio.run(change())
    log = read_log(path)
    assert log.encoder == "new"
    assert [bool(one.vector) for one in log.entries] == [False] * 6 + [True] * 4


def test_what_is_no_log_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such log"):
        read_log(tmp_path / "nothing.sqlite")
    (tmp_path / "bad.jsonl").write_text('{"encoder": "x"}\n{"entry": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        read_log(tmp_path / "bad.jsonl")
