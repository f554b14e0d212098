"""One small exchange with a gateway by each client that is installed; run by hand, see docs.

    python clients_by_hand.py http://127.0.0.1:8000/v1 MODEL [client ...]

Prints a line for each client: its version and what it got, or why not. The tests do not need it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

QUESTION = "Say it."
Client = Callable[[str, str], str]


def load(name: str) -> Any:
    """A module that is not among the project's own packages."""
    return importlib.import_module(name)


def langchain(url: str, model: str) -> str:
    """A chat, its stream, and a tool that is bound to it."""
    chat = load("langchain_openai").ChatOpenAI(base_url=url, api_key="none", model=model)
    said = chat.invoke(QUESTION).content
    stream = "".join(piece.content for piece in chat.stream(QUESTION)).strip()
    tool = load("langchain_core.tools").tool(_weather)
    calls = chat.bind_tools([tool]).invoke(QUESTION).tool_calls
    return f"{said!r}, streamed {stream!r}, calls {[one['name'] for one in calls]}"


def _weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def pydantic_ai(url: str, model: str) -> str:
    """An agent that calls a tool and says what it got."""
    provider = load("pydantic_ai.providers.openai").OpenAIProvider(base_url=url, api_key="none")
    chat = load("pydantic_ai.models.openai").OpenAIChatModel(model, provider=provider)
    plain = load("pydantic_ai").Agent(chat).run_sync(QUESTION).output
    acting = load("pydantic_ai").Agent(chat, tools=[_weather]).run_sync(QUESTION)
    return f"{plain!r}, with a tool {acting.output!r}"


def llm(url: str, model: str) -> str:
    """simonw/llm with the model in its extra-openai-models.yaml, streamed and whole."""
    with tempfile.TemporaryDirectory() as folder:
        given = f"- model_id: ours\n  model_name: {model}\n  api_base: {url}\n"
        Path(folder, "extra-openai-models.yaml").write_text(given)
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        command = [sys.executable, "-m", "llm", "-m", "ours", QUESTION]
        told = [_run([*command, *more], environment) for more in ([], ["--no-stream"])]
    return f"streamed {told[0]!r}, whole {told[1]!r}"


def inspect_ai(url: str, model: str) -> str:
    """A task of one sample with a scorer."""
    inspect = load("inspect_ai")
    sample = load("inspect_ai.dataset").Sample(input=QUESTION, target="say it")
    task = inspect.Task(dataset=[sample], scorer=load("inspect_ai.scorer").includes())
    asked = load("inspect_ai.model").get_model(
        f"openai-api/ours/{model}", base_url=url, api_key="none"
    )
    with tempfile.TemporaryDirectory() as folder:
        (log,) = inspect.eval(task, model=asked, log_dir=folder, display="none")
        said = log.samples[0].output.completion
    return f"{log.status}, {said!r}, accuracy {log.results.scores[0].metrics['accuracy'].value}"


def lm_eval(url: str, model: str) -> str:
    """lm-evaluation-harness's local-chat-completions with a task of one question."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "q.jsonl").write_text('{"question": "Say it.", "answer": "echo: Say it."}\n')
        Path(folder, "q.yaml").write_text(LM_EVAL.format(path=Path(folder, "q.jsonl")))
        arguments = f"model={model},base_url={url}/chat/completions,num_concurrent=1"
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions"]
        more = ["--tasks", "q", "--include_path", folder, "--apply_chat_template"]
        environment = {**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": folder}
        told = _run([*command, "--model_args", arguments, *more], environment)
    return next(line for line in told.splitlines() if "exact_match" in line)


LM_EVAL = """task: q
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{path}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["never"], max_gen_toks: 16}}
metric_list: [{{metric: exact_match}}]
"""


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-600:])
    return done.stdout.strip()


CLIENTS: Mapping[str, tuple[str, Client]] = {
    "langchain": ("langchain-openai", langchain),
    "pydantic-ai": ("pydantic-ai-slim", pydantic_ai),
    "llm": ("llm", llm),
    "inspect": ("inspect-ai", inspect_ai),
    "lm-eval": ("lm-eval", lm_eval),
}


def main(url: str, model: str, *names: str) -> None:
    for name in names or CLIENTS:
        package, client = CLIENTS[name]
        try:
            found = f"{package} {version(package)}"
        except PackageNotFoundError:
            print(f"{package}: not installed")
            continue
        try:
            print(f"{found}: {client(url, model)}", flush=True)
        except Exception as error:
            print(f"{found}: FAILED: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
