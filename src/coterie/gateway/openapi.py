"""What the gateway understands, as an OpenAPI document.

Only what the gateway itself reads is described; every other field goes to the expert as it came,
so the bodies are open. OpenAI's own description holds for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from coterie.gateway.asked import NAMESPACE, Wishes

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
PLAIN = {"text/plain": {"schema": TEXT}}


def document(models: Sequence[str], most_tokens: int, most_choices: int) -> Schema:
    """The document of a gateway in which ``model`` may be one of ``models`` (or ``recruit:K``)."""
    about = "Many language models behind one OpenAI-compatible API."
    return {
        "openapi": "3.1.0",
        "info": {"title": "Coterie", "version": "1", "description": about},
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {"Error": _json("Why not, in OpenAI's shape.", _ref("Error"))},
            "schemas": _schemas(models, most_tokens, most_choices),
        },
    }


def _paths() -> Schema:
    stream = {"text/event-stream": {"schema": TEXT}}
    paths: Schema = {}
    for path, name, streams in (
        ("/v1/chat/completions", "Chat", True),
        ("/v1/completions", "Completion", True),
        ("/v1/embeddings", "Embedding", False),
        ("/v1/responses", "Response", True),
    ):
        answer = _json("The expert's answer.", {"type": "object"})
        answer["content"] |= stream if streams else {}
        paths[path] = {"post": _operation(name.lower(), answer, body=name)}
    decision = _json("Who would be asked, and why.", {"type": "object"})
    scored = _json("The score was taken.", {"type": "object"})
    named = [{"name": "model", "in": "path", "required": True, "schema": TEXT}]
    text = {"description": "Prometheus' text format.", "content": PLAIN}
    ready = _operation("ready", _json("Requests are answered.", {"type": "object"}))
    ready["responses"]["503"] = _json("They are not; why.", {"type": "object"})
    return {
        **paths,
        "/v1/models": {"get": _operation("models", _json("All models.", _ref("Models")))},
        "/v1/models/{model}": {
            "get": {**_operation("model", _json("One model.", _ref("Model"))), "parameters": named}
        },
        "/v1/route": {"post": _operation("route", decision, body="Chat")},
        "/v1/feedback": {"post": _operation("feedback", scored, body="Feedback")},
        "/v1/openapi.json": {
            "get": _operation("openapi", _json("This document.", {"type": "object"}))
        },
        "/health/live": {"get": _operation("live", _json("It runs.", {"type": "object"}))},
        "/health/ready": {"get": ready},
        "/metrics": {"get": _operation("metrics", text)},
    }


def _operation(name: str, answer: Schema, body: str | None = None) -> Schema:
    responses = {"200": answer, "default": {"$ref": "#/components/responses/Error"}}
    operation: Schema = {"operationId": name, "responses": responses}
    if body is not None:
        content = {"application/json": {"schema": _ref(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], *required: str, **more: Any) -> Schema:
    return {"type": "object", "required": [*required], "properties": dict(properties), **more}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas(models: Sequence[str], most_tokens: int, most_choices: int) -> dict[str, Schema]:
    bounds = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    bound = {"type": ["integer", "null"], "minimum": 1, "maximum": most_tokens}
    none = {key: {**bound, "minimum": 0} for key in bounds}
    usage = _or_null(_object({"include_usage": {"type": ["boolean", "null"]}}))
    common = {
        "model": {"type": "string", "enum": list(models)},
        "models": {**TEXTS, "description": "Experts to ask, in order, where the first fails."},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": usage,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": most_choices},
        **dict.fromkeys(bounds, bound),
        NAMESPACE: _ref("Wishes"),
    }
    messages = {"type": "array", "minItems": 1, "items": _ref("Message")}
    several = {"anyOf": [TEXT, {"type": "array"}]}
    told = {"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": _or_null(TEXT)}
    model = {"id": TEXT, "object": TEXT, "created": {"type": "integer"}, "owned_by": TEXT}
    score = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "Chat": _object({**common, "messages": messages}, "model", "messages"),
        "Completion": _object({**common, **none, "prompt": several}, "model", "prompt"),
        "Embedding": _object({**common, "input": several}, "model", "input"),
        "Response": _object({**common, "input": several}, "model", "input"),
        "Message": _object({"role": TEXT, "content": _content()}, "role"),
        "Wishes": _wishes(),
        "Feedback": _object({"id": TEXT, "score": score, "note": TEXT}, "id", "score"),
        "Models": _object({"data": {"type": "array", "items": _ref("Model")}}, "data"),
        "Model": _object(model, *model),
        "Error": _object({"error": _object(told, *told)}, "error"),
    }


def _content() -> Schema:
    part = _object({"type": TEXT, "text": TEXT})
    return {"anyOf": [TEXT, {"type": "array", "items": part}, {"type": "null"}]}


def _wishes() -> Schema:
    """The schema of what a request may wish for, from its own class."""
    _, components = msgspec.json.schema_components([Wishes])
    return {**components["Wishes"], "description": "Constraints and preferences of one request."}
