"""Write the embedded pool's questions: a validation and a test file, apart by semantic key.

python -m training.questions --out src/coterie/embedded/questions
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from training.families import FAMILIES, Problem, draw

SIZES = {"validation": 50, "test": 80}  # questions per family


def problems(split: str, per_family: int) -> list[Problem]:
    """Distinct problems of one split, families shuffled."""
    rng = random.Random(f"questions {split}")
    chosen: dict[str, Problem] = {}
    for family in FAMILIES:
        target = len(chosen) + per_family
        while len(chosen) < target:
            problem = draw(family, split, rng)
            chosen.setdefault(problem.key, problem)
    shuffled = list(chosen.values())
    rng.shuffle(shuffled)
    return shuffled


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number, problem in enumerate(problems(split, size), start=1):
                row = {
                    "id": f"{split}-{number:03d}",
                    "question": problem.prompt,
                    "answer": problem.reference,
                    "category": problem.family,
                }
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
