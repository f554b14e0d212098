"""inspect_ai ``.eval`` logs, read by inspect_ai itself (``pip install 'coterie[inspect]'``).

A log or a folder of them; the expert is ``eval.model``. A question is the task's name with the
sample's id; several epochs are averaged, as inspect's own default does, and the first one's text
counts. Scores C, I, P and N become 1, 0, 0.5 and 0 by inspect's ``value_to_float``; the first
scorer counts unless ``columns={"scorer": name}`` names one. Samples without a score (errors) are
not observed. Tokens and cost are those of the model under test, the latency is the sample's working
time. A model that was run twice on one task is refused: keep one log.

Source: inspect_ai 0.3.285 (read_eval_log, EvalSample, Score, ModelUsage).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from coterie.errors import InputError
from coterie.formats.base import Matrix, Place, Row, check_mapping, clean
from coterie.formats.tables import files
from coterie.records import Records

NAME = "inspect"
MOST_BYTES = 1 << 33  # unpacked


def matches(path: Path) -> bool:
    """Whether it is a .eval file, or a folder that has one."""
    if path.is_dir():
        return next(path.rglob("*.eval"), None) is not None
    return path.suffix == ".eval"


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError with what to install where inspect_ai is missing."""
    check_mapping(columns, ("scorer",), path)
    matrix = Matrix(path, repeats="mean")
    seen: dict[tuple[str, str], Path] = {}
    for file in files(path, (".eval",)):
        log = _log(file)
        model, task = clean(str(log.eval.model)), clean(str(log.eval.task))
        if (model, task) in seen:
            message = f"{model!r} ran {task!r} also in {seen[model, task].name}; keep one log"
            raise InputError(message, path=file)
        seen[model, task] = file
        for number, sample in enumerate(log.samples or [], start=1):
            _sample(matrix, sample, model, task, Place(file, "sample", number), columns)
    return matrix.records()


def _log(file: Path) -> Any:
    """The whole log; anything the library raises becomes an error that names the file."""
    try:
        library = import_module("inspect_ai.log")
    except ImportError:
        message = "inspect logs are read by inspect_ai; pip install 'coterie[inspect]'"
        raise InputError(message, path=file) from None
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST_BYTES:
            raise InputError(f"unpacks to {size >> 30} GiB, which is refused", path=file)
        return library.read_eval_log(str(file))
    except InputError:
        raise
    except Exception as error:  # a foreign parser: whatever it raises, the file is at fault
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"inspect_ai cannot read it: {reason}", path=file) from None


def _sample(
    matrix: Matrix, sample: Any, model: str, task: str, place: Place, columns: Mapping[str, str]
) -> None:
    id = f"{task}/{sample.id}"
    target = sample.target if isinstance(sample.target, str) else "\n".join(sample.target)
    row = matrix.query(
        clean(id), _text(sample.input), place, category=task, reference=clean(target) or None
    )
    usage = sample.model_usage.get(model)
    amounts = {
        "cost": getattr(usage, "total_cost", None),
        "prompt_tokens": getattr(usage, "input_tokens", None),
        "completion_tokens": getattr(usage, "output_tokens", None),
        "latency": sample.working_time or sample.total_time,
    }
    checked = Row(amounts | {"score": _score(sample, columns.get("scorer"), place)}, place)
    text = clean(sample.output.completion) if sample.output.choices else ""
    matrix.outcome(
        row,
        model,
        checked.score("score"),
        place,
        text=text,
        **{name: checked.amount(name) for name in amounts},
    )


def _score(sample: Any, scorer: str | None, place: Place) -> float | None:
    """The chosen scorer's value as a number; None where the sample has no score."""
    if not sample.scores:
        return None
    if scorer is not None and scorer not in sample.scores:
        there = ", ".join(sample.scores)
        raise place.error(f"no scorer {scorer!r}; there are {there}", "scorer")
    value = sample.scores[scorer or next(iter(sample.scores))].value
    if isinstance(value, list | dict):
        raise place.error("expected one score, got several; choose a scorer with one", "scores")
    if isinstance(value, str) and value not in ("C", "I", "P", "N"):
        return Row({"score": value}, place).score("score")
    return float(import_module("inspect_ai.scorer").value_to_float()(value))


def _text(asked: Any) -> str:
    """What was asked: the text, or the user's messages below each other."""
    if isinstance(asked, str):
        return clean(asked)
    return clean("\n".join(message.text for message in asked if message.role == "user"))
