"""The OpenAPI document: that it is one, that it leaves no route out, and that it is true."""

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from served import Served, post
from starlette.routing import Route

from coterie.gateway.app import ASKED
from coterie.gateway.asked import read_asked
from coterie.gateway.openapi import document
from coterie.gateway.pages import Pages
from coterie.gateway.wire import ApiError

DOCUMENT = document(["auto", "a"], 1000, 8)
SCHEMAS = DOCUMENT["components"]["schemas"]


def nodes(value: Any) -> Iterator[Any]:
    yield value
    children = value.values() if isinstance(value, dict) else value
    for child in children if isinstance(value, dict | list) else ():
        yield from nodes(child)


def test_every_route_is_in_it() -> None:
    pages = Pages(cast(Any, None), cast(Any, None), dict)
    routes = [route for route in pages.application([]).routes if isinstance(route, Route)]
    found = {(route.path.replace(":path", ""), m) for route in routes for m in route.methods or ()}
    expected = {(path, "POST") for path in ASKED} | {one for one in found if one[1] != "HEAD"}
    listed = {(path, m.upper()) for path, item in DOCUMENT["paths"].items() for m in item}
    assert listed == expected


def test_every_reference_leads_somewhere() -> None:
    named = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node, dict) and "$ref" in node}
    for reference in named:
        found: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    assert {f"#/components/schemas/{name}" for name in SCHEMAS} <= named


def test_every_operation_has_a_name_of_its_own_and_says_what_it_answers() -> None:
    operations = [one for item in DOCUMENT["paths"].values() for one in item.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for operation in operations:
        assert {"200", "default"} <= set(operation["responses"])
    for path, item in DOCUMENT["paths"].items():
        given = {one["name"] for op in item.values() for one in op.get("parameters", ())}
        assert all(f"{{{name}}}" in path for name in given)
        assert path.count("{") == len(given)


def test_what_is_required_is_described() -> None:
    for name, schema in SCHEMAS.items():
        assert schema["type"] == "object", name
        assert set(schema.get("required", ())) <= set(schema["properties"]), name
    assert not SCHEMAS["Wishes"]["additionalProperties"]


@pytest.mark.parametrize("name", ["stream", "n", "max_tokens", "models", "coterie", "messages"])
def test_what_it_gives_a_type_is_refused_in_another(name: str) -> None:
    assert name in SCHEMAS["Chat"]["properties"]
    body = {"model": "a", "messages": [{"role": "user"}], name: "of another type"}
    with pytest.raises(ApiError):
        read_asked("/chat/completions", json.dumps(body).encode(), {}, 1000, 8)


def test_a_gateway_serves_its_own(gateway: Served) -> None:
    served = json.loads(post(gateway.port, "/v1/openapi.json", b"", method="GET").body)
    assert served["paths"] == DOCUMENT["paths"]
    assert "faithful" in served["components"]["schemas"]["Chat"]["properties"]["model"]["enum"]
