"""AgentRouter's graph network over queries, entities and agents: the extra ``graph``.

A question and the entities in it are nodes, and so is every expert (agent); typed edges say which
entity a question mentions, how well an expert did on recorded questions about the entity, and whom
the question may go to. Two layers of typed messages give every expert a logit, trained on the soft
labels of ``soft-labels``. The paper's list of edges is not public; this one is ours.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from coterie.errors import CoterieError
from coterie.features import Encoder
from coterie.folds import fold_rows
from coterie.records import Records
from coterie.routers.base import Router, make_encoder, require_rows
from coterie.routers.ensembles import require_positive
from coterie.routers.linear import fit_cost, predict_cost, with_intercept
from coterie.routers.soft_labels import Targets, as_quality, check_above_zero, fit_level
from coterie.types import Estimates, FloatArray, IntArray, Query

BATCH = 64  # queries a step
PATIENCE = 8  # epochs without a smaller loss that end the training
RATE, DECAY = 1e-2, 1e-3  # of Adam
FOLDS = 5  # what stands on edges in training comes from the other folds
_NAME = re.compile(r"[^\W\d_a-z][\w'’-]*(?:\s+(?:of\s+|the\s+)?[^\W\d_a-z][\w'’-]*)*")
_QUOTED = re.compile(r"[\"“‘`]([^\"”’`]{2,60})[\"”’`]")
_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*)$")
# Words that a sentence starts with; other capitalised words count as names.
_COMMON = frozenset(
    """
a an and are as at be but by can compute did do does explain find for from give had has have he her
his how i if in is it its let list name of on or please say she should show since so that the their
then there these they this to was we were what when where which who whom whose why will with would
write you your
""".split()  # noqa: SIM905 (a list of this length is better read as text)
)


def entities(text: str) -> list[str]:
    """Names in a text, small letters, each once: capitalised words in a row, and what is quoted.

    A word that starts a sentence counts unless it is a common one.

    >>> entities('Who led the Bank of England when "Animal Farm" came out?')
    ['animal farm', 'bank of england']
    """
    found = [match.group(1) for match in _QUOTED.finditer(text)]
    for match in _NAME.finditer(_QUOTED.sub(" ", text)):
        words = match.group().split()
        while words and words[0].lower() in _COMMON:
            words = words[1:]
        if words:
            found.append(" ".join(words))
    return list(dict.fromkeys(" ".join(name.lower().split()) for name in found))


class AgentGraph(Router):
    """A heterogeneous graph network for each question with its entities and the experts.

    Experts are described by what they did, never by their place: two with equal scores get equal
    estimates. What the network reads of an expert in training comes from other folds than the
    question's; leaving out the question alone would give its score away.

    Parameters
    ----------
    temperature
        Of the soft labels, as in ``soft-labels``.
    hidden
        Length of the nodes' states.
    epochs
        At most so many passes; the one with the least loss on a fold kept back counts.
    encoder
        Plug-in name of an encoder, or an instance, for questions and entities.
    seed
        Of the first weights and the folds.
    """

    name = "agent-graph"
    encoder_: Encoder
    weights_: FloatArray
    names_: tuple[str, ...]
    gains_: FloatArray
    counts_: FloatArray
    profile_: FloatArray
    level_: FloatArray
    cost_: FloatArray

    def __init__(
        self,
        temperature: float = 0.1,
        hidden: int = 32,
        epochs: int = 40,
        encoder: str | Encoder = "static",
        seed: int = 0,
    ) -> None:
        self.temperature = temperature
        self.hidden = hidden
        self.epochs = epochs
        self.encoder = encoder
        self.seed = seed

    def fit(self, records: Records) -> Self:
        """Train the network; CoterieError where the extra is not installed."""
        require_rows(records)
        check_above_zero(temperature=self.temperature)
        require_positive(hidden=self.hidden, epochs=self.epochs)
        torch, _ = _torch()
        texts = [q.text for q in records.queries]
        encoder = make_encoder(self.encoder).fit(texts)
        graph = Graph.of(texts, encoder)
        gains = centred(records.quality)
        whole = Facts.of(graph, gains)
        targets = Targets.of(records.quality, self.temperature)
        parts = fold_rows(records.text_groups, min(FOLDS, len(texts)), self.seed)
        others = [whole.less(Facts.of(graph.take(part), gains[part])) for part in parts]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.weights_ = self._train(graph, targets, parts, others)
        self.names_, self.gains_, self.counts_ = tuple(whole.place), whole.gains, whole.counts
        self.profile_ = whole.profile
        self.level_ = fit_level(graph.vectors, records.quality)
        self.cost_ = fit_cost(graph.vectors, records.cost)
        self.encoder_, self.experts_ = encoder, records.experts
        return self

    def _train(
        self, graph: Graph, targets: Targets, parts: Sequence[IntArray], others: Sequence[Facts]
    ) -> FloatArray:
        """The weights of the epoch with the least loss on the first fold."""
        network = _Network(graph.vectors.shape[1], self.hidden)
        tasks = [
            (graph.take(rows), facts, targets.take(rows))
            for part, facts in zip(parts, others, strict=True)
            for rows in np.split(part, np.arange(BATCH, len(part), BATCH))
        ]
        held = -(-len(parts[0]) // BATCH) if len(parts) > 1 else 0
        order, best, weights = np.random.default_rng(self.seed), np.inf, network.weights()
        latest = 0
        for epoch in range(self.epochs):
            for number in order.permutation(len(tasks) - held) + held:
                network.step(*tasks[number])
            loss = sum(network.loss(*task) for task in (tasks[:held] or tasks))
            if loss < best:
                best, weights, latest = loss, network.weights(), epoch
            elif epoch - latest >= PATIENCE:
                break
        return weights

    def predict(self, queries: Sequence[Query]) -> Estimates:
        """The qualities behind the network's distributions, and ridge predictions of the cost."""
        self._check_fitted()
        graph = Graph.of([q.text for q in queries], self.encoder_)
        network = _Network(graph.vectors.shape[1], self.hidden)
        network.load(self.weights_)
        place = {name: number for number, name in enumerate(self.names_)}
        facts = Facts(place, self.gains_, self.counts_, self.profile_)
        logits = np.zeros((len(queries), len(self.experts_)))
        for start in range(0, len(queries), BATCH):
            rows = np.arange(start, min(start + BATCH, len(queries)))
            logits[rows] = network.logits(graph.take(rows), facts)
        level = with_intercept(graph.vectors) @ self.level_
        quality = as_quality(logits, level, self.temperature)
        return Estimates(self.experts_, quality, predict_cost(graph.vectors, self.cost_))


class Graph(NamedTuple):
    """Questions and their entities; ``said`` are the entities' vectors.

    ``vectors`` has shape (queries, dim), ``said`` (mentions, dim); ``owner`` and ``names`` say for
    every mention which question it is in and what it is called.
    """

    vectors: FloatArray
    said: FloatArray
    owner: IntArray
    names: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Encoder) -> Graph:
        """The graph of these questions."""
        vectors = np.asarray(encoder.encode(texts), float)
        found = [entities(text) for text in texts]
        names = tuple(name for own in found for name in own)
        said = np.asarray(encoder.encode(names), float).reshape(len(names), vectors.shape[1])
        return cls(vectors, said, np.repeat(np.arange(len(texts)), [len(o) for o in found]), names)

    def take(self, rows: IntArray) -> Graph:
        """The graph of some questions, numbered anew."""
        parts = [np.flatnonzero(self.owner == row) for row in rows]
        at = np.concatenate([*parts, np.empty(0, np.intp)]).astype(np.intp)
        owner = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
        return Graph(self.vectors[rows], self.said[at], owner, tuple(self.names[i] for i in at))


class Facts(NamedTuple):
    """What experts did, in sums over questions.

    ``gains`` and ``counts`` (entities, experts): how much better than the mean, how often seen;
    ``profile`` (experts, dim): the questions' vectors times the gains.
    """

    place: dict[str, int]
    gains: FloatArray
    counts: FloatArray
    profile: FloatArray

    @classmethod
    def of(cls, graph: Graph, gains: FloatArray) -> Facts:
        """The facts of these questions and gains, NaN where not observed."""
        names = dict.fromkeys(sorted(set(graph.names)))
        place = {name: number for number, name in enumerate(names)}
        at = np.array([place[name] for name in graph.names], np.intp)
        sums = np.zeros((2, len(place), gains.shape[1]))
        np.add.at(sums[0], at, np.nan_to_num(gains)[graph.owner])
        np.add.at(sums[1], at, ~np.isnan(gains)[graph.owner])
        return cls(place, sums[0], sums[1], np.nan_to_num(gains).T @ graph.vectors)

    def less(self, part: Facts) -> Facts:
        """The facts of all questions but those of ``part``."""
        gains, counts = self.gains.copy(), self.counts.copy()
        at = [self.place[name] for name in part.place]
        gains[at] -= part.gains
        counts[at] -= part.counts
        return Facts(self.place, gains, counts, self.profile - part.profile)

    def edges(self, names: Sequence[str]) -> FloatArray:
        """Mean gain and evidence of every expert on these entities, (names, experts, 2).

        The mean is shrunk to 0 as if one more question had shown no gain.
        """
        nothing = np.zeros((1, self.gains.shape[1]))
        at = [self.place.get(name, len(self.gains)) for name in names]
        gains, counts = (np.vstack([a, nothing])[at] for a in (self.gains, self.counts))
        return np.stack([gains / (counts + 1), np.log1p(counts)], axis=-1)

    def described(self) -> FloatArray:
        """The experts' profiles in units of their usual length, (experts, dim)."""
        usual = np.linalg.norm(self.profile, axis=1).mean()
        return self.profile / max(float(usual), 1e-9)


def centred(quality: FloatArray) -> FloatArray:
    """Scores less the mean of those observed on the query, NaN where not observed."""
    seen = (~np.isnan(quality)).sum(axis=1, keepdims=True)
    gains: FloatArray = quality - np.nansum(quality, axis=1, keepdims=True) / np.maximum(seen, 1)
    return gains


def _torch() -> tuple[Any, Any]:
    """The modules torch and torch_geometric.nn, or the error of the extra."""
    try:
        with warnings.catch_warnings():  # it compiles scripts, which torch no longer likes
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch
            from torch_geometric import nn
    except ImportError as error:
        message = f"agent-graph needs {error.name}: pip install 'coterie[graph]'"
        raise CoterieError(message) from None
    return torch, nn


class _Network:
    """Two layers of typed messages and a head; torch stays inside."""

    def __init__(self, dim: int, hidden: int) -> None:
        self.torch, nn = _torch()
        torch = self.torch

        def layer() -> Any:
            known = nn.GINEConv(torch.nn.Linear(hidden, hidden), edge_dim=2)
            plain = {
                kind: nn.SAGEConv(hidden, hidden) for kind in ("mentioned", "mentions", "asks")
            }
            return torch.nn.ModuleDict(plain | {"known": known})

        self.inner = torch.nn.ModuleDict(
            {kind: torch.nn.Linear(dim, hidden) for kind in ("query", "entity", "agent")}
        )
        self.layers = torch.nn.ModuleList([layer(), layer()])
        self.head = torch.nn.Linear(hidden, 1)
        self.parts = torch.nn.ModuleList([self.inner, self.layers, self.head]).to(torch.float64)
        self.optimiser = torch.optim.Adam(self.parts.parameters(), lr=RATE, weight_decay=DECAY)

    def step(self, graph: Graph, facts: Facts, targets: Targets) -> None:
        """One step of Adam on these queries."""
        self.optimiser.zero_grad()
        (self._loss(graph, facts, targets) / max(len(targets.seen), 1)).backward()
        self.optimiser.step()

    def loss(self, graph: Graph, facts: Facts, targets: Targets) -> float:
        """Summed cross-entropy with the soft labels."""
        with self.torch.no_grad():
            return float(self._loss(graph, facts, targets))

    def logits(self, graph: Graph, facts: Facts) -> FloatArray:
        """(queries, experts)."""
        with self.torch.no_grad():
            found: FloatArray = self._logits(graph, facts).numpy()
        return found

    def weights(self) -> FloatArray:
        """All weights in one row."""
        vector = self.torch.nn.utils.parameters_to_vector(self.parts.parameters())
        found: FloatArray = vector.detach().numpy().copy()
        return found

    def load(self, weights: FloatArray) -> None:
        """The inverse of ``weights``; ValueError where there are more or fewer."""
        if len(weights) != len(self.weights()):
            raise ValueError("not the weights of this network")
        vector = self.torch.from_numpy(np.array(weights))
        self.torch.nn.utils.vector_to_parameters(vector, self.parts.parameters())

    def _loss(self, graph: Graph, facts: Facts, targets: Targets) -> Any:
        torch = self.torch
        labels, seen = torch.from_numpy(targets.labels), torch.from_numpy(targets.seen)
        logits = self._logits(graph, facts).masked_fill(~seen, -1e9)
        return -(labels * torch.log_softmax(logits, dim=1)).sum()

    def _logits(self, graph: Graph, facts: Facts) -> Any:
        torch, (queries, experts) = self.torch, (len(graph.vectors), len(facts.profile))
        described = np.tile(facts.described(), (queries, 1))
        arrays = {"query": graph.vectors, "entity": graph.said, "agent": described}
        state = {
            kind: torch.relu(self.inner[kind](torch.from_numpy(np.array(array))))
            for kind, array in arrays.items()
        }
        edges = _edges(graph.owner, queries, experts, torch)
        known = torch.from_numpy(facts.edges(graph.names).reshape(-1, 2).copy())
        for layer in self.layers:
            query, entity, agent = state["query"], state["entity"], state["agent"]
            mentioned = layer["mentioned"]((entity, query), edges["mentioned"])
            mentions = layer["mentions"]((query, entity), edges["mentions"])
            told = layer["known"]((entity, agent), edges["known"], known)
            asked = layer["asks"]((query, agent), edges["asks"])
            new = {"query": mentioned, "entity": mentions, "agent": told + asked}
            state = {kind: torch.relu(new[kind]) + state[kind] for kind in state}
        return self.head(state["agent"]).reshape(queries, experts)


def _edges(owner: IntArray, queries: int, experts: int, torch: Any) -> dict[str, Any]:
    """The typed edges of all questions' graphs, sources above targets."""
    number, agents = np.arange(len(owner)), np.arange(queries * experts)
    told = owner[:, None] * experts + np.arange(experts)  # (mentions, experts)
    pairs = {
        "mentioned": (number, owner),
        "mentions": (owner, number),
        "known": (np.repeat(number, experts), told.ravel()),
        "asks": (agents // experts, agents),
    }
    return {kind: torch.from_numpy(np.stack(ends)) for kind, ends in pairs.items()}
