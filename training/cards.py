"""Measure trained experts on held-out questions and write a card for each.

    python -m training.cards --experts src/coterie/embedded/experts
    python -m training.cards --experts /tmp/retrained --against src/coterie/embedded/experts

The second form compares freshly trained weights with the committed cards: the mean accuracy on the
families an expert was trained on may differ by the card's tolerance, since bits differ between
processors. It exits with 1 where one falls short.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from coterie.experts.local import LocalExpert
from coterie.pool import Pool
from coterie.profiling import profile_pool
from coterie.questions import embedded_questions
from training.families import FAMILIES
from training.recipes import recipes

TOLERANCE = 0.10  # of the mean accuracy on trained families


async def accuracies(folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy of every expert in the folder on every family of the embedded test questions."""
    questions = embedded_questions("test")
    names = [name for name in recipes() if (folder / f"{name}.gguf").exists()]
    experts = {name: LocalExpert(name, folder / f"{name}.gguf", context=384) for name in names}
    pool = Pool(
        "cards",
        experts,
        options={"max_tokens": 48, "temperature": 0.0},
        extract="arrow",
        capacity=2,
    )
    try:
        records = await profile_pool(pool, questions)
    finally:
        await pool.close()
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for family in FAMILIES:
        rows = [i for i, category in enumerate(records.categories) if category == family]
        means = records.quality[rows].mean(axis=0)
        for name, mean in zip(names, means, strict=True):
            table[name][family] = round(float(mean), 3)
    return table


def card(folder: Path, name: str, accuracy: dict[str, float]) -> dict[str, Any]:
    """What is known of one expert: training, size, hash, accuracy on its own and other families."""
    weights = (folder / f"{name}.gguf").read_bytes()
    notes = json.loads((folder / f"{name}.training.json").read_text())
    trained = [family for family in accuracy if family in notes["mix"]]
    return {
        "name": name,
        "licence": "Apache-2.0",
        "data": "procedural questions of training/families.py, training keys only",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        **{key: notes[key] for key in ("parameters", "shape", "seed", "steps", "batch", "rate")},
        "mix": notes["mix"],
        "aggregates": notes["aggregates"],
        "training_cpu_seconds": notes["cpu_seconds"],
        "test_accuracy": accuracy,
        "trained_families_mean": round(sum(accuracy[f] for f in trained) / len(trained), 3),
        "tolerance": TOLERANCE,
    }


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=Path, required=True, help="folder with GGUF files")
    parser.add_argument("--against", type=Path, help="compare with the cards in this folder")
    args = parser.parse_args()
    short = []
    for name, accuracy in asyncio.run(accuracies(args.experts)).items():
        new = card(args.experts, name, accuracy)
        if args.against is None:
            (args.experts / f"{name}.card.json").write_text(json.dumps(new, indent=1) + "\n")
            (args.experts / f"{name}.training.json").unlink()
            print(name, accuracy)
            continue
        old = json.loads((args.against / f"{name}.card.json").read_text())
        difference = new["trained_families_mean"] - old["trained_families_mean"]
        print(f"{name}: {difference:+.3f} against its card")
        if difference < -old["tolerance"]:
            short.append(name)
    if short:
        sys.exit(f"below their cards by more than the tolerance: {', '.join(short)}")


if __name__ == "__main__":
    main()
