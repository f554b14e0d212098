"""What another policy would have earned on logged decisions, as far as chance lets one say.

A log holds for every request which arm (expert) was asked, with which probability (propensity), and
what came of it (reward). Where the log's choices were partly left to chance, weights of target
probability / propensity turn its rewards into an estimate for any other policy: inverse propensity
scores (Horvitz and Thompson 1952), self-normalised (Swaminathan and Joachims 2015), truncated
(Ionides 2008), and doubly robust (Dudik, Langford and Li 2011) with a reward model that never sees
the request it predicts. Where it was not, there is nothing to learn, and OverlapError says where.

Numpy only: Open Bandit Pipeline, the library for this, is not maintained for today's Pythons (its
last release is of 2023 and needs Python < 3.11) and would bring torch along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, InputError
from coterie.folds import fold_rows
from coterie.routers.linear import fit_ridge, with_intercept
from coterie.types import Decision, FloatArray, IntArray

NORMAL = 1.959964  # half the width of a 95 % interval, in standard errors
CERTAIN = 1 - 1e-9
FEW = 30  # effective requests below which an interval is not to be trusted
FOLDS = 5
IPS, CLIPPED, SNIPS = "ips", "clipped ips", "snips"
DIRECT, ROBUST = "direct", "doubly robust"
OWN, ROBUST_OWN = "router's own", "doubly robust, router's"


class OverlapError(CoterieError):
    """The log says nothing about what the target policy would do."""


@dataclass(frozen=True, eq=False)
class Logged:
    """Decisions as they were logged, one row a request.

    Parameters
    ----------
    arms
        Who could be asked.
    chosen
        Number of the arm that was asked first, (requests,).
    propensity
        With which probability it was, in (0, 1], (requests,).
    reward
        What came of it; NaN where nobody said, (requests,).
    vectors
        What the reward model may look at, (requests, dim); without it, it knows means only.
    predicted
        Rewards that a router expects of every arm, (requests, arms); None where there is none.

    Raises
    ------
    InputError
        Where shapes disagree, a propensity is outside (0, 1] or no reward is known.
    """

    arms: tuple[str, ...]
    chosen: IntArray
    propensity: FloatArray
    reward: FloatArray
    vectors: FloatArray | None = None
    predicted: FloatArray | None = None

    def __post_init__(self) -> None:
        count = len(self.chosen)
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "propensity": (self.propensity, (count,)),
            "reward": (self.reward, (count,)),
            "predicted": (self.predicted, (count, len(self.arms))),
        }
        for name, (array, shape) in shapes.items():
            if array is not None and np.shape(array) != shape:
                raise InputError(f"expected shape {shape}, got {np.shape(array)}", field=name)
        wrong = ~((self.propensity > 0) & (self.propensity <= 1))
        if wrong.any():
            row = int(wrong.argmax())
            message = f"request {row + 1}: {self.propensity[row]} is no probability above 0"
            raise InputError(message, field="propensity")
        if not self.scored.any():
            raise InputError("no request has a reward; nobody gave feedback", field="reward")

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which requests have a reward."""
        scored: NDArray[np.bool_] = np.isfinite(self.reward)
        return scored

    @property
    def rates(self) -> FloatArray:
        """Share of each arm's requests that have a reward, (arms,); 0 where it had none."""
        size = len(self.arms)
        asked = np.bincount(self.chosen, minlength=size)
        rates: FloatArray = np.bincount(self.chosen[self.scored], minlength=size) / np.maximum(
            asked, 1
        )
        return rates

    def take(self, rows: IntArray | NDArray[np.bool_]) -> Logged:
        """The log of these requests."""
        return replace(
            self,
            chosen=self.chosen[rows],
            propensity=self.propensity[rows],
            reward=self.reward[rows],
            vectors=None if self.vectors is None else self.vectors[rows],
            predicted=None if self.predicted is None else self.predicted[rows],
        )


class Value(NamedTuple):
    """An estimate with its standard error and 95 % interval, NaN where nothing bounds it."""

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What the target policy is worth by each estimator, beside the policy that was logged.

    Two have no interval: how wrong the model of the direct method is, and how much truncation cut
    off, no log tells. ``difference`` is the doubly robust value less the logged policy's, paired
    by request; ``effective`` how many requests the weights are worth, (sum w)^2 / sum w^2;
    ``mean_weight`` is 1 but for chance where the propensities are right; ``agreement`` the share of
    requests on which the target does what was done.
    """

    requests: int
    scored: int
    effective: float
    max_weight: float
    mean_weight: Value
    agreement: float
    values: dict[str, Value]
    logged: Value
    difference: Value

    @property
    def shown(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference.low > 0 or self.difference.high < 0

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to believe the intervals, as sentences."""
        found = []
        if self.effective < FEW:
            found.append(
                f"the weights are worth {self.effective:.0f} requests only: do not trust the "
                "intervals"
            )
        if not self.mean_weight.low <= 1 <= self.mean_weight.high:
            found.append(
                f"the weights average {self.mean_weight.value:.2f} instead of 1: a propensity is "
                "wrong, or the log could not have chosen what the target would"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers for JSON."""
        plain = {k: _plain(v) if isinstance(v, Value) else v for k, v in vars(self).items()}
        plain["values"] = {name: _plain(value) for name, value in self.values.items()}
        return {**plain, "shown": self.shown, "doubts": list(self.doubts)}


def compare(
    log: Logged, target: FloatArray, *, clip: float | None = None, seed: int = 0
) -> Comparison:
    """What a policy with these probabilities of each arm, (requests, arms), would have earned.

    Whether a request has a reward may depend on who was asked (weights make up for it) but must
    depend on nothing else. Weights above ``clip``, by default the root of the number of requests,
    are cut in the truncated estimate alone.

    Raises
    ------
    OverlapError
        Where the target would ask an arm that the log never asked, that nobody scored, or that
        could not have been asked since the log was certain of another. ``supported`` says which
        requests are left.
    """
    target = _checked(log, target)
    _require_overlap(log, target)
    rows = np.arange(len(log))
    weight = _weights(log, target)
    reward = np.where(log.scored, log.reward, 0.0)
    cut = math.sqrt(len(log)) if clip is None else clip
    unseen = _surprise(weight, log.reward)
    values = {
        IPS: _mean(weight * reward, unseen),
        CLIPPED: _mean(np.minimum(weight, cut) * reward)._replace(low=math.nan, high=math.nan),
        SNIPS: _ratio(weight, reward, unseen),
    }
    robust: FloatArray = np.empty(0)
    models = {(DIRECT, ROBUST): cross_fitted(log, seed), (OWN, ROBUST_OWN): log.predicted}
    for (direct, corrected), model in models.items():
        if model is not None:
            plain = (target * model).sum(axis=1)
            each = plain + weight * (reward - model[rows, log.chosen])
            alone = Value(float(plain.mean()), math.nan, math.nan, math.nan)
            values |= {direct: alone, corrected: _mean(each, unseen)}
            robust = each if corrected == ROBUST else robust
    own = np.where(log.scored, reward / log.rates[log.chosen], 0.0)
    return Comparison(
        requests=len(log),
        scored=int(log.scored.sum()),
        effective=float(weight.sum() ** 2 / np.square(weight).sum()) if weight.any() else 0.0,
        max_weight=float(weight.max()),
        mean_weight=_mean(weight),
        agreement=float(target[rows, log.chosen].mean()),
        values=values,
        logged=_mean(own),
        difference=_mean(robust - own, unseen),
    )


def supported(log: Logged, target: FloatArray) -> NDArray[np.bool_]:
    """The requests on which the log could have done all that the target would.

    It depends on requests, never on what came of them, so the rest may be judged without bias: as
    a statement about these requests.
    """
    absent, certain = _unsupported(log, _checked(log, target))
    return ~(absent.any(axis=1) | certain)


def cross_fitted(log: Logged, seed: int = 0) -> FloatArray:
    """Rewards expected of every arm, (requests, arms), each by ridges that did not see its row."""
    count = len(log)
    vectors = np.zeros((count, 0)) if log.vectors is None else np.asarray(log.vectors, float)
    outcome = np.full((count, len(log.arms)), np.nan)
    outcome[np.arange(count), log.chosen] = log.reward
    expected = np.empty(outcome.shape)
    for held_out in fold_rows(np.arange(count), min(FOLDS, count), seed):
        seen = np.setdiff1d(np.flatnonzero(log.scored), held_out)
        level = float(log.reward[seen].mean()) if len(seen) else 0.0
        fitted = fit_ridge(vectors[seen], outcome[seen] - level)
        expected[held_out] = with_intercept(vectors[held_out]) @ fitted.coefficients + level
    low, high = np.nanmin(log.reward), np.nanmax(log.reward)
    return np.clip(expected, low, high)


def one_hot(decisions: Sequence[Decision], arms: Sequence[str]) -> FloatArray:
    """Certain choices as probabilities, (requests, arms): who is asked first."""
    column_of = {name: column for column, name in enumerate(arms)}
    target = np.zeros((len(decisions), len(arms)))
    for row, decision in enumerate(decisions):
        first = decision.experts[0]
        if first not in column_of:
            raise InputError(f"expert {first!r} is not in the log; it has {', '.join(arms)}")
        target[row, column_of[first]] = 1.0
    return target


def _checked(log: Logged, target: FloatArray) -> FloatArray:
    target = np.asarray(target, float)
    shape = (len(log), len(log.arms))
    if target.shape != shape:
        raise InputError(f"expected shape {shape}, got {target.shape}", field="target")
    if (target < 0).any() or not np.allclose(target.sum(axis=1), 1.0):
        raise InputError("expected probabilities that add up to 1 a request", field="target")
    return target


def _weights(log: Logged, target: FloatArray) -> FloatArray:
    """Target probability over that of being asked and scored; 0 where nobody scored."""
    asked = target[np.arange(len(log)), log.chosen]
    chance = log.propensity * log.rates[log.chosen]
    weight: FloatArray = np.divide(asked, chance, out=np.zeros(len(log)), where=log.scored)
    return weight


def _unsupported(log: Logged, target: FloatArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the target asks an arm without rewards (requests, arms), or where the log was certain.

    The second, (requests,), is true where the log was certain of another arm than the target asks.
    """
    absent = (target > 0) & (log.rates == 0)
    agreed = target[np.arange(len(log)), log.chosen]
    return absent, (log.propensity >= CERTAIN) & (agreed < CERTAIN)


def _require_overlap(log: Logged, target: FloatArray) -> None:
    absent, certain = _unsupported(log, target)
    reasons = []
    if absent.any():
        named = ", ".join(log.arms[j] for j in np.flatnonzero(absent.any(axis=0)))
        share = absent.any(axis=1).mean()
        reasons.append(f"on {share:.0%} of the requests it would ask {named}, of which the log "
                       "has no reward")  # fmt: skip
    if certain.any():
        others = target[certain] * (np.arange(len(log.arms)) != log.chosen[certain][:, None])
        named = ", ".join(log.arms[j] for j in np.flatnonzero(others.any(axis=0)))
        reasons.append(f"on {certain.mean():.0%} of the requests it would ask {named} where the "
                       "log was certain of another (propensity 1)")  # fmt: skip
    if reasons:
        raise OverlapError(
            f"the log cannot tell what this policy would earn: {'; '.join(reasons)}. Leave some "
            "choices to chance (the policy 'explore'), or judge only the requests that overlap"
        )


def _surprise(weight: FloatArray, reward: FloatArray) -> float:
    """What one more request of typical weight would shift a mean of weighted rewards by, at worst.

    Where almost all rewards are alike, the few that are not may all have been missed, and the
    sample says nothing of it: without this, intervals at 30 effective requests held 28 to 65 %.
    """
    if not weight.any():
        return math.inf
    span = max(1.0, float(np.nanmax(reward) - np.nanmin(reward)))  # scores are in [0, 1]
    return span * float(np.square(weight).sum() / weight.sum()) / len(weight)


def _mean(each: FloatArray, unseen: float = 0.0) -> Value:
    """The mean of the requests' contributions."""
    count = len(each)
    error = float(each.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf
    return _value(float(each.mean()), math.hypot(error, unseen))


def _ratio(weight: FloatArray, reward: FloatArray, unseen: float) -> Value:
    """The weighted mean of the rewards, its error by the delta method."""
    total = float(weight.sum())
    if total == 0:
        return Value(math.nan, math.nan, math.nan, math.nan)
    value = float(weight @ reward) / total
    error = float(np.sqrt(np.square(weight * (reward - value)).sum()))
    return _value(value, math.hypot(error, unseen * len(weight)) / total)


def _plain(value: Value) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in value._asdict().items()}


def _value(value: float, error: float) -> Value:
    return Value(value, error, value - NORMAL * error, value + NORMAL * error)
