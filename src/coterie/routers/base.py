"""The contract of a router: ``fit`` learns from records, ``predict`` estimates; policies decide.

The constructor stores hyper-parameters under their own names and does nothing else. Learnt
attributes end in ``_``; arrays, JSON values and encoders among them are saved by the base class.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from coterie import plugins
from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import (
    ArtifactError,
    CoterieError,
    InputError,
    NotFittedError,
    PluginError,
)
from coterie.features import Encoder
from coterie.records import Records
from coterie.types import Estimates, FloatArray, Query


class Router(ABC):
    """Estimates quality and cost of every expert on every query."""

    name: ClassVar[str]
    reads: ClassVar[str] = "text"  # or "category": the panel reports them apart
    experts_: tuple[str, ...]

    @abstractmethod
    def fit(self, records: Records) -> Self:
        """Learn from scores (never from argmax labels), forgetting earlier fits."""

    @abstractmethod
    def predict(self, queries: Sequence[Query]) -> Estimates:
        """Estimates of shape (queries, experts); raises NotFittedError before ``fit``."""

    def _check_fitted(self) -> None:
        if not hasattr(self, "experts_"):
            raise NotFittedError(type(self).__name__)

    def save(self, folder: str | Path) -> None:
        """Write hyper-parameters and learnt attributes as JSON and npz, in one piece."""
        params, arrays = self._state()
        params["fingerprint"] = self.fingerprint()
        write_artifact(Path(folder), "router", params, arrays)

    def fingerprint(self) -> str:
        """Equal where everything that was learnt is equal, the encoder included."""
        params, arrays = self._state()
        digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode())
        for key in sorted(arrays):
            digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
        return digest.hexdigest()[:16]

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Everything to save: JSON values and arrays."""
        self._check_fitted()
        params: dict[str, Any] = {"router": self.name, "settings": self._settings()}
        params |= {"learnt": {}, "encoders": {}}
        arrays: dict[str, Any] = {}
        for key, value in vars(self).items():
            if not key.endswith("_"):
                continue
            if isinstance(value, np.ndarray):
                arrays[key] = value
            elif isinstance(value, Encoder):
                settings, weights = value.to_arrays()
                params["encoders"][key] = {"name": value.name, "params": settings}
                arrays |= {f"{key}/{part}": array for part, array in weights.items()}
            else:
                params["learnt"][key] = value
        return params, arrays

    def _settings(self) -> dict[str, Any]:
        """Hyper-parameters as JSON values; an encoder instance goes by its name."""
        names = inspect.signature(type(self)).parameters
        values = {name: getattr(self, name) for name in names}
        return {k: v.name if isinstance(v, Encoder) else v for k, v in values.items()}

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """A router of this class as ``save`` left it; raises ArtifactError for anything else."""
        params, arrays = read_artifact(Path(folder), "router")
        if params.get("router") != cls.name:
            found = params.get("router")
            message = f"holds a router of kind {found!r}, expected {cls.name!r}"
            raise ArtifactError(message, path=folder)
        try:
            router = cls._restore(params, arrays)
        except ArtifactError as error:
            raise ArtifactError(str(error), path=folder) from None
        except (LookupError, TypeError, ValueError, AttributeError, CoterieError) as error:
            message = f"the {cls.name} router in it cannot be restored ({error!r}); fit it again"
            raise ArtifactError(message, path=folder) from None
        if router.fingerprint() != params.get("fingerprint"):
            raise ArtifactError("damaged: it is not what was saved; fit it again", path=folder)
        return router

    @classmethod
    def _restore(cls, params: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        router = cls(**params["settings"])
        for key, value in params["learnt"].items():
            setattr(router, key, tuple(value) if isinstance(value, list) else value)
        for key, value in arrays.items():
            if "/" not in key:
                setattr(router, key, value)
        for key, saved in params["encoders"].items():
            prefix = f"{key}/"
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            kind = plugins.load("encoders", saved["name"])
            setattr(router, key, kind.from_arrays(saved["params"], own))
        router._check_fitted()
        return router


def load_router(folder: str | Path) -> Router:
    """The router saved in ``folder``, whichever registered kind it is."""
    params, _ = read_artifact(Path(folder), "router")
    try:
        kind: type[Router] = plugins.load("routers", str(params.get("router")))
    except PluginError as error:
        message = f"{error}; install the package that registers it, or fit another router"
        raise ArtifactError(message, path=folder) from None
    return kind.load(folder)


def make_encoder(encoder: str | Encoder) -> Encoder:
    """An encoder of one's own to fit: from its plug-in name, or a copy of the instance."""
    if isinstance(encoder, Encoder):
        return copy.deepcopy(encoder)
    made: Encoder = plugins.load("encoders", encoder)()
    return made


def require_rows(records: Records) -> None:
    """Raise InputError where there is nothing to learn from."""
    if len(records) == 0 or not records.observed.any():
        raise InputError("the records hold no scores; profile a pool first")


def mean_or(values: FloatArray, default: FloatArray | float) -> FloatArray:
    """Column means over what was observed; ``default`` where a column holds nothing."""
    seen = ~np.isnan(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    means: FloatArray = np.where(count > 0, total / np.maximum(count, 1), default)
    return means


def spread(row: FloatArray, queries: Sequence[Query]) -> FloatArray:
    """One row of expert values repeated for every query."""
    return np.tile(row, (len(queries), 1))
