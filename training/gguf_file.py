"""Write a trained model as a GGUF file that llama.cpp loads: Q8_0 matrices, F32 norms.

The tokenizer is GPT-2 style over single bytes. llama.cpp refuses an empty merges array, so one
merge of two bytes that never occur in UTF-8 text stands in it.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from training.model import BOS, EOS, PAD, SEP, Block, Llama

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}<sep>"


def byte_symbols() -> list[str]:
    """The printable stand-in that GPT-2 tokenizers use for each of the 256 byte values."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in kept)
    names = {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [names[b] for b in range(256)]


def write(model: Llama, path: Path, name: str) -> None:
    """Write ``model`` to ``path``; raises OSError where the file cannot be written."""
    shape = model.shape
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_license("Apache-2.0")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _tokenizer(writer)
    _tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenizer(writer: gguf.GGUFWriter) -> None:
    symbols = byte_symbols()
    tokens = [*symbols, "<s>", "</s>", "<sep>", "<pad>"]
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([normal] * 256 + [control] * 4)
    writer.add_token_merges([f"{symbols[0xFE]} {symbols[0xFF]}"])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_sep_token_id(SEP)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _tensors(writer: gguf.GGUFWriter, model: Llama) -> None:
    def matrix(name: str, weight: Tensor) -> None:
        data = weight.detach().float().numpy()
        packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def vector(name: str, weight: Tensor) -> None:
        writer.add_tensor(name, weight.detach().numpy().astype(np.float32))

    matrix("token_embd.weight", model.embed.weight)
    vector("output_norm.weight", model.norm.weight)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        vector(f"blk.{i}.attn_norm.weight", block.attn_norm.weight)
        vector(f"blk.{i}.ffn_norm.weight", block.ffn_norm.weight)
        for part, weight in zip("qkv", block.qkv.weight.chunk(3), strict=True):
            matrix(f"blk.{i}.attn_{part}.weight", weight)
        matrix(f"blk.{i}.attn_output.weight", block.out.weight)
        gate, up = block.gate_up.weight.chunk(2)
        matrix(f"blk.{i}.ffn_gate.weight", gate)
        matrix(f"blk.{i}.ffn_up.weight", up)
        matrix(f"blk.{i}.ffn_down.weight", block.down.weight)
