"""Train the gate of ``safety-gate`` on prompts of our own and measure it on prompts held out.

    python -m training.gate --out src/coterie/embedded/gate       # a few seconds, no extra packages

Measured are prompts of unseen frames and fills, whole topics left out one at a time, and prompts
written without frames. None of this says that a system is safe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.features import StaticEncoder
from coterie.gates import Gate
from coterie.routers.logistic import fit_logistic
from coterie.types import FloatArray
from training.gate_prompts import CAUTIOUS, FREE, SIZE, USABLE

HELD = SIZE - 2  # frames and fills from here on are held out
THRESHOLDS = (0.3, 0.4, 0.5)


class Prompts(NamedTuple):
    """Texts with their labels (1 cautious), topics, and numbers of frame and fill."""

    texts: tuple[str, ...]
    labels: FloatArray
    topics: FloatArray
    frames: FloatArray
    fills: FloatArray

    @classmethod
    def make(cls) -> Prompts:
        """All pairs of frame and fill of all topics."""
        rows = [
            (topic.prompt(i, j), label, name, i, j)
            for label, table in ((1.0, CAUTIOUS), (0.0, USABLE))
            for name, topic in table.items()
            for i in range(SIZE)
            for j in range(SIZE)
        ]
        texts, *columns = zip(*rows, strict=True)
        return cls(texts, *(np.array(column) for column in columns))

    def some(self, rows: NDArray[np.bool_]) -> list[str]:
        """The texts of these rows."""
        return [self.texts[i] for i in np.flatnonzero(rows)]


def fit(prompts: Prompts, rows: NDArray[np.bool_] | None = None) -> Gate:
    """A gate trained on these rows; the penalty is chosen on topics held out whole."""
    kept = np.arange(len(prompts.texts)) if rows is None else np.flatnonzero(rows)
    vectors = np.asarray(StaticEncoder().encode([prompts.texts[i] for i in kept]), float)
    topics = np.unique(prompts.topics[kept], return_inverse=True)[1]
    labels = prompts.labels[kept, None]
    return Gate(fit_logistic(vectors, labels, groups=topics).coefficients[:, 0])


def errors(chances: FloatArray, labels: FloatArray) -> dict[str, Any]:
    """Shares of cautious prompts let through and of usable ones held up, at some thresholds."""
    found: dict[str, Any] = {"cautious": int(labels.sum()), "usable": int((1 - labels).sum())}
    for threshold in THRESHOLDS:
        missed = float((chances[labels == 1] < threshold).mean())
        alarm = float((chances[labels == 0] >= threshold).mean())
        found[f"at {threshold}"] = {"missed": round(missed, 3), "false alarms": round(alarm, 3)}
    return found


def measure(prompts: Prompts) -> dict[str, Any]:
    """Error rates on held-out prompts, by how far they are from what was trained on."""
    trained = (prompts.frames < HELD) & (prompts.fills < HELD)
    held = (prompts.frames >= HELD) & (prompts.fills >= HELD)
    shuffled = prompts._replace(labels=np.random.default_rng(0).permutation(prompts.labels))
    chances = np.zeros(len(prompts.texts))
    for topic in np.unique(prompts.topics):
        own = prompts.topics == topic
        chances[own] = fit(prompts, ~own).scores(prompts.some(own))
    free = [(text, label) for label in FREE for text in FREE[label].split("|")]
    truth = np.array([float(label == "cautious") for _, label in free])
    texts, labels = prompts.some(held), prompts.labels[held]
    return {
        "unseen frames and fills": errors(fit(prompts, trained).scores(texts), labels),
        "topics left out, one at a time": errors(chances, prompts.labels),
        "written without frames": errors(fit(prompts).scores([t for t, _ in free]), truth),
        "control: shuffled labels": errors(fit(shuffled, trained).scores(texts), labels),
    }


def main() -> None:
    """Train, measure, write the gate and its card."""
    parser = argparse.ArgumentParser(description="train the gate on prompts of our own")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    prompts = Prompts.make()
    card = {
        "name": "coterie gate",
        "licence": "Apache-2.0",
        "command": "python -m training.gate --out src/coterie/embedded/gate",
        "method": "logistic regression on the static encoder, penalty chosen on topics held out",
        "encoder": StaticEncoder().fingerprint(),
        "prompts": {"cautious": int(prompts.labels.sum()), "all": len(prompts.texts)},
        "held out": measure(prompts),
        "limits": "templates in English; it knows topics by their words, not intent; no claim "
        "that anything is safe",
    }
    fit(prompts).save(out)
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["held out"], indent=2))


if __name__ == "__main__":
    main()
