"""Train the experts of the embedded pool from a seed and export them as GGUF files.

python -m training.train all --out src/coterie/embedded/experts  # every expert, two at a time
python -m training.train add-expert --out /tmp/out               # one expert
"""

from __future__ import annotations

import argparse
import json
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from training import gguf_file
from training.families import Problem, aggregation, draw
from training.model import PAD, Llama, encode
from training.recipes import SEED, Recipe, recipes


def draw_batch(recipe: Recipe, step: int, rng: random.Random) -> list[Problem]:
    """The problems of one step; their difficulty rises over the first half of the training."""
    level = min(1.0, 2 * step / recipe.steps)
    if recipe.aggregates and step % 4 == 3:
        return [aggregation(rng, "train", level) for _ in range(recipe.batch // 2)]
    names = rng.choices(list(recipe.mix), weights=list(recipe.mix.values()), k=recipe.batch)
    return [draw(name, "train", rng, level) for name in names]


def to_tensors(problems: list[Problem]) -> tuple[Tensor, Tensor]:
    """Inputs and next-token targets (batch, length); targets are -100 outside the answer."""
    encoded = [encode(p.prompt, p.answer) for p in problems]
    length = max(len(ids) for ids, _ in encoded)
    inputs = torch.full((len(encoded), length), PAD)
    targets = torch.full((len(encoded), length), -100)
    for row, (ids, head) in enumerate(encoded):
        inputs[row, : len(ids)] = torch.tensor(ids)
        targets[row, head - 1 : len(ids) - 1] = torch.tensor(ids[head:])
    return inputs, targets


def make_optimizers(model: Llama, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the embedding and the norms."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, rate, weight_decay=0.01, fused=True),
    ]


def backward(model: Llama, problems: list[Problem], parts: int = 4) -> float:
    """Add the gradient of the mean answer-token loss, in parts of like length to pad less."""
    ordered = sorted(problems, key=lambda p: len(p.prompt) + len(p.answer))
    size = -(-len(ordered) // parts)
    chunks = [to_tensors(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    tokens = sum(int((targets != -100).sum()) for _, targets in chunks)
    total = 0.0
    for inputs, targets in chunks:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(inputs, targets) / tokens
        loss.backward()
        total += float(loss.detach())
    return total


def rate_at(step: int, recipe: Recipe) -> float:
    """Fifty steps of warm-up, flat, then linear decay to 2 % over the last 40 %."""
    if step < 50:
        return recipe.rate * (step + 1) / 50
    left = (recipe.steps - step) / (0.4 * recipe.steps)
    return recipe.rate * min(1.0, 0.02 + 0.98 * left)


def train(recipe: Recipe, seed: int, log: Path) -> Llama:
    """Train one expert on one thread; the same seed gives the same model on the same processor."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(f"{seed} {recipe.name}")
    model = Llama(recipe.shape)
    optimizers = make_optimizers(model, recipe.rate)
    start, total = time.process_time(), 0.0
    for step in range(recipe.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, recipe)
        total += backward(model, draw_batch(recipe, step, rng))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 99:
            seconds = time.process_time() - start
            with log.open("a") as file:
                file.write(f"{recipe.name} {step + 1} loss {total / 100:.4f} cpu {seconds:.0f} s\n")
            total = 0.0
    return model


def make(name: str, seed: int, out: Path) -> str:
    """Train the expert called ``name`` and write its GGUF file and training notes below ``out``."""
    recipe = recipes()[name]
    start = time.process_time()
    model = train(recipe, seed, out / "train.log")
    gguf_file.write(model, out / f"{name}.gguf", name)
    parameters = sum(p.numel() for p in model.parameters())
    seconds = round(time.process_time() - start)
    notes = {"seed": seed, "parameters": parameters, "cpu_seconds": seconds, **asdict(recipe)}
    (out / f"{name}.training.json").write_text(json.dumps(notes, indent=1) + "\n")
    return f"{name}: {parameters:,} parameters, {seconds} CPU seconds"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="+", help="experts to train, or all: " + ", ".join(recipes())
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, a thread each")
    args = parser.parse_args()
    names = list(recipes()) if args.names == ["all"] else args.names
    if unknown := sorted(set(names) - set(recipes())):
        parser.error(f"no such expert: {', '.join(unknown)}; there are {', '.join(recipes())}")
    args.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.jobs) as pool:
        for line in pool.map(make, names, [args.seed] * len(names), [args.out] * len(names)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
