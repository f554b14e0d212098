"""A vote that learns which answer to believe from who gave it, how surely, and what it says.

Each different answer to a question is a candidate. Boosted trees, grown on recorded answers, give
its chance of being right from the experts behind it and their expected qualities, from how many
agree, from lengths and log probabilities, and from the text of answer and question (where the
question lists options, an answer that is a letter stands for the option's text).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coterie.aggregators import Weighted, nothing_usable
from coterie.answers import Extractor, extractor, normalise, whole
from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import ArtifactError, InputError, NotRecordedError
from coterie.features import StaticEncoder
from coterie.layout import layout
from coterie.records import Records
from coterie.trees import Trees
from coterie.types import Completion, Decision, FloatArray, Query, Seed

OPTION = re.compile(r"^\s*\(?([A-J])[).:]\s+(.*)$", re.MULTILINE)
LETTER = re.compile(r"\(?([a-j])\)?")
COVERING = re.compile(r"\b(?:all|none|both|neither) (?:of|the)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Ballot:
    """One question with the answers to choose from and who is behind each.

    ``completions`` are those that did not fail, ``candidates`` the normalised answers in order of
    appearance, ``given[i]`` the candidate of completion i, ``weights[i]`` its expected quality.
    """

    query: Query
    completions: tuple[Completion, ...]
    weights: tuple[float, ...]
    candidates: tuple[str, ...]
    given: tuple[int, ...]
    failed: int

    @classmethod
    def of(
        cls,
        query: Query,
        completions: Sequence[Completion],
        weights: Sequence[float],
        extract: Extractor,
    ) -> Ballot:
        """The ballot of these completions."""
        pairs = [(c, w) for c, w in zip(completions, weights, strict=True) if not c.failed]
        answers = [normalise(extract(c.text)) for c, _ in pairs]
        candidates = tuple(dict.fromkeys(answers))
        place = {answer: number for number, answer in enumerate(candidates)}
        return cls(
            query=query,
            completions=tuple(c for c, _ in pairs),
            weights=tuple(w for _, w in pairs),
            candidates=candidates,
            given=tuple(place[answer] for answer in answers),
            failed=len(completions) - len(pairs),
        )

    def speaker(self, candidate: int) -> Completion:
        """The completion of the largest weight behind a candidate."""
        behind = [i for i, given in enumerate(self.given) if given == candidate]
        return self.completions[max(behind, key=lambda i: self.weights[i])]


@dataclass(frozen=True, eq=False, repr=False)
class LearnedVote:
    """An aggregator that believes the candidate of the highest learnt chance.

    Questions on which experts do not differ need no trees. ``learn_vote`` makes one.
    """

    experts: tuple[str, ...]
    trees: Trees
    extract: Extractor = whole
    encoder: StaticEncoder = field(default_factory=StaticEncoder)

    def __call__(
        self, query: Query, completions: Sequence[Completion], weights: Sequence[float], seed: Seed
    ) -> Completion:
        """The completion behind the likeliest answer."""
        ballot = Ballot.of(query, completions, weights, self.extract)
        (believed,) = self.believe([ballot])
        return nothing_usable(completions) if believed is None else believed

    def believe(self, ballots: Sequence[Ballot]) -> list[Completion | None]:
        """The completion that speaks for each ballot, None where no expert answered."""
        split = [ballot for ballot in ballots if len(ballot.candidates) > 1]
        ends = np.cumsum([len(ballot.candidates) for ballot in split])[:-1]
        chances = self.trees.total(describe_ballots(split, self.experts, self.encoder))
        best = iter([int(part.argmax()) for part in np.split(chances, ends)] if split else [])
        return [
            b.speaker(next(best) if len(b.candidates) > 1 else 0) if b.candidates else None
            for b in ballots
        ]

    def save(self, folder: str | Path) -> None:
        """Write experts, extractor and trees as JSON and npz."""
        params = {
            "experts": list(self.experts),
            "extract": getattr(self.extract, "__name__", ""),
            "encoder": self.encoder.fingerprint(),
        }
        write_artifact(Path(folder), "vote", params, self.trees.to_arrays())

    def __repr__(self) -> str:
        """Whose vote it is, and a hash of what was learnt."""
        digest = hashlib.sha256(self.trees.value.tobytes() + self.trees.feature.tobytes())
        return f"LearnedVote({self.experts}, {digest.hexdigest()[:12]})"


def load_vote(path: str, extract: Extractor | None = None) -> LearnedVote:
    """The vote that ``LearnedVote.save`` wrote, for answers read as when it was learnt.

    Raises ArtifactError for anything else, and where ``extract`` is another extractor.
    """
    params, arrays = read_artifact(Path(path), "vote")
    try:
        learnt = extractor(params["extract"])
        vote = LearnedVote(tuple(params["experts"]), Trees.from_arrays(arrays), learnt)
    except LookupError as error:
        raise ArtifactError(f"damaged: {error!r} is missing; learn it again", path=path) from None
    if vote.encoder.fingerprint() != params.get("encoder"):
        raise ArtifactError("made with another static encoder; learn it again", path=path)
    if extract not in (None, learnt):
        name = getattr(extract, "__name__", repr(extract))
        message = f"learnt from answers read by {params['extract']!r}, the pool reads by {name!r}"
        raise ArtifactError(message, path=path)
    return vote


def learn_vote(
    records: Records,
    decisions: Sequence[Decision],
    extract: Extractor = whole,
    *,
    rounds: int = 150,
    seed: Seed = 0,
) -> LearnedVote:
    """A vote learnt from what the experts of these decisions answered, one decision a record.

    The decisions' weights should be expected qualities from a router that did not see the record.
    A candidate counts as right by the best recorded score of the experts behind it. Raises
    InputError where no question has two different answers of different scores.
    """
    ballots, right = [], []
    for row, decision in enumerate(decisions):
        ballot = recorded_ballot(records, row, decision, extract)
        scores = _candidate_scores(records, row, ballot)
        if len(set(scores)) > 1:
            ballots.append(ballot)
            right.append(scores)
    if not ballots:
        raise InputError("no record has two answers of different scores; nothing to learn from")
    encoder = StaticEncoder()
    features = describe_ballots(ballots, records.experts, encoder)
    trees = _boost(features, np.concatenate(right), rounds, seed)
    return LearnedVote(records.experts, trees, extract, encoder)


def recorded_ballot(records: Records, row: int, decision: Decision, extract: Extractor) -> Ballot:
    """The ballot of recorded answers; raises NotRecordedError where one is missing."""
    completions = []
    for name in decision.experts:
        completion = records.completion(row, name)
        if completion is None:
            query = records.queries[row].id
            raise NotRecordedError(f"the records hold no answer of {name!r} to {query!r}")
        completions.append(completion)
    return Ballot.of(records.queries[row], completions, decision.weights, extract)


def _candidate_scores(records: Records, row: int, ballot: Ballot) -> list[float]:
    scores = [0.0] * len(ballot.candidates)
    for completion, given in zip(ballot.completions, ballot.given, strict=True):
        own = float(records.quality[row, records.experts.index(completion.expert)])
        scores[given] = max(scores[given], 0.0 if np.isnan(own) else own)
    return scores


def _boost(features: FloatArray, right: FloatArray, rounds: int, seed: Seed) -> Trees:
    """Gradient-boosted trees for the log odds that a candidate is right."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    grown: Any = HistGradientBoostingRegressor(
        max_iter=rounds,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=min(50, max(1, len(right) // 20)),
        l2_regularization=5.0,
        max_features=0.5,
        early_stopping=False,
        random_state=seed,
    ).fit(features, right)
    return Trees.of_boosting(grown)


def describe_ballots(
    ballots: Sequence[Ballot], experts: Sequence[str], encoder: StaticEncoder
) -> FloatArray:
    """What the trees read of every candidate: (candidates of all ballots, features)."""
    column = {name: j for j, name in enumerate(experts)}
    form = layout([ballot.query.text for ballot in ballots])
    options = [_options(ballot.query.text) for ballot in ballots]
    texts = [_texts(b, o) for b, o in zip(ballots, options, strict=True)]
    questions = encoder.encode([ballot.query.text for ballot in ballots])
    vectors = encoder.encode([text for group in texts for text in group])
    rows, start = [], 0
    for number, ballot in enumerate(ballots):
        end = start + len(texts[number])
        own = [
            _backing(ballot, column),
            _wording(ballot, options[number], texts[number]),
            _meaning(questions[number], vectors[start:end]),
            np.tile(form[number], (len(ballot.candidates), 1)),
        ]
        rows.append(np.hstack(own))
        start = end
    return np.round(np.vstack(rows), 5) if rows else np.zeros((0, 1))


def _backing(ballot: Ballot, column: dict[str, int]) -> FloatArray:
    """Who is behind each candidate, how many, how surely; shape (candidates, features)."""
    count, given = len(ballot.candidates), np.array(ballot.given)
    behind = given == np.arange(count)[:, None]  # (candidates, completions)
    who = np.zeros((count, len(column)))
    odds = np.array([Weighted().log_odds(w) for w in ballot.weights])
    length = np.log1p([c.usage.completion_tokens or len(c.text) / 4 for c in ballot.completions])
    surprise = np.array([c.logprob if c.logprob is not None else 0.0 for c in ballot.completions])
    for i, completion in enumerate(ballot.completions):
        if completion.expert in column:
            who[:, column[completion.expert]] = np.where(behind[:, i], 1.0, -1.0)
    votes, weight = behind.sum(axis=1), behind @ odds
    size = np.maximum(votes, 1)
    facts = [
        votes,
        votes / len(given),
        _ahead(votes.astype(float)),
        weight,
        _ahead(weight),
        np.where(behind, odds, -9.0).max(axis=1),
        behind @ length / size - length.mean(),
        np.where(behind, length, 99.0).min(axis=1),
        np.full(count, length.mean()),
        behind @ surprise / size,
        np.full(count, float(count)),
        np.full(count, float(ballot.failed)),
    ]
    return np.hstack([who, np.column_stack(facts)])


def _ahead(values: FloatArray) -> FloatArray:
    """Each value minus the largest of the others."""
    if len(values) == 1:
        return values
    order = np.sort(values)
    ahead: FloatArray = values - np.where(values == order[-1], order[-2], order[-1])
    return ahead


def _options(question: str) -> dict[str, str]:
    """The options that the question lists, by small letter."""
    return {letter.lower(): text.strip() for letter, text in OPTION.findall(question)}


def _texts(ballot: Ballot, options: dict[str, str]) -> list[str]:
    """What each candidate says; where it is a letter of a listed option, that option's text."""
    found = []
    for answer in ballot.candidates:
        letter = LETTER.fullmatch(answer)
        found.append(options.get(letter.group(1), answer) if letter else answer)
    return found


def _wording(ballot: Ballot, options: dict[str, str], texts: Sequence[str]) -> FloatArray:
    """Length, number, place among the options; shape (candidates, features)."""
    listed = list(options.values()) or list(texts)
    usual = float(np.mean([np.log1p(len(text)) for text in listed]))
    places = {text: place for place, text in enumerate(options.values())}
    covering = float(any(COVERING.search(text) for text in listed))
    question = ballot.query.text
    rows = []
    for text in texts:
        length = float(np.log1p(len(text)))
        shorter = sum(len(other) < len(text) for other in listed) / len(listed)
        rows.append(
            [
                length,
                length - usual,
                shorter,
                float(any(c.isdigit() for c in text)),
                *_numeric(text),
                float(text in question),
                float(COVERING.search(text) is not None),
                covering,
                float(places.get(text, -1)),
                float(len(options)),
            ]
        )
    return np.array(rows)


def _numeric(text: str) -> tuple[float, float, float]:
    """Whether the text is a number, its signed log size, whether it is whole."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return 0.0, 0.0, 0.0
    if not np.isfinite(value):
        return 0.0, 0.0, 0.0
    return 1.0, float(np.sign(value) * np.log1p(abs(value))), float(value.is_integer())


def _meaning(question: FloatArray, answers: FloatArray) -> FloatArray:
    """Similarity of each candidate to the question and to the other candidates."""
    others = answers @ answers.T - np.eye(len(answers))
    return np.column_stack([answers @ question, others.sum(1) / max(1, len(answers) - 1)])
