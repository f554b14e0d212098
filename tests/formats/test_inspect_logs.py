"""Needs inspect_ai, the ``inspect`` extra; skipped without it."""

from pathlib import Path
from typing import Any

import pytest

from coterie import formats
from coterie.errors import InputError

log = pytest.importorskip("inspect_ai.log")
model_api = pytest.importorskip("inspect_ai.model")
scorer = pytest.importorskip("inspect_ai.scorer")


def log_of(model: str, values: list[Any], epochs: int = 1) -> Any:
    spec = log.EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="sums",
        dataset=log.EvalDataset(),
        model=model,
        config=log.EvalConfig(),
    )
    samples = [
        log.EvalSample(
            id=n // epochs,
            epoch=n % epochs + 1,
            input=f"What is {n // epochs} + 1?",
            target="4",
            output=model_api.ModelOutput.from_content(model, "4"),
            scores=None if value is None else {"match": scorer.Score(value=value)},
            model_usage={
                model: model_api.ModelUsage(input_tokens=5, output_tokens=1, total_tokens=6)
            },
        )
        for n, value in enumerate(values)
    ]
    return log.EvalLog(version=2, status="success", eval=spec, samples=samples)


def write(folder: Path, name: str, content: Any) -> Path:
    log.write_eval_log(content, str(folder / name))
    return folder / name


def test_a_folder_of_logs_becomes_records(tmp_path: Path) -> None:
    write(tmp_path, "a.eval", log_of("ann", ["C", "I", "P"]))
    write(tmp_path, "b.eval", log_of("bob", [0.25, None, True]))
    records = formats.read_records(tmp_path)
    assert formats.detect(tmp_path) == "inspect"
    assert records.experts == ("ann", "bob")
    assert records.quality[:, 0].tolist() == [1.0, 0.0, 0.5]
    assert records.observed[:, 1].tolist() == [True, False, True]
    assert records.queries[1].id == "sums/1"
    assert records.queries[1].text == "What is 1 + 1?"
    assert records.prompt_tokens[0, 0] == 5


def test_epochs_are_averaged(tmp_path: Path) -> None:
    path = write(tmp_path, "a.eval", log_of("ann", ["C", "I", "C", "C"], epochs=2))
    assert formats.read_records(path).quality[:, 0].tolist() == [0.5, 1.0]


def test_two_logs_of_one_model_and_task_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.eval", log_of("ann", ["C"]))
    write(tmp_path, "b.eval", log_of("ann", ["I"]))
    with pytest.raises(InputError, match=r"b\.eval: 'ann' ran 'sums' also in a\.eval"):
        formats.read_records(tmp_path)


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_broken_log_is_named(cut: int, tmp_path: Path) -> None:
    path = write(tmp_path, "a.eval", log_of("ann", ["C"]))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"a\.eval: inspect_ai cannot read it"):
        formats.read_records(path)


def test_an_unknown_scorer_lists_the_known(tmp_path: Path) -> None:
    path = write(tmp_path, "a.eval", log_of("ann", ["C"]))
    with pytest.raises(InputError, match="sample 1: no scorer 'f1'; there are match"):
        formats.read_records(path, columns={"scorer": "f1"})
