"""Battles between experts: results, Bradley-Terry strengths, win probabilities and their errors.

Two experts observed on one query fight one battle. A strength is a log-odds: expert a beats b with
probability ``1 / (1 + exp(b - a))``. Arrays over battles have shape (..., experts, experts), the
row's expert against the column's; time and memory grow with the square of the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from coterie.types import FloatArray, IntArray

ELEMENTS = 1 << 20  # battles held at once
STEP = 2.0  # the longest Newton step, in log-odds


def results(scores: FloatArray, soft: bool = False) -> FloatArray:
    """What each expert got of each other: 1 won, 0.5 tied, 0 lost, NaN no battle.

    ``soft`` results are 0.5 + (a - b) / 2. Shape (..., experts) to (..., experts, experts).

    >>> results(np.array([1.0, 0.4, np.nan]))[0].tolist()
    [nan, 1.0, nan]
    """
    gap = scores[..., :, None] - scores[..., None, :]
    gap[..., np.arange(gap.shape[-1]), np.arange(gap.shape[-1])] = np.nan
    return _result(gap, soft)


def _result(gap: FloatArray, soft: bool) -> FloatArray:
    """What the better score gets, from the first's score less the second's."""
    outcome: FloatArray = 0.5 + (gap if soft else np.sign(gap)) / 2
    return outcome


def beats(strengths: FloatArray) -> FloatArray:
    """Probability that the row's expert beats the column's; (..., experts, experts)."""
    gap = strengths[..., :, None] - strengths[..., None, :]
    probability: FloatArray = 0.5 + 0.5 * np.tanh(gap / 2)
    return probability


def win_share(strengths: FloatArray) -> FloatArray:
    """Mean probability of beating the other experts, 0.5 where there is none; (..., experts)."""
    others = max(strengths.shape[-1] - 1, 1)
    share: FloatArray = 0.5 + (beats(strengths) - 0.5).sum(axis=-1) / others
    return share


def win_share_error(strengths: FloatArray, covariance: FloatArray) -> FloatArray:
    """Standard error of ``win_share`` by the delta method; covariance (..., experts, experts)."""
    others = max(strengths.shape[-1] - 1, 1)
    probability = beats(strengths)
    slope = laplacian(probability * (1 - probability)) / others  # of shares in strengths
    variance = ((slope @ covariance) * slope).sum(axis=-1)
    error: FloatArray = np.sqrt(np.maximum(variance, 0.0))
    return error


def laplacian(weights: FloatArray) -> FloatArray:
    """Row sums on the diagonal minus the weights; (..., experts, experts)."""
    matrix = -weights
    diagonal = np.arange(weights.shape[-1])
    matrix[..., diagonal, diagonal] += weights.sum(axis=-1)
    return matrix


def blocks(rows: int, experts: int) -> Iterator[slice]:
    """Slices of rows whose battles fit into memory together."""
    size = max(1, ELEMENTS // max(experts**2, 1))
    return (slice(start, start + size) for start in range(0, rows, size))


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Sums over battles: results and number, (..., experts, experts)."""

    won: FloatArray
    played: FloatArray


def tally(scores: FloatArray, soft: bool = False, weights: FloatArray | None = None) -> Tally:
    """The battles of all rows together, from scores of shape (rows, experts).

    With ``weights`` (problems, rows) one tally for each problem.
    """
    experts = scores.shape[1]
    mass = np.ones((1, len(scores))) if weights is None else weights
    if _linear(scores, soft):
        battles = _linear_tally(scores, mass)
    else:
        won, played = np.zeros((2, len(mass), experts**2))
        for part in blocks(*scores.shape):
            outcome = results(scores[part], soft).reshape(-1, experts**2)
            fought = ~np.isnan(outcome)
            won += mass[:, part] @ np.where(fought, outcome, 0.0)
            played += mass[:, part] @ fought
        battles = Tally(won, played)
    shape = (experts, experts) if weights is None else (len(mass), experts, experts)
    return Tally(battles.won.reshape(shape), battles.played.reshape(shape))


def _linear(scores: FloatArray, soft: bool) -> bool:
    """Whether every result is 0.5 + (a - b) / 2: soft, or right or wrong, and all observed."""
    plain = not np.isnan(scores).any() if soft else ((scores == 0) | (scores == 1)).all()
    return bool(plain)


def _linear_tally(scores: FloatArray, mass: FloatArray) -> Tally:
    """Sums of results that are linear in the scores: those of the scores are enough."""
    sums, total = mass @ scores.astype(mass.dtype), mass.sum(axis=1, dtype=float)[:, None, None]
    apart = ~np.eye(scores.shape[1], dtype=bool)
    gap = np.asarray(sums[:, :, None] - sums[:, None, :], float)
    return Tally((total + gap) / 2 * apart, total * apart)


def fit_strengths(battles: Tally, ridge: float) -> tuple[FloatArray, FloatArray]:
    """Bradley-Terry strengths of greatest penalised likelihood, and their information.

    Newton's method on the log-likelihood minus ``ridge / 2`` times the squared strengths, a tie
    being half a win for both (Bradley and Terry 1952). The ridge keeps an unbeaten expert finite
    and the strengths centred. Leading axes are problems of their own, solved side by side.

    Returns strengths (..., experts) and the negative Hessian (..., experts, experts).
    """
    strengths = np.zeros(battles.won.shape[:-1])
    for _ in range(200):
        probability = beats(strengths)
        gradient = (battles.won - battles.played * probability).sum(axis=-1) - ridge * strengths
        information = _information(battles.played, probability, ridge)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=-1, keepdims=True, initial=STEP)
        strengths = strengths + step * (STEP / longest)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return strengths, _information(battles.played, beats(strengths), ridge)


def _information(played: FloatArray, probability: FloatArray, ridge: float) -> FloatArray:
    matrix = laplacian(played * probability * (1 - probability))
    matrix += ridge * np.eye(matrix.shape[-1])
    return matrix


def score_battles(
    scores: FloatArray, strengths: FloatArray, soft: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Each row's log-loss, summed over its battles, and its descent direction in the strengths.

    ``scores`` and ``strengths`` have shape (rows, experts), as has the direction: results minus
    expected results, summed over opponents.
    """
    loss, direction = np.zeros(len(scores)), np.zeros(scores.shape)
    left, right, signs = _pairs(scores.shape[1])
    for part in blocks(*scores.shape):
        own, strength = scores[part].T.copy(), strengths[part].T.copy()  # whole rows are gathered
        outcome = _result(own[left] - own[right], soft)  # (pairs, rows)
        fought = ~np.isnan(outcome)
        gap = strength[left] - strength[right]
        fell = np.exp(-np.abs(gap))
        probability = np.where(gap >= 0, 1.0, fell) / (1 + fell)
        entropy = np.maximum(gap, 0.0) + np.log1p(fell) - outcome * gap
        loss[part] = np.where(fought, entropy, 0.0).sum(axis=0)
        direction[part] = np.where(fought, outcome - probability, 0.0).T @ signs
    return loss, direction


def _pairs(experts: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Both experts of every pair, and a matrix (pairs, experts) that adds the first's surplus.

    What the first gets beyond its expectation, the second lacks.
    """
    left, right = np.triu_indices(experts, 1)
    identity = np.eye(experts)
    return left, right, identity[left] - identity[right]


def inflation(direction: FloatArray, information: FloatArray) -> float:
    """How much wider errors are than the information says, as battles of a row share scores.

    The trace of the inverse information times the rows' squared directions (White 1982, clustered
    by query), a direction of freedom; never below 1. ``direction`` has shape (rows, experts).
    """
    freedom = max(direction.shape[1] - 1, 1)
    inner = np.linalg.solve(information, direction.T @ direction)
    ratio: float = float(np.trace(inner)) / freedom
    return max(1.0, ratio)


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """One ranking of all rows: strengths, the inverse of whose information, widened, is covariance.

    ``directions`` (rows, experts) are those of ``score_battles`` at the strengths, ``wider`` is the
    ``inflation``.
    """

    strengths: FloatArray
    information: FloatArray
    covariance: FloatArray
    directions: FloatArray
    wider: float


def fit_global(scores: FloatArray, ridge: float, soft: bool = False) -> Global:
    """The Bradley-Terry ranking of scores (rows, experts); see ``fit_strengths``."""
    strengths, information = fit_strengths(tally(scores, soft), ridge)
    _, directions = score_battles(scores, np.tile(strengths, (len(scores), 1)), soft)
    wider = inflation(directions, information)
    return Global(strengths, information, wider * np.linalg.inv(information), directions, wider)


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from win shares to scores: ``level + slope * (share - centre)``."""

    level: float
    slope: float
    centre: float

    def quality(self, share: FloatArray) -> FloatArray:
        """Expected scores, clipped to [0, 1]."""
        expected: FloatArray = np.clip(self.level + self.slope * (share - self.centre), 0.0, 1.0)
        return expected


def fit_scale(share: FloatArray, scores: FloatArray) -> Scale:
    """The line through the mean score with the slope of scores on shares within queries.

    Both have shape (rows, experts). Differences between queries, their difficulty, do not enter
    the slope; where it is not positive, nothing was learnt and a share counts as a score.
    """
    seen = ~np.isnan(scores)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)

    def centred(values: FloatArray) -> FloatArray:
        values = np.where(seen, values, 0.0)
        means = values.sum(axis=1, keepdims=True) / count
        deviations: FloatArray = np.where(seen, values - means, 0.0)
        return deviations

    shares = centred(share)
    spread = float((shares**2).sum())
    slope = float((shares * centred(scores)).sum()) / spread if spread > 1e-12 else 0.0
    return Scale(float(scores[seen].mean()), slope if slope > 0 else 1.0, float(share[seen].mean()))


def plainest(losses: FloatArray) -> int:
    """The first choice whose loss is within one standard error of the least, plainest first.

    ``losses`` has shape (choices, rows); the error is that of the paired difference.
    """
    excess = losses - losses[losses.sum(axis=1).argmin()]
    error = excess.std(axis=1) * np.sqrt(losses.shape[1])
    return int(np.flatnonzero(excess.sum(axis=1) <= error)[0])


class Conditional:
    """Bradley-Terry strengths that are the global ones plus a linear map of the row's vector.

    ``vectors`` (rows, dim) have mean zero, ``scores`` are (rows, experts). Around the global
    strengths the Hessian is close to the Kronecker product of the vectors' second moments (axes
    and ``spans``) and a row's mean information (``modes`` and ``curvatures``), which gives one
    Newton step for every penalty at once, a preconditioner and the errors.
    """

    def __init__(
        self, vectors: FloatArray, scores: FloatArray, ridge: float, soft: bool = False
    ) -> None:
        self.vectors, self.scores, self.soft = vectors, scores, soft
        self.base = fit_global(scores, ridge, soft)
        per_row = (self.base.information - ridge * np.eye(scores.shape[1])) / len(scores)
        curvatures, self.modes = np.linalg.eigh(per_row)
        self.curvatures = np.maximum(curvatures, 0.0)
        self.moments = vectors.T @ vectors

    def loss(
        self, weights: FloatArray, rows: IntArray | slice = slice(None)
    ) -> tuple[FloatArray, FloatArray]:
        """Log-losses of the rows under a map (dim, experts), and their directions."""
        strengths = self.base.strengths + self.vectors[rows] @ weights
        return score_battles(self.scores[rows], strengths, self.soft)

    def choose_penalty(
        self, folds: Sequence[IntArray], penalties: FloatArray
    ) -> tuple[float, FloatArray]:
        """A penalty by held-out log-loss, and the rows' held-out strengths under it.

        It is the largest within one standard error of the best; ``penalties`` ascend. Each map is
        one Newton step from the global strengths on the other folds. Without folds it is the
        largest penalty, and the global strengths.
        """
        held = np.tile(self.base.strengths, (len(penalties), len(self.scores), 1))
        losses = np.zeros((len(penalties), len(self.scores)))
        for rows in folds:
            own = self.vectors[rows]
            slope = self.vectors.T @ self.base.directions - own.T @ self.base.directions[rows]
            step = self._newton_steps(self.moments - own.T @ own, slope)
            for number, penalty in enumerate(penalties):
                weights = step(penalty)
                losses[number, rows], _ = self.loss(weights, rows)
                held[number, rows] += own @ weights
        chosen = len(penalties) - 1 - plainest(losses[::-1])
        return float(penalties[chosen]), held[chosen]

    def _newton_steps(
        self, moments: FloatArray, slope: FloatArray
    ) -> Callable[[float], FloatArray]:
        """The map that one Newton step reaches, as a function of the penalty."""
        spans, axes = np.linalg.eigh(moments)
        rotated = axes.T @ slope @ self.modes
        curved = np.outer(np.maximum(spans, 0.0), self.curvatures)
        return lambda penalty: axes @ (rotated / (curved + penalty)) @ self.modes.T

    def maximise(self, penalty: float) -> FloatArray:
        """The map (dim, experts) of greatest likelihood minus ``penalty / 2`` times its squares."""
        from scipy.optimize import minimize

        spans, axes = np.linalg.eigh(self.moments)
        root = np.sqrt(np.outer(np.maximum(spans, 0.0), self.curvatures) + penalty)

        def unfold(inner: FloatArray) -> FloatArray:  # preconditioned coordinates to the map
            weights: FloatArray = axes @ (inner.reshape(root.shape) / root) @ self.modes.T
            return weights

        def objective(inner: FloatArray) -> tuple[float, FloatArray]:
            weights = unfold(inner)
            loss, directions = self.loss(weights)
            slope = penalty * weights - self.vectors.T @ directions
            value = float(loss.sum()) + penalty / 2 * float((weights**2).sum())
            return value, (axes.T @ slope @ self.modes / root).ravel()

        start = axes.T @ self.vectors.T @ self.base.directions @ self.modes / root
        options = {"gtol": 1e-7, "ftol": 1e-15, "maxiter": 100}
        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        return unfold(found.x)
