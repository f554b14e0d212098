"""Whether requests still come from where the records do: an alarm with a stated false-alarm rate.

A request's distance is that to the nearest of at most 64 centres of recorded queries, in radii of
the centre's own queries. Of recorded queries that the centres were not learnt from one in five lies
beyond ``limit``; where many more of the last requests do, they come from elsewhere, and the
router's estimates are extrapolations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import ArtifactError, InputError
from coterie.index import distances, learn_centres
from coterie.routers.base import Router
from coterie.types import FloatArray

CENTRES, PER_CENTRE = 64, 8  # at most, and recorded queries for each
SHARE = 0.2  # of recorded queries, beyond the limit: rarer ones are bounded worse and say less
HELD_OUT = 3  # every third recorded query sets the limit, the others the centres
LEAST = 60  # recorded queries
CONFIDENCE = 0.95  # that the share of ordinary requests beyond the limit is not underestimated


class DriftMonitor:
    """Watches a window of requests; ``alarm`` is set while too many are far from the records.

    Made by ``fit``. For independent requests that are like the records, the chance of any alarm
    within ``horizon`` of them is at most ``rate``: a binomial tail, summed over all windows. The
    alarm ends when no more are beyond the limit than ordinary requests would be.

    Parameters
    ----------
    centres, radii
        (centres, dim) and (centres,).
    limit
        Distance beyond which a request is far.
    share
        Upper bound of the share of ordinary requests beyond it.
    window
        Requests looked at.
    rate, horizon
        Accepted chance of a false alarm within so many requests.
    encoder
        Fingerprint of the encoder that made the vectors.
    fallback
        Name of the policy that answers while there is an alarm; none where empty.
    """

    def __init__(
        self,
        centres: FloatArray,
        radii: FloatArray,
        limit: float,
        share: float,
        *,
        window: int = 256,
        rate: float = 0.01,
        horizon: int = 100_000,
        encoder: str = "",
        fallback: str = "",
    ) -> None:
        self.centres = np.asarray(centres, np.float32)
        self.radii = np.asarray(radii, np.float32)
        self.limit, self.share, self.window = limit, share, window
        self.rate, self.horizon = rate, horizon
        self.encoder, self.fallback = encoder, fallback
        self.threshold = threshold(window, share, rate / horizon)
        self._inverse = 1 / np.square(self.radii)
        self._doubled = np.ascontiguousarray(2 * self.centres * self._inverse[:, None])
        self._squares = np.square(self.centres).sum(axis=1) * self._inverse
        self._ring = bytearray(window)
        self.seen, self.beyond, self.alarms, self.alarm = 0, 0, 0, False

    @classmethod
    def fit(cls, vectors: FloatArray, **settings: Any) -> Self:
        """Learn centres and limit from vectors of recorded queries, (queries, dim).

        Raises InputError for fewer than ``LEAST`` vectors, which bound nothing.
        """
        known = np.asarray(vectors, np.float32)
        if len(known) < LEAST:
            message = f"expected at least {LEAST} recorded queries, got {len(known)}"
            raise InputError(message, field="vectors")
        order = np.random.default_rng(0).permutation(len(known))
        held_out, rest = order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT])
        centres = learn_centres(known[rest], min(CENTRES, max(1, len(rest) // PER_CENTRE)))
        made = cls(centres, _radii(known[rest], centres), 0.0, 1.0, **settings)
        far = np.sort([made.distance(vector) for vector in known[held_out]])
        beyond = int(len(far) * SHARE)
        made.limit = float(far[-1 - beyond])
        made.share = share_bound(beyond, len(far), CONFIDENCE)
        made.threshold = threshold(made.window, made.share, made.rate / made.horizon)
        return made

    def distance(self, vector: FloatArray) -> float:
        """To the nearest centre, in radii of that centre."""
        square = self._squares - self._doubled.dot(vector) + vector.dot(vector) * self._inverse
        return math.sqrt(max(float(square.min()), 0.0))

    def observe(self, vector: FloatArray) -> float:
        """Take one request's vector, (dim,), into account; returns its distance."""
        far = self.distance(vector)
        place, beyond = self.seen % self.window, far > self.limit
        self.beyond += beyond - self._ring[place]
        self._ring[place] = beyond
        self.seen += 1
        if self.beyond >= self.threshold:
            self.alarms += not self.alarm
            self.alarm = True
        elif self.alarm and self.beyond <= self.window * self.share:
            self.alarm = False
        return far

    def reset(self) -> None:
        """Forget the requests seen so far."""
        self._ring = bytearray(self.window)
        self.seen, self.beyond, self.alarms, self.alarm = 0, 0, 0, False

    @property
    def reason(self) -> str:
        """What the window shows, for people."""
        count = min(self.seen, self.window)
        verdict = "away from the records" if self.alarm else "as expected"
        return (
            f"{self.beyond} of the last {count} requests are farther than {self.limit:.2f} "
            f"radii from the records, alarm at {self.threshold}: {verdict}"
        )

    def state(self) -> dict[str, Any]:
        """What there is to show, as JSON values."""
        return {
            "alarm": self.alarm,
            "alarms": self.alarms,
            "seen": self.seen,
            "beyond": self.beyond,
            "threshold": self.threshold,
            "window": self.window,
            "limit": self.limit,
            "share": self.share,
            "fallback": self.fallback,
            "reason": self.reason,
        }

    def save(self, folder: str | Path) -> None:
        """Write what was learnt, not the requests seen, as JSON and npz."""
        write_artifact(
            folder, "drift", self._settings(), {"centres": self.centres, "radii": self.radii}
        )

    def _settings(self) -> dict[str, Any]:
        names = ("limit", "share", "window", "rate", "horizon", "encoder", "fallback")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The monitor that ``save`` left; raises ArtifactError for anything else."""
        params, arrays = read_artifact(folder, "drift", remedy="learn it again")
        try:
            return cls(arrays["centres"], arrays["radii"], **params)
        except (LookupError, TypeError, ValueError) as error:
            raise ArtifactError(f"cannot be restored ({error!r})", path=folder) from None


def training_vectors(router: Router) -> FloatArray | None:
    """Vectors of the queries a router was fitted on, where it or a member of it keeps them."""
    own = vars(router).get("vectors_")
    if isinstance(own, np.ndarray) and own.ndim == 2 and len(own):
        return own
    members = vars(router).get("members_", ())
    kept = (training_vectors(member) for member in members if isinstance(member, Router))
    return next((vectors for vectors in kept if vectors is not None), None)


def _radii(vectors: FloatArray, centres: FloatArray) -> FloatArray:
    """Root mean square distance of each centre's vectors, drawn to that of all by one of them."""
    far = np.square(distances(vectors, centres))
    nearest, least = far.argmin(axis=1), far.min(axis=1)
    count = np.bincount(nearest, minlength=len(centres))
    total = np.bincount(nearest, least, minlength=len(centres))
    radii: FloatArray = np.sqrt((total + least.mean()) / np.maximum(count, 1))
    return np.maximum(radii, 1e-6)


def threshold(window: int, share: float, chance: float) -> int:
    """The least count that ``window`` trials of chance ``share`` reach with at most ``chance``.

    ``window + 1``, out of reach, where even all of them would be no surprise.
    """
    return _least(lambda count: tail(window, share, count) <= chance, window + 1)


def share_bound(beyond: int, count: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound of a share after ``beyond`` of ``count``.

    >>> round(share_bound(0, 100, 0.95), 4)
    0.0295
    """
    low, high = beyond / count, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        too_low = 1 - tail(count, middle, beyond + 1) > 1 - confidence
        low, high = (middle, high) if too_low else (low, middle)
    return high


def tail(trials: int, share: float, count: int) -> float:
    """Probability of at least ``count`` successes.

    >>> round(tail(2, 0.5, 1), 9)
    0.75
    """
    if count <= 0:
        return 1.0
    if share >= 1.0:
        return float(count <= trials)
    each = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(count, trials + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, each))


def _least(holds: Callable[[int], bool], high: int) -> int:
    """The least number up to ``high`` from which on it holds."""
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
