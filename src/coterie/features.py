"""Texts to vectors: a static sentence encoder that ships with Coterie, and a lexical one to fit.

Both read at most ``MAX_CHARACTERS`` of a text, half of them from its start and half from its end,
where questions about long documents tend to stand.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import re
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from coterie.errors import ArtifactError, InputError, NotFittedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vectors = NDArray[np.float32]

MAX_CHARACTERS = 20_000
EMBEDDED = Path(__file__).parent / "embedded" / "encoder"
_REINSTALL = "reinstall it: pip install --force-reinstall --no-deps coterie"


class Encoder(ABC):
    """Turns texts into unit vectors; what it learnt fits into a router's own artifact.

    ``name`` is the encoder's plug-in name, ``dim`` the length of its vectors.
    """

    name: ClassVar[str]
    dim: int

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn from texts; an encoder with nothing to learn returns itself as it is."""
        return self

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (texts, dim); a text in which nothing is known gives zeros."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything the vectors depend on; routers and journals keep it."""

    @abstractmethod
    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-ready parameters and arrays from which ``from_arrays`` makes an equal encoder."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``to_arrays``."""


class PackagedEncoder(Encoder):
    """An encoder whose weights an installed package holds; artifacts keep its fingerprint."""

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fingerprint and no arrays."""
        return {"sha256": self.fingerprint()}, {}

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The encoder; ArtifactError if it is not the one the artifact was made with."""
        encoder = cls()
        wanted, found = str(params.get("sha256")), encoder.fingerprint()
        if wanted != found:
            message = (
                f"made with the {cls.name} encoder {wanted[:12]}, this version of coterie has "
                f"{found[:12]}; fit it again with `coterie fit`"
            )
            raise ArtifactError(message)
        return encoder


class StaticEncoder(PackagedEncoder):
    """Sentence vectors without a forward pass: the mean of 128-dimensional token vectors.

    The token vectors (int8, 29,525 x 128) and the tokenizer were distilled from all-MiniLM-L6-v2
    with model2vec (``training/encoder.py``; ``embedded/encoder/card.json`` says how) and are read
    on first use. English; word order is not seen, and cased words are lowered.

    >>> StaticEncoder().encode(["What is 2 plus 3?", ""]).shape
    (2, 128)
    """

    name = "static"
    dim = 128

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (texts, 128); a text without tokens gives zeros.

        Raises ArtifactError if the weights that ship with the package are damaged.
        """
        weights = _static_weights()
        sums = np.zeros((len(texts), self.dim), dtype=np.float32)
        kept = readable(texts)
        for start in range(0, len(texts), 64):  # bounds the memory of long texts
            sums[start : start + 64] = weights.sums(kept[start : start + 64])
        return _unit(sums)

    def fingerprint(self) -> str:
        """The sha256 of the weights."""
        return _static_weights().sha256


class _StaticWeights:
    """Token vectors of shape (tokens, dim), their tokenizer and the sha256 of both."""

    def __init__(self, vectors: NDArray[np.int8], tokenizer: Tokenizer, sha256: str) -> None:
        self.vectors, self.tokenizer, self.sha256 = vectors, tokenizer, sha256

    def sums(self, texts: list[str]) -> NDArray[np.int32]:
        """The sum of each text's token vectors: integers, so exact in any batch."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        counts = np.array([len(tokens) for tokens in ids])
        sums = np.zeros((len(texts), self.vectors.shape[1]), dtype=np.int32)
        if counts.any():
            flat = np.fromiter(itertools.chain.from_iterable(ids), np.int64, int(counts.sum()))
            rows = self.vectors[flat]  # (tokens of all texts, dim)
            starts = (np.cumsum(counts) - counts)[counts > 0]
            sums[counts > 0] = np.add.reduceat(rows, starts, axis=0, dtype=np.int32)
        return sums


@functools.cache
def _static_weights(folder: Path = EMBEDDED) -> _StaticWeights:
    """The embedded weights, read once and checked against their card."""
    from tokenizers import Tokenizer

    path = folder / "static.npz"
    try:
        data = path.read_bytes()
        wanted = json.loads((folder / "card.json").read_bytes())["sha256"][path.name]
    except (OSError, ValueError, LookupError) as error:
        raise ArtifactError(f"cannot be read: {error}; {_REINSTALL}", path=path) from error
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        message = f"damaged: its sha256 is {found[:12]}, its card says {wanted[:12]}; {_REINSTALL}"
        raise ArtifactError(message, path=path)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        tokenizer = Tokenizer.from_str(arrays["tokenizer"].tobytes().decode())
        return _StaticWeights(arrays["vectors"], tokenizer, found)


class LexicalEncoder(Encoder):
    """Words, word pairs and character n-grams, hashed, weighted by TF-IDF, projected by an SVD.

    Knows only what it was fitted on, in any language; a digit counts as a digit whatever its value.
    ``fit`` learns ``known_`` (sorted bucket numbers) and ``weights_`` (known buckets x dim: inverse
    document frequency times projection).

    Parameters
    ----------
    dim
        Length of the vectors; where the texts have fewer directions, the rest is zero.
    buckets
        Number of hash buckets that the n-grams share.

    Examples
    --------
    >>> encoder = LexicalEncoder(dim=8).fit(["Add 2 and 3.", "Sort 7 1 4."])
    >>> encoder.encode(["Add 20 and 30."]).shape
    (1, 8)
    """

    name = "lexical"

    def __init__(self, dim: int = 64, buckets: int = 2**15) -> None:
        self.dim, self.buckets = dim, buckets

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn frequencies and directions from at least one text, the same ones every time."""
        if not len(texts):
            raise InputError("a lexical encoder needs at least one text to fit, got none")
        rows = [self._frequencies(text) for text in readable(texts)]
        self.__dict__.pop("_known_words", None)
        seen = np.unique(np.concatenate([buckets for buckets, _ in rows]))
        self.known_ = np.append(seen, self.buckets)  # the last stands for all that is unknown
        matrix, inverse = _tf_idf(rows, self.known_)
        weights = (inverse[:, None] * _directions(matrix, self.dim)).astype(np.float32)
        self.weights_ = np.ascontiguousarray(weights)  # rows are gathered, text by text
        return self

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of shape (texts, dim); a text with no known n-gram gives zeros.

        Raises NotFittedError before ``fit``.
        """
        self._check_fitted()
        vectors = [self._vector(text) for text in readable(texts)]
        if len(vectors) == 1:
            return vectors[0].reshape(1, -1)
        return np.array(vectors, np.float32).reshape(-1, self.dim)

    def fingerprint(self) -> str:
        """The sha256 of the parameters and of what was learnt."""
        params, arrays = self.to_arrays()
        digest = hashlib.sha256(json.dumps([self.name, params]).encode())
        for values in arrays.values():
            digest.update(values.tobytes())
        return digest.hexdigest()

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """``dim`` and ``buckets``; ``known`` and ``weights``."""
        self._check_fitted()
        arrays = {"known": self.known_, "weights": self.weights_}
        return {"dim": self.dim, "buckets": self.buckets}, arrays

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``to_arrays``."""
        encoder = cls(dim=params["dim"], buckets=params["buckets"])
        encoder.known_ = arrays["known"]
        encoder.weights_ = np.ascontiguousarray(arrays["weights"])
        return encoder

    def _check_fitted(self) -> None:
        if not hasattr(self, "weights_"):
            raise NotFittedError(type(self).__name__)

    def _frequencies(self, text: str) -> tuple[NDArray[np.int64], Vectors]:
        """The text's distinct buckets and 1 + log of how often each occurs."""
        found, counts = _counted(_words(self.buckets).numbers(text))
        return found, 1 + np.log(counts)

    def _vector(self, text: str) -> Vectors:
        """The text's vector of shape (dim,)."""
        # few steps: with one short text each call to numpy costs more than what it computes
        counts = np.bincount(self._known_words.numbers(text))
        (rows,) = counts.astype(bool).nonzero()
        counts = counts.take(rows)
        try:
            times = TIMES.take(counts)
        except IndexError:
            times = 1 + np.log(counts.astype(np.float32))
        vector: Vectors = times.dot(self.weights_.take(rows, axis=0))
        length = math.sqrt(vector.dot(vector))
        vector *= 1 / length if length > ROUNDING else 0.0
        return vector

    @functools.cached_property
    def _known_words(self) -> _Words:
        """Words as rows of ``weights_``, those that are known."""
        rows = np.full(self.buckets, -1, np.int32)
        rows[self.known_[:-1]] = np.arange(len(self.known_) - 1)
        return _Words(self.buckets, array("i", rows.tobytes()))


def readable(texts: Sequence[str]) -> list[str]:
    """The texts cut to ``MAX_CHARACTERS``, lone surrogates replaced (UTF-8 has none)."""
    if isinstance(texts, str):
        raise TypeError(f"expected a sequence of texts, got one: {texts[:40]!r}; pass [text]")
    return [_readable(text) for text in texts]


def _readable(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        half = MAX_CHARACTERS // 2
        text = f"{text[:half]} {text[-half:]}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _unit(vectors: Vectors) -> Vectors:
    """Rows scaled to length one; rows of zeros, or of rounding errors, become zeros."""
    lengths = np.sqrt(np.add.reduce(np.square(vectors), axis=1, keepdims=True))
    lengths[lengths <= ROUNDING] = np.inf
    return (vectors / lengths).astype(np.float32, copy=False)


_WORD = re.compile(r"\w{1,32}|[^\w\s]")
_DIGIT = re.compile(r"\d")
TIMES = np.zeros(512, np.float32)  # 1 + log of how often, by how often
TIMES[1:] = 1 + np.log(np.arange(1, len(TIMES), dtype=np.float32))
ROUNDING = 1e-6  # vectors that short are rounding errors
MOST_KEPT, LONGEST_KEPT = 2**14, 40  # parts of texts and their characters: some megabytes


class _Words(dict[str, tuple[bytes, bytes, int]]):
    """What stands between white space, as seen before.

    Kept are the numbers of its n-grams as bytes of int64, the UTF-8 of its first word and the CRC
    of its last one and a space. A word, its character n-grams and a pair of neighbours have the
    numbers that ``rows`` has for their buckets, below 0 where there is none; without ``rows`` the
    buckets' own. That of a pair follows from the first word's CRC and the second's bytes. What is
    kept is bounded; made anew it is the same.
    """

    def __init__(self, buckets: int, rows: Sequence[int] | None = None) -> None:
        self.buckets = buckets
        self.rows = range(buckets) if rows is None else rows

    def numbers(self, text: str) -> NDArray[np.int64]:
        """The number of every word, pair of neighbours and character n-gram that has one."""
        if not (found := [self[part] for part in text.lower().split()]):
            return np.zeros(0, np.int64)
        grams, firsts, lasts = zip(*found, strict=True)
        pairs = self._known(map(zlib.crc32, firsts[1:], lasts))
        return np.frombuffer(b"".join([*grams, pairs]), np.int64)

    def __missing__(self, part: str) -> tuple[bytes, bytes, int]:
        plain = _DIGIT.sub("0", part)
        if plain != part:
            return self[plain]
        words = _WORD.findall(part)
        written = [word.encode() for word in words]
        lasts = [zlib.crc32(word + b" ") for word in written]
        hashes = [zlib.crc32(gram.encode()) for word in words for gram in _grams(word)]
        hashes += map(zlib.crc32, written[1:], lasts)
        made = self._known(hashes).tobytes(), written[0], lasts[-1]
        if len(part) <= LONGEST_KEPT:
            if len(self) >= MOST_KEPT:
                self.clear()
            self[part] = made
        return made

    def _known(self, hashes: Iterable[int]) -> array[int]:
        """The numbers of n-grams; a CRC is the same in every process, unlike ``hash``."""
        rows, buckets = self.rows, self.buckets
        return array("q", [row for crc in hashes if (row := rows[crc % buckets]) >= 0])


def _grams(word: str) -> list[str]:
    """The word and its runs of three, four and five characters, ends marked."""
    marked = f"<{word}>"
    return [word, *[marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]]


_words = functools.lru_cache(maxsize=8)(_Words)


def _counted(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], Vectors]:
    """The distinct values, sorted, and how often each occurs: ``np.unique`` at a third of the time.

    >>> _counted(np.array([7, 2, 7]))
    (array([2, 7]), array([1., 2.], dtype=float32))
    """
    ordered = np.sort(values)
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    ends = np.concatenate([ends, np.arange(len(ordered))[-1:]])  # the last place, if there is one
    counts = ends + 1
    counts[1:] -= counts[:-1].copy()
    return ordered[ends], counts.astype(np.float32)


def _tf_idf(
    texts: list[tuple[NDArray[np.int64], Vectors]], known: NDArray[np.int64]
) -> tuple[Any, NDArray[np.float64]]:
    """A sparse matrix of shape (texts, known) with unit rows, and log inverse frequencies."""
    from scipy.sparse import csr_array

    shape = (len(texts), len(known))
    rows = np.repeat(np.arange(len(texts)), [len(buckets) for buckets, _ in texts])
    columns = np.searchsorted(known, np.concatenate([buckets for buckets, _ in texts]))
    documents = np.bincount(columns, minlength=len(known))
    inverse = np.log((1 + len(texts)) / (1 + documents)) + 1
    values = np.concatenate([times for _, times in texts]) * inverse[columns]
    lengths = np.sqrt(np.bincount(rows, weights=values**2, minlength=len(texts)))
    return csr_array((values / lengths[rows], (rows, columns)), shape=shape), inverse


def _directions(matrix: Any, dim: int) -> NDArray[np.float64]:
    """The first right singular vectors of a sparse matrix, shape (columns, dim), padded with zeros.

    Subspace iteration from a fixed start (Halko, Martinsson and Tropp 2011, algorithm 4.4); each
    vector's largest entry is positive.
    """
    rank = min(dim + 8, *matrix.shape)
    basis = np.random.default_rng(0).standard_normal((matrix.shape[0], rank))
    for _ in range(4):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ basis))
    _, strengths, right = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    right = right[:dim][strengths[:dim] > 1e-6 * strengths[:1]]
    largest = np.abs(right).argmax(axis=1, keepdims=True) if right.size else np.zeros((0, 1), int)
    right = right * np.sign(np.take_along_axis(right, largest, axis=1))
    return np.pad(right.T, ((0, 0), (0, dim - len(right))))
