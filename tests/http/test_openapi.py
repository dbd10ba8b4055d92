"""The OpenAPI document and the table of routes say the same, and the examples are true."""

import json
import re
from typing import Any

import msgspec
import pytest

from raftbroker.http.app import ROUTES
from raftbroker.http.openapi import document
from raftbroker.http.route import Route
from tests.http.harness import Client

DOCUMENT: dict[str, Any] = json.loads(document(ROUTES, "1.2.3"))
NAMES = [route.name for route in ROUTES]


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


def test_the_document_is_served_as_it_is_generated(client: Client) -> None:
    served = client.get("/openapi.json").json
    assert served["openapi"] == "3.1.0"
    assert served["paths"] == DOCUMENT["paths"]


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    listed = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert listed == {(route.method, route.path) for route in ROUTES}
    assert len(set(NAMES)) == len(NAMES)


def test_every_reference_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize("route", ROUTES, ids=NAMES)
def test_a_route_is_described_and_its_examples_are_valid(route: Route) -> None:
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    named = re.findall(r"{(\w+)}", route.path)
    assert [p["name"] for p in operation["parameters"] if p["in"] == "path"] == named
    assert operation["summary"].endswith(".")
    success = operation["responses"][str(route.answer.status)]
    if route.answer.type is None:
        assert "content" not in success
    else:
        example = next(iter(success["content"].values()))["example"]
        msgspec.json.decode(json.dumps(example), type=route.answer.type)
    for media, (type_, _) in () if route.body is None else route.body.forms.items():
        msgspec.json.decode(json.dumps(operation["requestBody"]["content"][media]["example"]), type=type_)


@pytest.mark.parametrize("route", ROUTES, ids=NAMES)
def test_a_route_is_served_with_its_own_examples(client: Client, route: Route) -> None:
    """Every route answers its documented success or a documented error, in a documented media type."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    path = route.path.replace("{cluster_id}", "stand-in")
    for parameter in operation["parameters"]:
        path = path.replace("{" + parameter["name"] + "}", str(parameter["example"]) if "example" in parameter else "")
    query = [f"{p['name']}={p['example']}" for p in operation["parameters"] if p["in"] == "query" and "example" in p]
    content = operation.get("requestBody", {}).get("content", {"": {}})
    for media, form in content.items():
        body = json.dumps(form["example"]).encode() if form else None
        answer = client.ask(route.method, path + ("?" + "&".join(query) if query else ""), body, {}, media)
        assert str(answer.status) in operation["responses"], answer
        found = operation["responses"][str(answer.status)]
        if "content" in found:
            assert answer.headers["content-type"].split(";")[0] in found["content"]
        if answer.status == route.answer.status and route.answer.type not in (None, str):
            msgspec.json.decode(answer.body, type=route.answer.type)
        assert answer.status < 500
