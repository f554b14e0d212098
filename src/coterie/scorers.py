"""A scorer reads a question and one expert's answer, and says how likely the answer is right.

It is what a cascade stops on (FrugalGPT's scorer, Chen et al. 2023, arXiv 2305.05176) and what
cascade routing updates its estimates with. FrugalGPT fine-tunes a DistilBERT; here one logistic
regression an expert reads the vectors of question and answer, the answer's length, and the log
probability where there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coterie.answers import Extractor, extractor, whole
from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import ArtifactError, InputError
from coterie.features import StaticEncoder
from coterie.folds import fold_rows
from coterie.records import Records
from coterie.routers.base import mean_or
from coterie.routers.gradient import sigmoid
from coterie.routers.linear import with_intercept
from coterie.routers.logistic import fit_logistic
from coterie.types import Completion, FloatArray, IntArray, Query, Seed

FOLDS = 5
REMEDY = "learn it again with coterie.scorers.learn_scorer"


class Scorer:
    """The chance that an answer is right, for the answers of the experts it was learnt on.

    ``learn_scorer`` makes one. ``coefficients`` has shape (features + 1, experts); ``spread`` is by
    how much the chance, once the answer is known, strays from what the question alone makes one
    expect, a standard deviation an expert.
    """

    def __init__(
        self,
        experts: Sequence[str],
        coefficients: FloatArray,
        spread: FloatArray,
        extract: Extractor = whole,
    ) -> None:
        self.experts, self.extract = tuple(experts), extract
        self.coefficients, self.spread = coefficients, spread
        self.encoder = StaticEncoder()

    def score(self, query: Query, completion: Completion) -> float:
        """The chance that one completion is right, 0 of a failed one."""
        return float(self.scores([query], [completion])[0])

    def scores(self, queries: Sequence[Query], completions: Sequence[Completion]) -> FloatArray:
        """The chances of as many completions, each to its query; shape (completions,).

        Raises InputError for an expert that the scorer has not seen.
        """
        columns = [self.column(c.expert) for c in completions]
        features = describe(self.encoder, queries, completions, self.extract)
        logits = (with_intercept(features) * self.coefficients[:, columns].T).sum(axis=1)
        return np.where([c.failed for c in completions], 0.0, sigmoid(logits))

    def column(self, expert: str) -> int:
        """The number of an expert; InputError where the scorer has not seen it."""
        if expert not in self.experts:
            known = ", ".join(self.experts)
            message = f"the scorer has seen no answer of {expert!r}; it knows {known}"
            raise InputError(message, field="scorer")
        return self.experts.index(expert)

    def save(self, folder: str | Path) -> None:
        """Write it as JSON and npz."""
        params = {
            "experts": list(self.experts),
            "extract": getattr(self.extract, "__name__", ""),
            "encoder": self.encoder.fingerprint(),
        }
        arrays = {"coefficients": self.coefficients, "spread": self.spread}
        write_artifact(Path(folder), "scorer", params, arrays)

    def __repr__(self) -> str:
        """Whose answers it knows, and a hash of what was learnt."""
        digest = hashlib.sha256(self.coefficients.tobytes() + self.spread.tobytes())
        return f"Scorer({self.experts}, {digest.hexdigest()[:12]})"


def load_scorer(folder: str | Path) -> Scorer:
    """The scorer that ``Scorer.save`` wrote; raises ArtifactError for anything else."""
    params, arrays = read_artifact(Path(folder), "scorer", remedy=REMEDY)
    try:
        read = extractor(params["extract"])
        scorer = Scorer(params["experts"], arrays["coefficients"], arrays["spread"], read)
    except LookupError as error:
        raise ArtifactError(f"damaged: {error!r} is missing; {REMEDY}", path=folder) from None
    if scorer.encoder.fingerprint() != params.get("encoder"):
        raise ArtifactError(f"made with another static encoder; {REMEDY}", path=folder)
    return scorer


def describe(
    encoder: StaticEncoder,
    queries: Sequence[Query],
    completions: Sequence[Completion],
    extract: Extractor,
) -> FloatArray:
    """What the scorer reads of every answer, (completions, features), each feature of size one."""
    texts = [c.text for c in completions]
    asked = encoder.encode([q.text for q in queries])
    said = encoder.encode(texts)
    short = [extract(text) for text in texts]
    facts = np.array(
        [
            [
                np.log1p(len(text)) / 8,
                np.log1p(len(answer)) / 8,
                0.0 if c.logprob is None else max(c.logprob, -5.0) / 2,
                float(answer in ("", "N/A")),
            ]
            for text, answer, c in zip(texts, short, completions, strict=True)
        ]
    ).reshape(len(texts), 4)
    alike = np.sum(asked * said, axis=1, keepdims=True)
    return np.hstack([asked, said, alike, facts])


def learn_scorer(
    records: Records, extract: Extractor = whole, *, seed: Seed = 0
) -> tuple[Scorer, FloatArray]:
    """A scorer learnt from recorded answers, and its chances for the records themselves.

    Those chances, shape (queries, experts), are each from a scorer that did not see the query's
    fold: thresholds are to be chosen on them. Cells without score or answer are left out, NaN.
    """
    after = np.full(records.quality.shape, np.nan)
    before, heads = after.copy(), []
    for column, name in enumerate(records.experts):
        rows, features = _cells(records, name, extract)
        right, groups = records.quality[rows, column], records.text_groups[rows]
        asked = features[:, : StaticEncoder.dim]
        after[rows, column] = _held_out(features, right, groups, seed)
        before[rows, column] = _held_out(asked, right, groups, seed)
        heads.append(_head(features, right, groups, seed))
    if np.isnan(after).all():
        message = f"no expert has {FOLDS} cells with both a score and an answer; learn from more"
        raise InputError(message, field="records")
    spread = np.sqrt(mean_or(np.square(after - before), 0.0))
    return Scorer(records.experts, np.column_stack(heads), spread, extract), after


def _cells(records: Records, name: str, extract: Extractor) -> tuple[IntArray, FloatArray]:
    """Rows of an expert with score and answer, and what the scorer reads of them."""
    column = records.experts.index(name)
    made = [records.completion(row, name) for row in range(len(records))]
    known = ~np.isnan(records.quality[:, column])
    rows = np.array([i for i, c in enumerate(made) if c is not None and known[i]], np.intp)
    completions = [c for i, c in enumerate(made) if c is not None and known[i]]
    queries = [records.queries[i] for i in rows]
    return rows, describe(StaticEncoder(), queries, completions, extract)


def _head(features: FloatArray, right: FloatArray, groups: IntArray, seed: Seed) -> FloatArray:
    """Coefficients (features + 1,) of one expert's regression."""
    return fit_logistic(features, right[:, None], None, seed, groups).coefficients[:, 0]


def _held_out(features: FloatArray, right: FloatArray, groups: IntArray, seed: Seed) -> FloatArray:
    """Chances of every row from the other folds; equal questions are in one fold."""
    chances = np.full(len(right), np.nan)
    if len(right) < FOLDS:
        return chances
    for part in fold_rows(np.unique(groups, return_inverse=True)[1], FOLDS, seed):
        rest = np.setdiff1d(np.arange(len(right)), part)
        head = _head(features[rest], right[rest], groups[rest], seed)
        chances[part] = sigmoid(with_intercept(features[part]) @ head)
    return chances
