"""What LLMRouter's and RouteLLM's own code makes of given vectors; runs in their environments.

    .venv-rivals/llmrouter/bin/python benchmarks/rivals_drivers.py llmrouter TASK RESULTS

``rivals_cases.py`` calls it. Here stand their settings and the doors into their packages; their
code is imported, never copied. Two things of theirs are replaced, since both need a network: the
model that embeds a question (by a look-up of the given vector) and the call of the routed model (by
an empty answer).

TASK is a folder with ``vectors.npy``, ``scores.npy`` and ``task.json``: texts, experts, and folds
of train and test rows and of the order in which experts are listed. RESULTS is JSON lines:
versions, then one a router and fold, written as they come: a later failure costs nothing done.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SINGLE = 100  # questions that are routed one at a time
SEED = 0

AS_LISTED = ", as listed"  # experts in the records' order, not from best to worst
# As LLMRouter's configs/model_config_train/*.yaml, but one thread for kNN and the given vectors'
# length for MF. The last kNN follows its README: k = sqrt(N), cosine, votes by distance.
LLMROUTER: dict[str, tuple[str, str, dict[str, Any]]] = {
    "knnrouter (k = 5)" + AS_LISTED: (
        "KNNRouter",
        "KNNRouterTrainer",
        {"n_neighbors": 5, "weights": "uniform", "metric": "minkowski", "p": 2, "n_jobs": 1},
    ),
    "knnrouter (k = 5)": (
        "KNNRouter",
        "KNNRouterTrainer",
        {"n_neighbors": 5, "weights": "uniform", "metric": "minkowski", "p": 2, "n_jobs": 1},
    ),
    "knnrouter (k = √N, cosine, distance)": (
        "KNNRouter",
        "KNNRouterTrainer",
        {"n_neighbors": None, "weights": "distance", "metric": "cosine", "n_jobs": 1},
    ),
    "svmrouter": (
        "SVMRouter",
        "SVMRouterTrainer",
        {"kernel": "rbf", "C": 1.0, "gamma": "scale", "probability": True},
    ),
    "mlprouter": (
        "MLPRouter",
        "MLPTrainer",
        {
            "hidden_layer_sizes": [128, 64],
            "activation": "relu",
            "lr": 0.001,
            "epochs": 100,
            "batch_size": 32,
            "alpha": 0.0001,
        },
    ),
    "mfrouter": (
        "MFRouter",
        "MFRouterTrainer",
        {"latent_dim": 128, "text_dim": None, "lr": 0.001, "epochs": 5, "noise_alpha": 0.0},
    ),
}

# The names that RouteLLM's routers have for the two experts of its own benchmark.
STRONG, WEAK = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"
SLOW = {"sw_ranking": 1}  # refits at every question: judged on so many folds only
# As the example in RouteLLM's train_matrix_factorization.py, and its router's defaults.
MF = {"dim": 128, "batch_size": 64, "epochs": 100, "alpha": 0.1, "lr": 3e-4, "weight_decay": 1e-5}


class Task:
    """The questions with their vectors and scores, and the folds."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "task.json").read_text())
        self.texts: list[str] = facts["texts"]
        self.experts: list[str] = facts["experts"]
        self.folds: list[dict[str, list[int]]] = facts["folds"]  # train, test, order
        self.vectors = np.load(folder / "vectors.npy")
        self.scores = np.load(folder / "scores.npy")
        self.row = {text: number for number, text in enumerate(self.texts)}


def llmrouter(task: Task) -> Iterator[dict[str, Any]]:
    """Chosen experts of four of LLMRouter's routers; kNN twice."""
    models = import_module("llmrouter.models")
    for fold, rows in enumerate(task.folds):
        for name, (router, trainer, hparam) in LLMROUTER.items():
            kinds = getattr(models, router), getattr(models, trainer)
            order = sorted(rows["order"]) if name.endswith(AS_LISTED) else rows["order"]
            part = {**rows, "order": order}
            run = functools.partial(llmrouter_fold, task, kinds, hparam, part)
            yield {"router": name, "fold": fold, **attempt(run)}


def llmrouter_fold(
    task: Task, kinds: Any, hparam: dict[str, Any], part: dict[str, list[int]]
) -> dict[str, Any]:
    """Construct, train, route one by one and in a batch, as LLMRouter's command line would."""
    replace_network(sys.modules[kinds[0].__module__], task)
    with tempfile.TemporaryDirectory() as scratch:
        path = llmrouter_config(Path(scratch), task, hparam, part)
        router, setup = timed(lambda: kinds[0](str(path)))
        trainer = kinds[1](router, device="cpu")
        _, training = timed(trainer.train)
        asked = [{"query": task.texts[row]} for row in part["test"]]
        _, single = timed(lambda: [router.route_single(dict(query)) for query in asked[:SINGLE]])
        routed, batch = timed(lambda: router.route_batch([dict(query) for query in asked]))
    return {
        "chosen": [task.experts.index(answer["model_name"]) for answer in routed],
        "setup_s": setup,
        "train_s": training,
        "single_s": single / len(asked[:SINGLE]),
        "batch_s": batch / len(asked),
    }


def llmrouter_config(
    folder: Path, task: Task, hparam: dict[str, Any], part: dict[str, list[int]]
) -> Path:
    """The files that LLMRouter reads: routing data, vectors and its configuration."""
    torch: Any = import_module("torch")
    torch.save(torch.from_numpy(task.vectors), folder / "vectors.pt")
    with open(folder / "routing.jsonl", "w", encoding="utf-8") as file:
        for row in part["train"]:
            for expert in part["order"]:
                name, score = task.experts[expert], float(task.scores[row, expert])
                cell = {"query": task.texts[row], "model_name": name, "embedding_id": row}
                file.write(json.dumps({**cell, "performance": score}) + "\n")
    given = {"n_neighbors": int(math.sqrt(len(part["train"]))), "text_dim": task.vectors.shape[1]}
    model = str(folder / "model.pkl")
    config = {
        "data_path": {
            "routing_data_train": str(folder / "routing.jsonl"),
            "query_embedding_data": str(folder / "vectors.pt"),
        },
        "model_path": {"ini_model_path": "", "save_model_path": model, "load_model_path": model},
        "metric": {"weights": {"performance": 1, "cost": 0, "llm_judge": 0}},
        "hparam": {k: given[k] if value is None else value for k, value in hparam.items()},
        "api_endpoint": "http://127.0.0.1",  # has to be there; never called
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder / "config.yaml"


def replace_network(module: Any, task: Task) -> None:
    """Look vectors up instead of embedding, and answer nothing instead of calling a model."""
    torch: Any = import_module("torch")
    vectors = torch.from_numpy(task.vectors)
    module.get_longformer_embedding = lambda text: vectors[task.row[text]]
    module.call_api = lambda request, **_: {"response": ""}


def routellm(task: Task) -> Iterator[dict[str, Any]]:
    """Win rates of the strong expert by RouteLLM's routers that can do without a download."""
    routers = import_module("routellm.routers.routers")
    client = SimpleNamespace(embeddings=SimpleNamespace(create=embedding_client(task)))
    for module in (routers, import_module("routellm.routers.matrix_factorization.model")):
        vars(module)["OPENAI_CLIENT"] = client
    makers: dict[str, Callable[..., tuple[Any, float]]] = {
        "random": lambda task, train: (routers.RandomRouter(), 0.0),
        "mf": matrix_factorization,
        "sw_ranking": similarity_weighted,
    }
    for fold, rows in enumerate(task.folds):
        for name, make in makers.items():
            if fold >= SLOW.get(name, len(task.folds)):
                continue
            run = functools.partial(routellm_fold, task, make, rows["train"], rows["test"])
            yield {"router": name, "fold": fold, **attempt(run)}


def routellm_fold(task: Task, make: Any, train: list[int], test: list[int]) -> dict[str, Any]:
    """Train, then ask for one win rate after the other: RouteLLM has no batches."""
    router, training = make(task, train)
    rates, seconds = timed(
        lambda: [float(router.calculate_strong_win_rate(task.texts[row])) for row in test]
    )
    each = seconds / len(test)
    return {"preference": rates, "train_s": training, "single_s": each, "batch_s": each}


def embedding_client(task: Task) -> Callable[..., Any]:
    """What the client's ``embeddings.create`` would return, looked up."""

    def create(input: list[str], model: str) -> Any:
        vector = task.vectors[task.row[input[0]]]
        return SimpleNamespace(data=[SimpleNamespace(embedding=vector.tolist())])

    return create


def battles(task: Task, train: list[int]) -> list[dict[str, Any]]:
    """A battle a question, the strong expert first; the last expert of the task is the strong."""
    rows = []
    for number, row in enumerate(train):
        weak, strong = task.scores[row]
        winner = "tie" if strong == weak else "model_a" if strong > weak else "model_b"
        rows.append({"idx": number, "model_a": STRONG, "model_b": WEAK, "winner": winner})
    return rows


def matrix_factorization(task: Task, train: list[int]) -> tuple[Any, float]:
    """RouteLLM's training script on the fold's battles, and its router on what was learnt."""
    code = import_module("routellm.routers.matrix_factorization.train_matrix_factorization")
    decided = [battle for battle in battles(task, train) if battle["winner"] != "tie"]
    random.shuffle(decided)
    cut = int(len(decided) * 0.95)
    parts = (code.PairwiseDataset(decided[:cut]), code.PairwiseDataset(decided[cut:]))
    loaders = parts[0].get_dataloaders(MF["batch_size"]), parts[1].get_dataloaders(1024, False)
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/vectors.npy", task.vectors[train])
        shape = {"dim": MF["dim"], "num_models": len(code.MODEL_IDS), "use_proj": True}
        shape["text_dim"] = task.vectors.shape[1]
        net = code.MFModel_Train(num_prompts=len(train), npy_path=f"{scratch}/vectors.npy", **shape)
        settings = {key: MF[key] for key in ("lr", "weight_decay", "alpha")}
        settings["num_epochs"] = MF["epochs"]
        _, seconds = timed(lambda: code.train_loops(net, *loaders, device="cpu", **settings))
        return matrix_factorization_router(net, shape, scratch), seconds


def matrix_factorization_router(net: Any, shape: dict[str, Any], folder: str) -> Any:
    """RouteLLM's router, loaded from a checkpoint of the trained network without its prompts."""
    routers = import_module("routellm.routers.routers")
    learnt = {key: value for key, value in net.state_dict().items() if key != "Q.weight"}
    nested = {"text_proj.weight": "text_proj.0.weight", "classifier.weight": "classifier.0.weight"}
    model = routers.MFModel(num_classes=1, **shape)
    model.load_state_dict({nested.get(key, key): value for key, value in learnt.items()})
    model.save_pretrained(folder)
    sizes = {"hidden_size": shape["dim"], "text_dim": shape["text_dim"]}
    return routers.MatrixFactorizationRouter(folder, num_models=shape["num_models"], **sizes)


def similarity_weighted(task: Task, train: list[int]) -> tuple[Any, float]:
    """RouteLLM's SW router with the fold's battles in place of its downloads."""
    routers = import_module("routellm.routers.routers")
    dataset: Any = import_module("datasets").Dataset
    kept = [row for row in train if len(task.texts[row].strip()) >= 16]  # its code drops shorter
    rows = [
        {
            "prompt": json.dumps([task.texts[row]]),
            "model_a": battle["model_a"],
            "model_b": battle["model_b"],
            "winner_model_a": int(battle["winner"] == "model_a"),
            "winner_model_b": int(battle["winner"] == "model_b"),
        }
        for row, battle in zip(kept, battles(task, kept), strict=True)
    ]
    tables = {
        "battles": dataset.from_list(rows),
        "vectors": dataset.from_dict({"embeddings": task.vectors[kept].tolist()}),
    }
    vars(routers)["load_dataset"] = lambda name, split: tables[name]
    return timed(lambda: routers.SWRankingRouter(["battles"], ["vectors"]))


def apgr(folder: Path) -> Iterator[dict[str, Any]]:
    """APGR by RouteLLM's own evaluation of every preference in ``preferences.json``."""
    evaluate = import_module("routellm.evals.evaluate")
    for case in json.loads((folder / "preferences.json").read_text()):
        yield {"router": case["benchmark"], **attempt(functools.partial(apgr_of, evaluate, case))}


def apgr_of(evaluate: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The last figure of the table that RouteLLM prints for one router on one benchmark."""
    pandas: Any = import_module("pandas")
    benchmark = object.__new__(evaluate.MMLU)  # its constructor reads files the wheel does not have
    benchmark.routed_pair = SimpleNamespace(strong=STRONG, weak=WEAK)
    benchmark.overwrite_cache, benchmark.cache = [], {"given": np.array(case["preference"])}
    columns = {STRONG: np.array(case["strong"]) == 1, WEAK: np.array(case["weak"]) == 1}
    benchmark.all_data = pandas.DataFrame(columns)
    points = [
        {"method": "given", "strong_percentage": counts[STRONG] / total * 100, "accuracy": accuracy}
        for _, accuracy, counts, total in benchmark.evaluate(None, "given", 10, False)
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), tempfile.TemporaryDirectory() as scratch:
        evaluate.generate_results(
            pandas.DataFrame(points), benchmark, case["benchmark"], benchmark.routed_pair, scratch
        )
    return {"apgr": float(printed.getvalue().split()[-1])}


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the run returns, its prints swallowed; its error if it fails: the others go on."""
    seed_all()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:160]}


def versions() -> dict[str, str]:
    """Of what decides about figures and times, as far as it is installed."""
    found = {}
    for name in ("llmrouter-lib", "routellm", "torch", "numpy", "scikit-learn", "pandas"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def seed_all() -> None:
    torch: Any = import_module("torch")
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    np.random.seed(SEED)
    random.seed(SEED)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result and the CPU seconds of this process, which other work does not lengthen."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def main() -> None:
    kind, folder, results = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    makers: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "llmrouter": lambda: llmrouter(Task(folder)),
        "routellm": lambda: routellm(Task(folder)),
        "apgr": lambda: apgr(folder),
    }
    with open(results, "w", encoding="utf-8") as file:
        file.write(json.dumps({"versions": versions()}) + "\n")
        for row in makers[kind]():
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{kind}: {row.get('router')} {row.get('error', 'done')}", file=sys.stderr)


if __name__ == "__main__":
    main()
