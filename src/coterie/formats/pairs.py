"""Pairwise preferences: one comparison a row, in the manner of Chatbot Arena and PandaLM.

CSV, JSON, JSON Lines or Parquet with two models and who won:

- ``model_a``, ``model_b`` and ``winner`` (model_a, model_b, tie, "tie (bothbad)" or a model's
  name),
- or one-hot ``winner_model_a``, ``winner_model_b``, ``winner_tie``,
- or ``pref_b``, the share of annotators for b in [0, 1],
- or PandaLM's own ``cmp_key`` ("a_b") with ``annotator1`` to ``annotator3`` (0 tie, 1, 2).

Each comparison becomes one query with two observed cells: winner 1 and loser 0, a tie one half
each, a fraction b = pref_b and a = 1 - pref_b, so that the battles can be read back exactly. Where
several share an id or a text, ``subject`` is that id (or the first one's) and the models stand in
the query's own. Texts come from ``prompt``, ``conversation_a`` (first user turn) or ``instruction``
and ``input``; answers from ``response_a``/``response_b`` or ``response1``/``response2``.

Sources: github.com/WeOpenML/PandaLM data/testset-v1.json at 65d7cff; the columns of
lmsys-arena-human-preference-55k as RouteLLM and others read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from coterie.formats.base import Matrix, Row, check_mapping, shown, tail, unlisted
from coterie.formats.tables import files, peek, rows
from coterie.records import Records

NAME = "pairs"
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
OUTCOMES = {"model_a": 0.0, "model_b": 1.0, "a": 0.0, "b": 1.0, "tie": 0.5, "both_bad": 0.5}
OUTCOMES |= {"tie (bothbad)": 0.5, "bothbad": 0.5, "tie_bothbad": 0.5}
IDS = ("instance_id", "question_id", "id", "idx")


def matches(path: Path) -> bool:
    """Whether the first record names two models and a preference."""
    found = peek(path)
    return {"model_a", "model_b"} <= found or {"cmp_key", "annotator1"} <= found


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """One row a comparison; raises InputError for a model compared with itself."""
    check_mapping(columns, (), path)
    listed = [row for file in files(path) for row in tail(rows(file), file)]
    given = [_given(row, number) for number, row in enumerate(listed, start=1)]
    repeated = Counter(given)
    prompts = Counter(_text(row) for row in listed)
    matrix = Matrix(path)
    first: dict[str, str] = {}
    judged: Counter[str] = Counter()
    for id, row in zip(given, listed, strict=True):
        text, own, prompt = _text(row), id, None
        if repeated[id] > 1:
            prompt, own = id, f"{id}/{':'.join(_models(row))}"
            judged[own] += 1
            own += f" #{judged[own]}" if judged[own] > 1 else ""
        elif text and prompts[text] > 1:
            prompt = first.setdefault(text, id)
        _comparison(matrix, row, own, text, prompt)
    return matrix.records()


def _given(row: Row, number: int) -> str:
    """The id that the row gives, of the comparison or of its prompt."""
    name = next((name for name in IDS if row.values.get(name) is not None), None)
    return row.required(name) if name else f"{row.place.path.stem}/{number}"


def _comparison(matrix: Matrix, row: Row, id: str, text: str, prompt: str | None) -> None:
    a, b = _models(row)
    if a == b:
        raise row.error(f"{a!r} is compared with itself; leave the row out")
    preferred = _preference(row, a, b)
    if preferred is None:
        raise row.error("expected who won, got nothing")
    category = row.text("category") or row.text("motivation_app")
    index = matrix.query(id, text, row.place, category=category, subject=prompt)
    answers = [("response_a", "response1"), ("response_b", "response2")]
    for model, score, names in zip((a, b), (1 - preferred, preferred), answers, strict=True):
        answer = next((row.text(name) for name in names if name in row), None)
        answer = None if answer is None else unlisted(answer)
        matrix.outcome(index, model, score, row.place, text=answer)


def _models(row: Row) -> tuple[str, str]:
    if "model_a" in row:
        return row.required("model_a"), row.required("model_b")
    models = row.required("cmp_key").split("_")
    if len(models) != 2 or not all(models):
        raise row.error(f"expected two models as a_b, got {row.text('cmp_key')!r}", "cmp_key")
    return models[0], models[1]


def _preference(row: Row, a: str, b: str) -> float | None:
    """1 where b won, 0 where a won, 0.5 for a tie, or the share between."""
    if "winner" in row:
        winner = row.required("winner")
        outcomes = {**OUTCOMES, a: 0.0, b: 1.0}
        if winner not in outcomes:
            raise row.error(f"expected model_a, model_b or tie, got {shown(winner)}", "winner")
        return outcomes[winner]
    if all(name in row for name in ONE_HOT):
        hot = [row.score(name) for name in ONE_HOT]
        if sorted(map(str, hot)) != ["0.0", "0.0", "1.0"]:
            raise row.error("expected one 1 and two 0", "winner_model_a")
        return (0.0, 1.0, 0.5)[hot.index(1.0)]
    if "annotator1" in row and "pref_b" not in row:
        return _annotated(row)
    return row.score(row.first("pref_b", "winner"))


def _annotated(row: Row) -> float:
    """The mean of the annotators, as 0 tie, 1 first and 2 second."""
    names = [name for name in row.values if str(name).startswith("annotator")]
    votes = [row.number(name) for name in names]
    if any(vote not in (0.0, 1.0, 2.0) for vote in votes):
        raise row.error("expected annotators to say 0, 1 or 2", names[0])
    second = {0.0: 0.5, 1.0: 0.0, 2.0: 1.0}
    return sum(second[vote] for vote in votes if vote is not None) / len(votes)


def _text(row: Row) -> str:
    if "prompt" in row:
        return unlisted(row.text("prompt") or "")
    turns = row.values.get("conversation_a")
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        return Row(turns[0], row.place).text("content") or ""
    parts = (row.text(name) for name in ("question", "instruction", "input"))
    return "\n".join(part for part in parts if part)
