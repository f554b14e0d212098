r"""Retrievers as experts: writes benchmarks/results/retrieval.json, tables of docs/retrieval.md.

    python benchmarks/retrieval.py DATA --cache DIR --dense cacm,cisi,cranfield,medline \
        --output benchmarks/results/retrieval.json --page docs/retrieval.md

DATA holds corpus.parquet, queries.parquet and qrels.parquet (test collections of several domains).
Every question is searched in its own collection; what is routed is who ranks the documents: an LSA
model fitted on the documents of one collection, one fitted on all, BM25, or MiniLM. Routers see
relevance judgements of the training folds alone. Vectors of MiniLM take long: they are kept in
--cache, 100 documents a file, so a run that was stopped goes on, and MiniLM is a retriever only on
the collections that --dense names (a third table, of these alone).
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from coterie.files import replace_bytes, replace_file
from coterie.metrics.ranked import ndcg
from coterie.panel import Entrant, Panel, judge
from coterie.panel.specs import parse_specs, router_factory
from coterie.records import Records
from coterie.routers.centroids import Centroid
from coterie.types import FloatArray, Query

FOLDS, SEED, K = 5, 0, 10
CHUNK = 100  # documents whose vectors are one file of the cache
DRAWS = 2000  # of the bootstrap
ROUTERS = (
    "centroid",
    "centroid(reduce=max)",
    "centroid(assign=category)",
    "centroid(assign=category, reduce=max)",
    "centroid(k=4, reduce=max)",
    "centroid(encoder=minilm)",
    "centroid(assign=category, encoder=minilm)",
    "centroid(assign=category, reduce=max, encoder=minilm)",
    "category-router",
    "knn",
    "stack",
)
MINILM = "MiniLM"
CONTROL = "centroid on scores of other questions"


@dataclass(frozen=True)
class Collection:
    """One test collection."""

    name: str
    ids: tuple[str, ...]
    documents: tuple[str, ...]
    queries: tuple[Query, ...]
    relevance: tuple[dict[str, float], ...]  # of each query


class Control(Centroid):
    """A centroid router that learns from the scores of other questions."""

    def fit(self, records: Records) -> Self:
        """Pilots of questions that others scored on."""
        order = np.random.default_rng(SEED).permutation(len(records))
        return super().fit(replace(records, quality=records.quality[order]))


def read(data: Path) -> list[Collection]:
    """The collections in the order of their names."""
    corpus, asked, judged = (
        pq.read_table(data / f"{name}.parquet").to_pylist()
        for name in ("corpus", "queries", "qrels")
    )
    relevance: dict[tuple[str, str], dict[str, float]] = {}
    for row in judged:
        key = row["collection"], row["query_id"]
        relevance.setdefault(key, {})[row["doc_id"]] = float(row["relevance"])
    found = []
    for name in sorted({row["collection"] for row in corpus}):
        own = [row for row in corpus if row["collection"] == name]
        rows = [q for q in asked if q["collection"] == name]
        queries = tuple(
            replace(Query.from_text(f"{name}/{q['query_id']}", q["text"]), category=name)
            for q in rows
        )
        found.append(
            Collection(
                name,
                tuple(row["doc_id"] for row in own),
                tuple(f"{row['title'] or ''} {row['text']}".strip() for row in own),
                queries,
                tuple(relevance[name, q["query_id"]] for q in rows),
            )
        )
    return found


class LSA:
    """TF-IDF and its first singular vectors, fitted on documents."""

    def __init__(self, documents: Sequence[str], dim: int) -> None:
        self.words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=2)
        matrix = self.words.fit_transform(documents)
        self.turn = TruncatedSVD(dim, random_state=SEED).fit(matrix)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, (texts, dim)."""
        vectors: FloatArray = self.turn.transform(self.words.transform(texts))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), float)


class Cached:
    """MiniLM's vectors, kept in files."""

    def __init__(self, folder: Path) -> None:
        from coterie.encoders.minilm import MiniLM

        self.folder, self.encoder = folder, MiniLM()
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, (texts, 384)."""
        parts = [self._part(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
        return np.concatenate(parts).astype(float)

    def _part(self, texts: Sequence[str]) -> FloatArray:
        text = "\x00".join(texts).encode("utf-8", "surrogatepass")
        path = self.folder / f"{zlib.crc32(text):08x}-{len(text)}.npy"
        if not path.exists():
            vectors = np.asarray(self.encoder.encode(texts), np.float32)
            scratch = path.with_suffix(".part.npy")
            np.save(scratch, vectors, allow_pickle=False)
            replace_bytes(path, [scratch.read_bytes()])
            scratch.unlink()
        kept: FloatArray = np.load(path, allow_pickle=False)
        return kept


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def bm25(documents: Sequence[str], asked: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Any:
    """Scores, (questions, documents): Robertson's formula on lower-cased words, no stemming."""
    index: dict[str, int] = {}
    rows, columns, values, lengths = [], [], [], []
    for row, text in enumerate(documents):
        counts = Counter(words(text))
        lengths.append(counts.total())
        for word, count in counts.items():
            rows.append(row)
            columns.append(index.setdefault(word, len(index)))
            values.append(float(count))
    frequency = np.bincount(columns, minlength=len(index))
    inverse = np.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
    length = np.array(lengths)[rows] / np.mean(lengths)
    weight = np.array(values) * (k1 + 1) / (np.array(values) + k1 * (1 - b + b * length))
    matrix = csr_array(
        (weight * inverse[columns], (rows, columns)), shape=(len(documents), len(index))
    )
    wanted = np.zeros((len(index), len(asked)))
    for column, text in enumerate(asked):
        for word in words(text):
            if word in index:
                wanted[index[word], column] += 1
    return (matrix @ wanted).T


def scored(collection: Collection, near: FloatArray) -> FloatArray:
    """nDCG@10 of every question, from similarities (questions, documents)."""
    best = np.argsort(-near, axis=1, kind="stable")[:, :K]
    ranked = [[collection.ids[j] for j in row] for row in best]
    return np.array([ndcg(r, q, K) for r, q in zip(ranked, collection.relevance, strict=True)])


def outcomes(
    collections: Sequence[Collection], cache: Path | None = None, dense: Sequence[str] = ()
) -> Records:
    """Every retriever's nDCG@10 on every question; MiniLM's is NaN outside ``dense``."""
    everything = [text for c in collections for text in c.documents]
    models: dict[str, Any] = {f"LSA {c.name}": LSA(c.documents, 128) for c in collections}
    models["LSA pooled 128"] = LSA(everything, 128)
    models["LSA pooled 512"] = LSA(everything, 512)
    embed = Cached(cache) if cache is not None and dense else None
    parts = []
    for c in collections:
        asked = [q.text for q in c.queries]
        columns = [scored(c, m(asked) @ m(c.documents).T) for m in models.values()]
        columns.append(scored(c, bm25(c.documents, asked)))
        if embed is not None and c.name in dense:
            columns.append(scored(c, embed(asked) @ embed(c.documents).T))
        else:
            columns.append(np.full(len(asked), np.nan))
        parts.append(np.column_stack(columns))
    queries = tuple(q for c in collections for q in c.queries)
    return Records(queries, (*models, "BM25", MINILM), np.concatenate(parts))


def pools(records: Records, dense: Sequence[str]) -> dict[str, Any]:
    """What is measured, by the title of its table."""
    lsa = [e for e in records.experts if e.startswith("LSA")]
    small = [e for e in lsa if not e.endswith("512")]
    found = {
        "Models of one size: 128 numbers, fitted on one collection or on all": measure(
            records.select(small)
        ),
        "LSA and BM25": measure(records.select([*lsa, "BM25"])),
    }
    if dense:
        rows = [i for i, q in enumerate(records.queries) if q.category in dense]
        found[f"With MiniLM, on {', '.join(dense)}"] = measure(records.take(rows))
    return found


def measure(records: Records) -> dict[str, Any]:
    """The panel of routers on these retrievers, and tables by collection."""
    wanted = [Entrant(s.text, router_factory(s, "static")) for s in parse_specs(",".join(ROUTERS))]
    wanted.append(Entrant(CONTROL, Control))
    panel = judge(records, wanted, FOLDS, SEED, default="centroid")
    groups = panel.groups("category")
    rows = [(row.name, row.kind, row.reads, row.scores) for row in panel.rows]
    rows += [
        (name, "expert", "nothing", records.quality[:, j]) for j, name in enumerate(records.experts)
    ]
    table = [
        {
            "name": name,
            "kind": kind,
            "reads": reads,
            "by_collection": {g: float(s[at].mean()) for g, at in groups.items()},
            "macro": float(np.mean([s[at].mean() for at in groups.values()])),
            "micro": float(s.mean()),
            "vs_best_single": macro_gain(s - panel.best_single.scores, list(groups.values())),
        }
        for name, kind, reads, s in rows
    ]
    return {
        "experts": list(records.experts),
        "queries": len(records),
        "collections": {name: len(at) for name, at in groups.items()},
        "best_single": panel.best_experts(),
        "own_collection": own_share(panel),
        "rows": table,
    }


def macro_gain(difference: FloatArray, groups: Sequence[Any]) -> dict[str, float]:
    """Mean over collections of the mean difference, 95 % bootstrap within collections."""
    rng = np.random.default_rng(SEED)
    drawn = np.mean(
        [difference[at][rng.integers(0, len(at), (DRAWS, len(at)))].mean(axis=1) for at in groups],
        axis=0,
    )
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = float(np.mean([difference[at].mean() for at in groups]))
    return {"value": value, "low": float(low), "high": float(high)}


def own_share(panel: Panel) -> dict[str, float]:
    """By router, the share of questions that go to the LSA model of their own collection."""
    own = [f"LSA {q.category}" for q in panel.records.queries]
    found = {}
    for row in panel.rows:
        if row.kind == "router" and row.chosen is not None:
            chosen = [panel.records.experts[j] for j in row.chosen]
            found[row.name] = float(np.mean([a == b for a, b in zip(chosen, own, strict=True)]))
    return found


def page(facts: dict[str, Any]) -> str:
    """The tables of docs/retrieval.md, between its markers."""
    lines = list[str]()
    for title, pool in facts["pools"].items():
        names = list(pool["collections"])
        lines += [f"### {title}", ""]
        lines.append(f"| who ranks | {' | '.join(names)} | macro | against best single (95 %) |")
        lines.append(f"|---|{'--:|' * (len(names) + 2)}")
        for row in pool["rows"]:
            cells = [f"{row['by_collection'][name]:.3f}" for name in names]
            gain = row["vs_best_single"]
            against = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
            lines.append(
                f"| {row['name']} | {' | '.join(cells)} | {row['macro']:.3f} | {against} |"
            )
        chosen = ", ".join(f"{best} ({count})" for best, count in pool["best_single"].items())
        shares = ", ".join(f"{n} {s:.1%}" for n, s in pool["own_collection"].items())
        lines += ["", f"Best single by fold: {chosen}. To the model of its own collection go: "]
        lines[-1] += f"{shares}."
        lines.append("")
    return "\n".join(lines)


def put(text: str, path: Path) -> None:
    """The text between the page's markers in place of what stands there."""
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- results -->\n")
    _, _, after = rest.partition("<!-- /results -->")
    replace_file(path, f"{before}<!-- results -->\n{text}<!-- /results -->{after}")


def options(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the collections")
    parser.add_argument("--cache", type=Path, help="folder for MiniLM's vectors")
    parser.add_argument("--dense", default="", help="collections that MiniLM searches as well")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--page", type=Path, help="page to put the tables into")
    parser.add_argument("--embed", help="only fill the cache for this collection")
    chosen = parser.parse_args(given)
    chosen.dense = [name for name in chosen.dense.split(",") if name]
    if (chosen.dense or chosen.embed) and chosen.cache is None:
        parser.error("--dense and --embed need --cache")
    return chosen


def main() -> None:
    chosen = options()
    collections = read(chosen.data)
    if chosen.embed:
        for c in collections:
            if c.name == chosen.embed:
                Cached(chosen.cache)(c.documents)
        return
    records = outcomes(collections, chosen.cache, chosen.dense)
    found = pools(records, chosen.dense)
    facts = {"schema": 1, "metric": f"nDCG@{K}", "folds": FOLDS, "pools": found}
    text = json.dumps(facts, indent=1) + "\n"
    if chosen.output:
        replace_file(chosen.output, text)
    if chosen.page:
        put(page(facts), chosen.page)
    print(page(facts))


if __name__ == "__main__":
    main()
