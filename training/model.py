"""A tiny byte-level Llama in torch: RMSNorm, rotary attention, SwiGLU, tied embeddings.

Rotary pairs are interleaved (dimension 2i with 2i+1) as llama.cpp's ``llama`` architecture has
them, so exported query and key weights need no permutation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.recipes import Shape

BOS, EOS, SEP, PAD = 256, 257, 258, 259
VOCAB = 260


def encode(prompt: str, answer: str) -> tuple[list[int], int]:
    """Token ids of ``<s> prompt <sep> answer </s>`` and how many of them are the prompt."""
    head = [BOS, *prompt.encode(), SEP]
    return [*head, *answer.encode(), EOS], len(head)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learnt scale, epsilon 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


def rotary(length: int, size: int) -> Tensor:
    """Unit complex numbers of the rotation angles, (length, size / 2), base 10,000."""
    inverse = 10_000.0 ** (-torch.arange(0, size, 2).float() / size)
    angle = torch.arange(length).float()[:, None] * inverse
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn interleaved pairs of ``x`` (batch, heads, length, size) by their position's angle."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, h = shape.width, shape.hidden
        self.heads = shape.heads
        self.attn_norm, self.ffn_norm = RMSNorm(d), RMSNorm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.gate_up = nn.Linear(d, 2 * h, bias=False)
        self.down = nn.Linear(h, d, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.attn_norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Attention stays in float32: its bfloat16 backward pass on CPU is six times slower.
        with torch.autocast("cpu", enabled=False):
            q, k = rotate(q.float(), turn), rotate(k.float(), turn)
            mixed = F.scaled_dot_product_attention(q, k, v.float(), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, d))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    """Byte-level causal language model."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(VOCAB, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.05)

    def hidden(self, ids: Tensor) -> Tensor:
        """Final states, (batch, length, width)."""
        turn = rotary(ids.shape[1], self.shape.width // self.shape.heads)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, turn)
        return self.norm(x)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Summed cross-entropy where ``targets`` is not -100; only there are logits computed."""
        picked = targets != -100
        logits = self.hidden(ids)[picked] @ self.embed.weight.T
        return F.cross_entropy(logits, targets[picked], reduction="sum")
