"""Loads and seconds of four ways to serve a trace, on 16 larger GGUF experts and the embedded pool.

The larger experts are **untrained**: Llama weights of random numbers in Q8_0, 55 to 190 MB each, as
files that llama.cpp loads and runs like trained ones. What they say means nothing; what it costs to
load them and to run them is real. Tokenizer and template are an embedded expert's.

Requests recruit two experts each, drawn with the chances of Zipf's law and a seed, so that neither
neighbours in time nor sizes are alike by construction. Questions and answers are short (14 and 5
tokens, as in multiple choice): the longer they are, the less loads matter. The device holds as many
bytes as the two largest experts were measured to take. ``naive`` has room for one and keeps
nothing: a load a call. ``LRU`` and ``look-ahead`` answer request after request in the order of
arrival, look-ahead knowing the next 16. ``grouped`` is the batch driver, which has them all. What
leaves the device leaves the system's page cache as well, so every load reads the disk (or what a
virtual machine's disk is).

    python benchmarks/weights.py --requests 200
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import random
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from switching import Served, serve, serve_naively

from coterie.compositions import recruit
from coterie.drivers.batch import answer_all
from coterie.drivers.conversation import Conversation
from coterie.drivers.rooms import by_size
from coterie.experts.base import Expert
from coterie.experts.gguf import _Reader
from coterie.experts.local import LocalExpert
from coterie.residency import LRU, Eviction, LookAhead, Residency
from coterie.types import Call, Decision, Query

EMBEDDED = Path(__file__).parents[1] / "src" / "coterie" / "embedded" / "experts"
RECRUITS, WINDOW, SEED, LETTERS = 2, 16, 0, 4
LAYERS = (4, 14)  # of the smallest and the largest expert
ALIGNMENT = 32
U32, F32, TEXT = 4, 6, 8  # types of values
FLOATS, Q8_0 = 0, 8  # types of tensors
BLOCK = np.dtype([("scale", "<f2"), ("weights", "i1", 32)])  # of Q8_0


class Shape(NamedTuple):
    """Sizes of a Llama; ``width`` and ``hidden`` are multiples of 32."""

    layers: int
    width: int = 1024
    hidden: int = 2816
    heads: int = 16
    vocabulary: int = 260  # the embedded experts' tokenizer
    context: int = 256

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, rows first; one dimension is a norm."""
        d, h = self.width, self.hidden
        yield "token_embd.weight", (self.vocabulary, d)
        yield "output_norm.weight", (d,)
        for layer in range(self.layers):
            for norm in ("attn_norm", "ffn_norm"):
                yield f"blk.{layer}.{norm}.weight", (d,)
            for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield f"blk.{layer}.{part}.weight", (d, d)
            for part, shape in (("gate", (h, d)), ("up", (h, d)), ("down", (d, h))):
                yield f"blk.{layer}.ffn_{part}.weight", shape

    def settings(self) -> dict[str, str | int | float]:
        """What llama.cpp must know."""
        return {
            "general.architecture": "llama",
            "general.name": "untrained, for timing only",
            "llama.context_length": self.context,
            "llama.embedding_length": self.width,
            "llama.block_count": self.layers,
            "llama.feed_forward_length": self.hidden,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.heads,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.dimension_count": self.width // self.heads,
            "llama.rope.freq_base": 10_000.0,
        }


def write_weights(path: Path, shape: Shape, seed: int) -> None:
    """An untrained model as a GGUF file (version 3), safe on disk."""
    pairs = [*map(_pair, shape.settings().items()), *tokenizer(EMBEDDED / "add-expert.gguf")]
    tensors = list(shape.tensors())
    with path.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)))
        file.write(b"".join(pairs))
        at = 0
        for name, dimensions in tensors:
            kind = Q8_0 if len(dimensions) == 2 else FLOATS
            inner_first = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions[::-1])
            file.write(_text(name) + inner_first + struct.pack("<IQ", kind, at))
            at += _padded(_bytes(dimensions))
        generator = np.random.default_rng(seed)
        for _, dimensions in tensors:
            _pad(file)
            file.write(_values(dimensions, generator))
        file.flush()
        os.fsync(file.fileno())  # or the system could not forget it: pages not written stay


def tokenizer(path: Path) -> list[bytes]:
    """The key-value pairs of a GGUF file that are about text, as they are in the file."""
    found = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (count,) = struct.unpack_from("<Q", data, 16)
        reader = _Reader(path, data)
        reader.at = 24
        for _ in range(count):
            start = reader.at
            name, _ = reader.pair()
            if name.startswith("tokenizer."):
                found.append(data[start : reader.at])
    return found


def _pair(item: tuple[str, str | int | float]) -> bytes:
    name, value = item
    if isinstance(value, str):
        return _text(name) + struct.pack("<I", TEXT) + _text(value)
    kind, code = (U32, "I") if isinstance(value, int) else (F32, "f")
    return _text(name) + struct.pack(f"<I{code}", kind, value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _bytes(dimensions: tuple[int, ...]) -> int:
    count = int(np.prod(dimensions))
    return count // 32 * BLOCK.itemsize if len(dimensions) == 2 else 4 * count


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_padded(file.tell()) - file.tell()))


def _values(dimensions: tuple[int, ...], generator: np.random.Generator) -> bytes:
    """Ones for a norm; for a matrix weights of standard deviation 0.02."""
    if len(dimensions) == 1:
        return np.ones(dimensions, "<f4").tobytes()
    blocks = np.empty(int(np.prod(dimensions)) // 32, BLOCK)
    blocks["scale"] = 0.02 / 73.6  # of whole numbers from -127 to 127
    blocks["weights"] = generator.integers(-127, 128, (len(blocks), 32), np.int8)
    return blocks.tobytes()


def write_pool(folder: Path, count: int) -> dict[str, LocalExpert]:
    """Untrained experts, from the smallest to the largest."""
    experts = {}
    for number, layers in enumerate(np.linspace(*LAYERS, count).round().astype(int).tolist()):
        path = folder / f"untrained-{number:02d}.gguf"
        write_weights(path, Shape(layers), seed=number)
        experts[path.stem] = LocalExpert(path.stem, path, context=128)
    return experts


def trace(names: Sequence[str], count: int) -> tuple[list[Query], list[Decision]]:
    """Requests that recruit two experts each by Zipf's law; who is popular is drawn too."""
    drawn = np.random.default_rng(SEED)
    ranked = [str(name) for name in drawn.permutation(np.array(names))]
    chances = 1 / np.arange(1, len(ranked) + 1)
    queries, decisions = [], []
    for number in range(count):
        chosen = drawn.choice(ranked, RECRUITS, replace=False, p=chances / chances.sum())
        decisions.append(Decision("recruit", tuple(map(str, chosen)), (1.0,) * RECRUITS))
        queries.append(question(number))
    return queries, decisions


def question(number: int) -> Query:
    """A short text, and a grammar that makes every answer equally long, whatever the weights."""
    text = f"{random.Random(number).randrange(10**6)} + 7 = ?"
    options = {"grammar": f"root ::= [a-z]{{{LETTERS}}}", "max_tokens": LETTERS + 2}
    return Query(f"{number}", ({"role": "user", "content": text},), options)


async def footprints(experts: Mapping[str, Expert], call: Call) -> dict[str, int]:
    """Bytes that each takes once it has answered."""
    found = {}
    for name, expert in experts.items():
        await expert.load()
        await expert.complete(call)
        found[name] = await expert.footprint() or expert.size
        await expert.unload()
    return found


async def compare(experts: Mapping[str, Expert], count: int) -> dict[str, Any]:
    """The four ways on one trace."""
    queries, decisions = trace(list(experts), count)
    pairs = zip(queries, decisions, strict=True)
    requests = [Conversation(q, d, recruit, SEED).pending for q, d in pairs]
    sizes = await footprints(experts, requests[0][0])
    room = sum(sorted(sizes.values())[-2:])

    def residency(eviction: Eviction) -> Residency:
        made = by_size(experts, room, eviction=eviction)
        for name, size in sizes.items():
            made.resize(name, size)
        return made

    served = {
        "naive": await serve_naively(requests, experts),
        "LRU": await serve(requests, experts, residency(LRU())),
        "look-ahead": await serve(requests, experts, residency(LookAhead()), WINDOW),
    }
    start = time.perf_counter()
    grouped = await answer_all(
        queries, decisions, recruit, experts, seed=SEED, residency=residency(LookAhead())
    )
    seconds = time.perf_counter() - start
    texts = [one.text for answer in grouped.answers for one in answer.trace]
    served["grouped"] = Served(seconds, grouped.progress.loads, texts)
    return {**describe(experts, sizes, room, requests), "ways": facts(served)}


def describe(
    experts: Mapping[str, Expert],
    sizes: Mapping[str, int],
    room: int,
    requests: Sequence[Sequence[Call]],
) -> dict[str, Any]:
    files = [expert.size for expert in experts.values()]
    return {
        "experts": len(experts),
        "requests": len(requests),
        "calls": sum(map(len, requests)),
        "distinct_experts": len({call.expert for request in requests for call in request}),
        "file_mb": [min(files) / 1e6, max(files) / 1e6],
        "measured_mb": [min(sizes.values()) / 1e6, max(sizes.values()) / 1e6],
        "room_mb": room / 1e6,
    }


def facts(served: Mapping[str, Served]) -> dict[str, dict[str, float]]:
    """Loads and seconds, and how many texts are those of the naive way (batches may round)."""
    known = served["naive"].texts
    return {
        way: {
            "loads": one.loads,
            "seconds": one.seconds,
            "same_texts": sum(a == b for a, b in zip(one.texts, known, strict=True)),
        }
        for way, one in served.items()
    }


async def measure_larger(count: int = 16, requests: int = 200) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        experts = write_pool(Path(folder), count)
        written = time.perf_counter() - start
        try:
            return {**await compare(experts, requests), "written_s": written}
        finally:
            for expert in experts.values():
                await expert.close()


async def measure_embedded(requests: int = 200) -> dict[str, Any]:
    paths = sorted(EMBEDDED.glob("*.gguf"))
    experts = {path.stem: LocalExpert(path.stem, path, context=128) for path in paths}
    try:
        return await compare(experts, requests)
    finally:
        for expert in experts.values():
            await expert.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    found = {
        "embedded": asyncio.run(measure_embedded(args.requests)),
        "larger": asyncio.run(measure_larger(args.experts, args.requests)),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
