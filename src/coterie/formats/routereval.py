"""RouterEval's pickles: ``router_dataset`` files and ``leaderboard_score`` files.

``{dataset}_router_dataset.pkl``: ``easy`` {3, 5} and ``hard`` {10, 100, 1000}, each with the
candidate groups ``all_strong``, ``all_weak``, ``strong_to_weak`` -> {``data``: {train_score,
val_score, test_score: (n, m)}, ``model``: (m,)}; ``prompt`` {train_prompt, ...: (n,)};
``split_index`` {train_indices, ...}. A question's id is the dataset with its number in
``split_index``. Scores and prompts agree by position within a split: the format has no ids, so a
shifted column cannot be seen here (``lint`` looks for it). All groups are joined by model name;
``columns={"group": "hard/100/strong_to_weak"}`` takes one.

``leaderboard_*.pkl``: ``data[sub]["correctness"]`` of shape (items, models) and the models' names.
Also by position, and without texts; a ``leaderboard_*_prompt.pkl`` in ``columns={"prompts": path}``
supplies them.

Source: github.com/MilkThink-Lab/RouterEval, utils.py at aedb564 and its README at 15b8a7b; the keys
of the files as recorded in this project's notes (the files themselves are on no code host).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie.errors import InputError
from coterie.formats.base import MOST_CELLS, check_mapping, clean
from coterie.formats.unpickle import load
from coterie.records import Records
from coterie.types import FloatArray, Query

NAME = "routereval"
SPLITS = ("train", "val", "test")
SUFFIX = "_router_dataset"
NARROW = 1_000_000  # cells from which scores are kept in single precision


def matches(path: Path) -> bool:
    """Whether it is a pickle."""
    return path.is_file() and path.suffix.lower() in (".pkl", ".pickle")


def read(path: Path, columns: Mapping[str, str]) -> Records:
    """The records; raises InputError for a pickle that holds anything but plain data."""
    check_mapping(columns, ("group", "prompts"), path)
    data = load(path)
    if isinstance(data, dict) and ("easy" in data or "hard" in data):
        return _router_dataset(path, data, columns.get("group"))
    if isinstance(data, dict) and isinstance(data.get("data"), dict):
        return _leaderboard(path, data, columns.get("prompts"))
    raise InputError("expected the keys easy and hard, or data with correctness", path=path)


def split(path: Path, columns: Mapping[str, str]) -> dict[str, str]:
    """train, val or test for every question of a router_dataset."""
    data = load(path)
    if not isinstance(data, dict) or "split_index" not in data:
        return {}
    return dict(zip(_ids(path, data), _split_of(path, data), strict=True))


def _router_dataset(path: Path, data: dict[Any, Any], group: str | None) -> Records:
    prompts = np.concatenate([_texts(path, data, s) for s in SPLITS])
    ids = _ids(path, data)
    if len(ids) != len(prompts):
        raise InputError(f"{len(prompts)} prompts for {len(ids)} questions", path=path)
    scores: dict[str, FloatArray] = {}
    cells = 0
    for where, models, matrix in _groups(path, data, group):
        cells += matrix.size
        if cells > MOST_CELLS:
            raise InputError(f"{where}: more than {MOST_CELLS:,} scores", path=path)
        if len(matrix) != len(ids):
            raise InputError(f"{where}: {len(matrix)} rows for {len(ids)} questions", path=path)
        for name, column in zip(models, matrix.T, strict=True):
            known = scores.setdefault(name, column)
            if not np.array_equal(known, column, equal_nan=True):
                raise InputError(f"{where}: {name!r} has other scores than before", path=path)
    if not scores:
        raise InputError("holds no candidate group" + (f" {group!r}" if group else ""), path=path)
    dataset = _dataset(path)
    queries = tuple(
        Query(id, ({"role": "user", "content": clean(str(text))},), {}, (), dataset)
        for id, text in zip(ids, prompts.tolist(), strict=True)
    )
    return Records(queries, tuple(scores), np.column_stack(list(scores.values())))


def _groups(
    path: Path, data: dict[Any, Any], only: str | None
) -> Iterator[tuple[str, list[str], FloatArray]]:
    """Every candidate group: where it stands, its models, its scores (questions, models)."""
    for level in ("easy", "hard"):
        for size, kinds in _dict(path, data.get(level, {}), level).items():
            for kind, entry in _dict(path, kinds, f"{level}/{size}").items():
                where = f"{level}/{size}/{kind}"
                if only in (None, where):
                    yield where, *_group(path, entry, where)


def _group(path: Path, entry: Any, where: str) -> tuple[list[str], FloatArray]:
    inner = _dict(path, entry, where)
    parts = _dict(path, inner.get("data"), f"{where}/data")
    models = _names(path, inner.get("model"), f"{where}/model")
    matrices = [_scores(path, parts.get(f"{s}_score"), f"{where}/data/{s}_score") for s in SPLITS]
    if any(matrix.shape[1] != len(models) for matrix in matrices):
        raise InputError(f"{where}: the scores are not of {len(models)} models", path=path)
    return models, np.concatenate(matrices)


def _leaderboard(path: Path, data: dict[Any, Any], prompts: str | None) -> Records:
    names = data.get("models", data.get("model"))
    models = _names(path, names, "models")
    texts = _dict(Path(prompts), load(Path(prompts)), "prompts") if prompts else {}
    queries: list[Query] = []
    matrices: list[FloatArray] = []
    for sub, entry in _dict(path, data["data"], "data").items():
        where = f"data/{sub}/correctness"
        matrix = _scores(path, _dict(path, entry, f"data/{sub}").get("correctness"), where)
        if matrix.shape[1] != len(models):
            message = f"{where} has {matrix.shape[1]} columns for {len(models)} models"
            raise InputError(message, path=path)
        queries += _subject_queries(path, str(sub), len(matrix), texts.get(sub))
        matrices.append(matrix)
    if not matrices or sum(m.size for m in matrices) > MOST_CELLS:
        raise InputError("holds no scores, or more than can be read at once", path=path)
    return Records(tuple(queries), tuple(models), np.concatenate(matrices))


def _subject_queries(path: Path, sub: str, count: int, texts: Any) -> list[Query]:
    listed = [""] * count if texts is None else _list(path, texts, f"prompts/{sub}")
    if len(listed) != count:
        raise InputError(f"{len(listed)} prompts for {count} questions of {sub!r}", path=path)
    return [
        Query(f"{sub}/{n}", ({"role": "user", "content": clean(str(t))},), {}, (), clean(sub))
        for n, t in enumerate(listed)
    ]


def _dataset(path: Path) -> str:
    return path.stem.removesuffix(SUFFIX)


def _ids(path: Path, data: dict[Any, Any]) -> list[str]:
    """The dataset's name and each question's own number, over the three splits."""
    index = _dict(path, data.get("split_index"), "split_index")
    numbers = [
        number
        for s in SPLITS
        for number in _list(path, index.get(f"{s}_indices"), f"split_index/{s}_indices")
    ]
    if not all(isinstance(number, int) for number in numbers):
        raise InputError("split_index: expected whole numbers", path=path)
    if len(set(numbers)) < len(numbers):
        raise InputError("split_index: a question stands in two places", path=path)
    return [f"{_dataset(path)}/{number}" for number in numbers]


def _split_of(path: Path, data: dict[Any, Any]) -> list[str]:
    index = _dict(path, data.get("split_index"), "split_index")
    return [s for s in SPLITS for _ in _list(path, index.get(f"{s}_indices"), "split_index")]


def _texts(path: Path, data: dict[Any, Any], part: str) -> NDArray[np.object_]:
    where = f"prompt/{part}_prompt"
    prompts = _dict(path, data.get("prompt"), "prompt")
    return np.array(_list(path, prompts.get(f"{part}_prompt"), where), object)


def _dict(path: Path, value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a dict, got {type(value).__name__}", path=path)
    return value


def _list(path: Path, value: Any, where: str) -> list[Any]:
    """A flat list, or the elements of a flat array."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        try:
            value = value.tolist()
        except ValueError as error:
            raise InputError(f"{where}: not a text: {error}", path=path) from None
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list, got {type(value).__name__}", path=path)
    if any(isinstance(inner, list | dict | tuple | np.ndarray) for inner in value):
        raise InputError(f"{where}: expected a flat list", path=path)
    return value


def _names(path: Path, value: Any, where: str) -> list[str]:
    names = _list(path, value, where)
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{where}: expected the models' names", path=path)
    cleaned = [clean(name) for name in names]
    if len(set(cleaned)) < len(cleaned):
        raise InputError(f"{where}: a model is listed twice", path=path)
    return cleaned


def _scores(path: Path, value: Any, where: str) -> FloatArray:
    """A numeric array (questions, models) within [0, 1]; an error names the row."""
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "biuf":
        raise InputError(f"{where}: expected a table of numbers", path=path)
    if value.size > MOST_CELLS:
        raise InputError(f"{where}: more than {MOST_CELLS:,} scores", path=path)
    matrix: FloatArray = value.astype(np.float32 if value.size > NARROW else np.float64)
    wrong = ~((matrix >= 0) & (matrix <= 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        found = f"row {row + 1}, column {column + 1}: expected a score in [0, 1]"
        raise InputError(f"{where}, {found}, got {matrix[row, column]}", path=path)
    return matrix
