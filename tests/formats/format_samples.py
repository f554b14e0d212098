"""A tiny valid sample of every format: two questions, ann right on the first, bob on the second."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coterie.records import Records
from coterie.types import Query

SCORES = np.array([[1.0, 0.0], [0.0, 1.0]])
TEXTS = ("What is 2 + 2?", "What is 2 + 3?")
CELLS = [(q, e, float(SCORES[q, e])) for e in (0, 1) for q in (0, 1)]
NAMES = ("ann", "bob")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def native(folder: Path) -> Path:
    queries = tuple(Query.from_text(f"q{n}", text) for n, text in enumerate(TEXTS))
    Records(queries, NAMES, SCORES).write(folder / "records")
    return folder / "records"


def instances(folder: Path) -> Path:
    rows = [
        {"instance_id": f"q{n}", "dataset": "sums", "prompt": text, "gold": "4", "split": "train"}
        for n, text in enumerate(TEXTS)
    ]
    write_parquet(folder / "instances.parquet", rows)
    cells = [
        {"instance_id": f"q{q}", "model": NAMES[e], "score": s, "pred": "4", "est_cost_usd": 0.1}
        for q, e, s in CELLS
    ]
    write_parquet(folder / "records.parquet", cells)
    models = [{"model": "ann", "size": "7B", "usd_in_per_mtok": "0.2", "description": "a, b"}]
    write_csv(folder / "models.csv", models)
    return folder


def lm_eval(folder: Path) -> Path:
    for e, name in enumerate(NAMES):
        model = folder / f"org__{name}"
        model.mkdir()
        write_json(model / "results_2026-01-01T00-00-00.json", {"model_name": name})
        samples = [
            {
                "doc_id": q,
                "doc": {"question": text},
                "target": "4",
                "arguments": {"gen_args_0": {"arg_0": f"Q: {text}"}},
                "filtered_resps": ["4"],
                "filter": "none",
                "metrics": ["exact_match"],
                "doc_hash": f"{q:064x}",
                "exact_match": SCORES[q, e],
            }
            for q, text in enumerate(TEXTS)
        ]
        write_lines(model / "samples_sums_2026-01-01T00-00-00.jsonl", samples)
    return folder


def routereval(folder: Path) -> Path:
    parts = {"train": SCORES[:1], "val": SCORES[1:], "test": SCORES[:0]}
    prompts = {"train": TEXTS[:1], "val": TEXTS[1:], "test": ()}
    group = {
        "data": {f"{part}_score": array for part, array in parts.items()},
        "model": np.array(NAMES),
    }
    value = {
        "easy": {3: {"all_strong": group}},
        "hard": {},
        "split_index": {"train_indices": [0], "val_indices": [1], "test_indices": []},
        "prompt": {f"{part}_prompt": np.array(t, object) for part, t in prompts.items()},
        "embedding": {"train_embed": np.zeros((1, 2), np.float32)},
    }
    path = folder / "sums_router_dataset.pkl"
    path.write_bytes(pickle.dumps(value))
    return path


def routerbench(folder: Path) -> Path:
    rows = [
        {"": q, "sample_id": f"sums.{q}", "prompt": f"[{text!r}]", "eval_name": "sums"}
        | {name: SCORES[q, e] for e, name in enumerate(NAMES)}
        | {f"{name}|model_response": "['4']" for name in NAMES}
        | {f"{name}|total_cost": 0.1 for name in NAMES}
        for q, text in enumerate(TEXTS)
    ]
    return write_csv(folder / "wide.csv", rows)


def llmrouterbench(folder: Path) -> Path:
    for e, name in enumerate(NAMES):
        records = [
            {"index": q, "origin_query": text, "prompt": text, "prompt_tokens": 5, "cost": 0.1}
            | {"completion_tokens": 1, "score": SCORES[q, e], "prediction": "4"}
            | {"ground_truth": "4", "raw_output": ["4"]}
            for q, text in enumerate(TEXTS)
        ]
        result = {"model_name": name, "dataset_name": "sums", "split": "test", "counts": 2}
        target = folder / f"sums-test-{name}-20260101_000000.json"
        write_json(target, result | {"demo": False, "records": records})
    return folder


def routerarena(folder: Path) -> Path:
    for e, name in enumerate(NAMES):
        rows = [
            {"global_index": f"Sums_{q}", "question": text, "llm_selected": name}
            | {"generated_answer": "4", "token_usage": {"input_tokens": 5, "output_tokens": 1}}
            | {"success": True, "run_number": 1}
            | {"evaluation_result": {"score": SCORES[q, e], "inference_cost": 0.1}}
            for q, text in enumerate(TEXTS)
        ]
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def llmrouter(folder: Path) -> Path:
    rows = [
        {"task_name": "sums", "query": TEXTS[q], "ground_truth": "4", "metric": "em"}
        | {"model_name": NAMES[e], "response": "4", "performance": score, "response_time": 0.5}
        for q, e, score in CELLS
    ]
    return write_lines(folder / "default_routing_train_data.jsonl", rows)


def routerdc(folder: Path) -> Path:
    listed = [
        {"question": text, "scores": dict(zip(NAMES, SCORES[q].tolist(), strict=True))}
        for q, text in enumerate(TEXTS)
    ]
    return write_json(folder / "sums_train.json", listed)


def pairs(folder: Path) -> Path:
    rows = [
        {"question_id": f"q{q}", "model_a": "ann", "model_b": "bob", "prompt": text}
        | {"winner": ("model_a", "model_b")[q], "response_a": "4", "response_b": "5"}
        for q, text in enumerate(TEXTS)
    ]
    return write_lines(folder / "battles.jsonl", rows)


def rorf(folder: Path) -> Path:
    rows = [
        {"Input": text} | {f"{name}/score": SCORES[q, e] for e, name in enumerate(NAMES)}
        for q, text in enumerate(TEXTS)
    ]
    return write_parquet(folder / "train.parquet", rows)


def embedllm(folder: Path) -> Path:
    rows = [
        {"prompt_id": q, "model_id": e, "label": int(s), "prompt": TEXTS[q], "model_name": NAMES[e]}
        for q, e, s in CELLS
    ]
    return write_csv(folder / "train.csv", rows)


def routellm(folder: Path) -> Path:
    rows = [
        {"prompt": text} | {name: bool(SCORES[q, e]) for e, name in enumerate(NAMES)}
        for q, text in enumerate(TEXTS)
    ]
    return write_csv(folder / "mmlu_sums.csv", rows)


def plain(folder: Path) -> Path:
    rows = [
        {"query_id": f"q{q}", "expert": NAMES[e], "score": s, "text": TEXTS[q], "cost": 0.1}
        for q, e, s in CELLS
    ]
    return write_csv(folder / "long.csv", rows)


SAMPLES: dict[str, Callable[[Path], Path]] = {
    "native": native,
    "instances": instances,
    "lm-eval": lm_eval,
    "routereval": routereval,
    "routerbench": routerbench,
    "llmrouterbench": llmrouterbench,
    "routerarena": routerarena,
    "llmrouter": llmrouter,
    "routerdc": routerdc,
    "pairs": pairs,
    "rorf": rorf,
    "embedllm": embedllm,
    "routellm": routellm,
    "csv": plain,
}
