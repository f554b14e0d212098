"""Selections from plain score arrays, alike for requests, adapters, layers and tokens.

Scores are logits of shape (..., experts); every function works on the last axis. Numpy alone: what
routes inside a model hands over its logits as an array, and the number of experts, which pads a
selection, is what the expert kernels of transformers skip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.policies.base import check_count, check_number
from coterie.types import FloatArray, IntArray

Scope: TypeAlias = Literal["request", "step", "adapter", "layer", "token"]
APART = 1000.0  # logits further apart than that share no weight: exp(-1000) is 0


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Who was selected: expert numbers and their weights, both of shape (..., k), best first.

    Where fewer than k were selected the rest is padded with the number of experts and weight 0.
    ``scope`` says what one row of scores stood for.
    """

    experts: IntArray
    weights: FloatArray
    scope: Scope = "request"

    def counts(self, experts: int) -> IntArray:
        """How many of ``experts`` were selected in each row, shape (...)."""
        chosen: IntArray = (self.experts < experts).sum(axis=-1)
        return chosen

    def spread(self, experts: int) -> FloatArray:
        """The weights by expert, shape (..., experts); 0 for those not selected."""
        whole = np.zeros((*self.weights.shape[:-1], experts + 1))
        np.put_along_axis(whole, self.experts, self.weights, axis=-1)
        return whole[..., :experts]


def softmax(scores: FloatArray, temperature: float = 1.0) -> FloatArray:
    """exp(scores / temperature), normalised over the last axis; -inf gets 0.

    Raises InputError for NaN, and for a row without a finite score.
    """
    check_number(temperature, "temperature", above=True)
    scores = np.asarray(scores, float)
    if scores.shape[-1:] in ((), (0,)):
        raise InputError(f"expected scores of at least one expert, got shape {scores.shape}")
    best = scores.max(axis=-1, keepdims=True)
    if not np.isfinite(best).all():
        raise InputError("expected a finite score in every row and no NaN", field="scores")
    weights = np.exp((scores - best) / temperature)
    shares: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def top_k(
    scores: FloatArray, k: int, scope: Scope = "request", *, renormalise: bool = True
) -> Selection:
    """The k experts of highest score.

    Weights are the softmax over all experts, of which the selected ones sum to 1 if
    ``renormalise`` (Mixtral) and are left as they are otherwise (OLMoE).
    """
    check_count(k, "k")
    return _first(softmax(scores), scores, lambda shares: _row(shares, k), scope, renormalise)


def top_p(
    scores: FloatArray, p: float, scope: Scope = "request", *, renormalise: bool = False
) -> Selection:
    """The best experts up to the first at which their joint share of the softmax exceeds ``p``.

    As Dynamic_MoE has it, with raw weights; every expert where no sum exceeds ``p``.
    """
    check_number(p, "p", high=1.0)
    return _first(softmax(scores), scores, lambda shares: _reaching(shares, p), scope, renormalise)


def rank_k(
    scores: FloatArray, rank: int, scope: Scope = "request", *, renormalise: bool = True
) -> Selection:
    """The expert of this rank alone, 1 the best: the weak branch of SCMoE."""
    shares, order = softmax(scores), ranking(scores)
    check_count(rank, "rank")
    if rank > shares.shape[-1]:
        message = f"expected at most the {shares.shape[-1]} experts, got {rank!r}"
        raise InputError(message, field="rank")
    expert = order[..., rank - 1 : rank]
    weight = np.take_along_axis(shares, expert, axis=-1)
    return Selection(expert, np.ones_like(weight) if renormalise else weight, scope)


def entropy_switch(
    scores: FloatArray,
    threshold: float = 0.9,
    scope: Scope = "request",
    *,
    q: float = 1.1,
    p: float = 0.75,
    k: int = 2,
    normalise: bool = False,
) -> Selection:
    """Every expert by its share where the router is unsure, else top-p and at least k (DynMoLE).

    Unsure means a Tsallis entropy of order ``q`` above ``threshold``. The entropy is as large as
    there are experts; ``normalise`` divides it by its maximum, so that a threshold in [0, 1] means
    the same for any number of them. Weights sum to 1.
    """
    check_number(p, "p", high=1.0)
    check_count(k, "k")
    shares = softmax(scores)
    entropy = tsallis(shares, q)
    if normalise and shares.shape[-1] > 1:
        entropy = entropy / tsallis(np.full(shares.shape[-1], 1 / shares.shape[-1]), q)
    unsure = (entropy > threshold)[..., None]

    def keep(ordered: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(unsure | _reaching(ordered, p) | _row(ordered, k), bool)

    return _first(shares, scores, keep, scope, True)


def tsallis(shares: FloatArray, q: float = 1.1) -> FloatArray:
    """Tsallis entropy (1 - sum of p^q) / (q - 1) over the last axis; Shannon's at q = 1, in nats.

    >>> tsallis(np.array([0.5, 0.5]), 2.0).item(), round(tsallis(np.array([0.5, 0.5]), 1).item(), 4)
    (0.5, 0.6931)
    """
    check_number(q, "q", above=True)
    shares = np.asarray(shares, float)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    # (1 - p^(q-1)) / (q - 1), without cancellation near q = 1
    surprise = -logs if q == 1 else -np.expm1((q - 1) * logs) / (q - 1)
    entropy: FloatArray = (shares * surprise).sum(axis=-1)
    return entropy


def with_prior(scores: FloatArray, prior: FloatArray, scale: float) -> FloatArray:
    """``scores + scale * prior``: GLIDER's rule, by which a coarse level guides a finer one.

    ``prior`` has shape (..., experts) and is broadcast. At scale 0 the scores are left as they
    are. At an infinite scale the prior alone ranks the experts and scores decide among equals;
    all weight goes to the experts of the largest prior.
    """
    check_number(scale, "scale")
    scores, prior = np.asarray(scores, float), np.asarray(prior, float)
    if scale == 0:
        return scores + np.zeros_like(prior)
    if not math.isinf(scale):
        return scores + scale * prior
    shape = np.broadcast_shapes(scores.shape, prior.shape)
    finite = np.where(np.isfinite(scores), scores, np.nan)
    reach = np.nanmax(finite, axis=-1, keepdims=True) - np.nanmin(finite, axis=-1, keepdims=True)
    prior = np.broadcast_to(prior, shape)
    better = (prior[..., None, :] > prior[..., :, None]).sum(axis=-1)  # experts with a larger prior
    apart: FloatArray = scores - better * (reach + APART)
    return apart


def ranking(scores: FloatArray) -> IntArray:
    """Expert numbers by score, best first, equal ones by place; shape (..., experts)."""
    order: IntArray = np.argsort(-np.asarray(scores, float), axis=-1, kind="stable")
    return order


def _first(
    shares: FloatArray,
    scores: FloatArray,
    keep: Callable[[FloatArray], NDArray[np.bool_]],
    scope: Scope,
    renormalise: bool,
) -> Selection:
    """The experts that ``keep`` marks among the shares in order, without those of score -inf."""
    order, count = ranking(scores), shares.shape[-1]
    ordered = np.take_along_axis(shares, order, axis=-1)
    possible = np.isfinite(np.take_along_axis(np.asarray(scores, float), order, axis=-1))
    kept = keep(ordered) & possible
    width = int(kept.sum(axis=-1).max(initial=1))
    kept, order, ordered = kept[..., :width], order[..., :width], ordered[..., :width]
    weights = np.where(kept, ordered, 0.0)
    if renormalise:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return Selection(np.where(kept, order, count), weights, scope)


def _row(shares: FloatArray, k: int) -> NDArray[np.bool_]:
    """The first k places."""
    first: NDArray[np.bool_] = np.broadcast_to(np.arange(shares.shape[-1]) < k, shares.shape)
    return first


def _reaching(shares: FloatArray, p: float) -> NDArray[np.bool_]:
    """Places before which the sum of shares does not exceed ``p`` yet."""
    before = np.cumsum(shares, axis=-1)[..., :-1]
    first = np.ones((*shares.shape[:-1], 1), bool)
    reached: NDArray[np.bool_] = np.concatenate([first, before <= p], axis=-1)
    return reached
