"""Coterie: many language models answer as one.

A router estimates, a policy decides, a composition is a conversation that does no I/O, and drivers
do the I/O. The names below are imported when first used, so ``import coterie`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coterie.aggregators import ByExpert, Majority, Weighted
    from coterie.compositions import annotate, cascade, recruit, single
    from coterie.config import read_config
    from coterie.drivers.batch import answer_all
    from coterie.drivers.live import answer, stream
    from coterie.drivers.replay import replay
    from coterie.errors import CoterieError
    from coterie.experts.base import Expert
    from coterie.experts.function import FunctionExpert
    from coterie.experts.local import LocalExpert
    from coterie.experts.openai import OpenAIExpert
    from coterie.experts.recorded import RecordedExpert
    from coterie.features import Encoder, LexicalEncoder, StaticEncoder
    from coterie.policies import Policy, Recruit, Utility
    from coterie.pool import Pool
    from coterie.profiling import profile_pool
    from coterie.questions import read_questions
    from coterie.records import Records
    from coterie.routers.base import Router, load_router
    from coterie.routers.baselines import Always, BestSingle, Oracle, Random
    from coterie.routers.linear import Linear
    from coterie.routers.neighbors import KNN
    from coterie.routers.skills import Skills
    from coterie.types import Answer, Call, Completion, Decision, Estimates, Final, Flow, Query

_HOMES = {
    "aggregators": ("ByExpert", "Majority", "Weighted"),
    "compositions": ("annotate", "cascade", "recruit", "single"),
    "config": ("read_config",),
    "drivers.batch": ("answer_all",),
    "drivers.live": ("answer", "stream"),
    "drivers.replay": ("replay",),
    "errors": ("CoterieError",),
    "experts.base": ("Expert",),
    "experts.function": ("FunctionExpert",),
    "experts.local": ("LocalExpert",),
    "experts.openai": ("OpenAIExpert",),
    "experts.recorded": ("RecordedExpert",),
    "features": ("Encoder", "LexicalEncoder", "StaticEncoder"),
    "policies": ("Policy", "Recruit", "Utility"),
    "pool": ("Pool",),
    "profiling": ("profile_pool",),
    "questions": ("read_questions",),
    "records": ("Records",),
    "routers.base": ("Router", "load_router"),
    "routers.baselines": ("Always", "BestSingle", "Oracle", "Random"),
    "routers.linear": ("Linear",),
    "routers.neighbors": ("KNN",),
    "routers.skills": ("Skills",),
    "types": ("Answer", "Call", "Completion", "Decision", "Estimates", "Final", "Flow", "Query"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'coterie' has no attribute {name!r}")
    value = getattr(import_module(f"coterie.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


__all__ = [
    "KNN",
    "Always",
    "Answer",
    "BestSingle",
    "ByExpert",
    "Call",
    "Completion",
    "CoterieError",
    "Decision",
    "Encoder",
    "Estimates",
    "Expert",
    "Final",
    "Flow",
    "FunctionExpert",
    "LexicalEncoder",
    "Linear",
    "LocalExpert",
    "Majority",
    "OpenAIExpert",
    "Oracle",
    "Policy",
    "Pool",
    "Query",
    "Random",
    "RecordedExpert",
    "Records",
    "Recruit",
    "Router",
    "Skills",
    "StaticEncoder",
    "Utility",
    "Weighted",
    "annotate",
    "answer",
    "answer_all",
    "cascade",
    "load_router",
    "profile_pool",
    "read_config",
    "read_questions",
    "recruit",
    "replay",
    "single",
    "stream",
]
