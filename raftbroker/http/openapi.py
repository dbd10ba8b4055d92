"""`/openapi.json`: the table of routes as an OpenAPI 3.1 document. What it lists is what is served."""

import re
from collections.abc import Iterable, Sequence

import msgspec

from raftbroker.http.media import JSON
from raftbroker.http.problems import BAD_JSON, BAD_PAYLOAD, NOT_ACCEPTABLE, TOO_MANY, UNAVAILABLE, ErrorBody
from raftbroker.http.route import Answer, Body, Parameter, Route, Work

Json = dict[str, object]

_PATH_PARAMETERS: dict[str, tuple[type, str, str | int]] = {
    "cluster_id": (str, "The cluster's id, as GET /v3/clusters shows it.", "Rk9KZKCFSQqYm2rXZqGpSA"),
    "topic_name": (str, "The topic's name.", "orders"),
    "partition_id": (int, "The partition's number, from 0.", 0),
    "broker_id": (int, "The node's id.", 1),
    "consumer_group_id": (str, "The consumer group's name.", "billing"),
    "instance": (str, "The consumer instance's name, as it was made.", "mine"),
    "consumer_id": (str, "The member's id.", "app-1"),
    "config_name": (str, "The config's name, as Kafka has it.", "retention.ms"),
    "queue": (str, "The queue's name.", "orders"),
    "webhook": (str, "The webhook's name.", "billing"),
    "message_id": (str, "The message's id, as sending it answered.", "4711"),
    "group": (int, "The Raft group's id; 0 is the control group.", 1),
}
_TYPES = {str: "string", int: "integer", bool: "boolean"}
_REFERENCE = "#/components/schemas/{name}"


def document(routes: Sequence[Route], version: str) -> bytes:
    """The whole document as JSON."""
    types = list(_types(routes))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, by_type)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "raftbroker",
                "version": version,
                "description": "A replicated log and queue broker. Any node takes any request and passes it on to the"
                " right one. Errors are {error_code, message}; the first three digits of the code are the HTTP status.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/", "description": "This node."}],
            "paths": paths,
            "components": {"schemas": components},
        }
    )


def _types(routes: Iterable[Route]) -> Iterable[object]:
    seen: dict[str, object] = {repr(ErrorBody): ErrorBody}
    for route in routes:
        if route.answer.type is not None:
            seen[repr(route.answer.type)] = route.answer.type
        if route.body is not None:
            for type_, _ in route.body.forms.values():
                seen[repr(type_)] = type_
    return seen.values()


def _operation(route: Route, by_type: dict[str, Json]) -> Json:
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", route.path)]
    parameters += [_parameter(parameter) for parameter in route.parameters]
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": parameters,
        "responses": {
            **{str(status): _success(route.answer, by_type) for status in (route.answer.status, *route.answer.also)},
            **_failures(route, by_type),
        },
    }
    if route.body is not None:
        operation["requestBody"] = _body(route.body, by_type)
    return operation


def _path_parameter(name: str) -> Json:
    type_, summary, example = _PATH_PARAMETERS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": summary,
        "schema": {"type": _TYPES[type_]},
        "example": example,
    }


def _parameter(parameter: Parameter) -> Json:
    shown: Json = {
        "name": parameter.name,
        "in": "header" if parameter.header else "query",
        "required": parameter.required,
        "description": parameter.summary,
        "schema": {"type": _TYPES[parameter.type]},
    }
    if parameter.example is not None:
        shown["example"] = parameter.example
    return shown


def _example(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


def _body(body: Body, by_type: dict[str, Json]) -> Json:
    content = {
        media: {"schema": by_type[repr(type_)], "example": _example(example)}
        for media, (type_, example) in body.forms.items()
    }
    shown: Json = {"required": body.required, "content": content}
    if body.repeated:
        shown["description"] = "One object, or several one behind the other, with or without whitespace between them."
    return shown


def _success(answer: Answer, by_type: dict[str, Json]) -> Json:
    shown: Json = {"description": answer.summary}
    if answer.type is not None:
        content: Json = {"schema": by_type[repr(answer.type)], "example": _example(answer.example)}
        shown["content"] = dict.fromkeys(answer.media, content)
    return shown


def _failures(route: Route, by_type: dict[str, Json]) -> Json:
    codes = set(route.problems)
    if route.work is not Work.PROBE:
        codes |= {TOO_MANY, UNAVAILABLE, NOT_ACCEPTABLE}
    if route.body is not None:
        codes |= {BAD_JSON, BAD_PAYLOAD, 413, 415}
    by_status: dict[int, list[int]] = {}
    for code in sorted(codes):
        by_status.setdefault(code if code < 1000 else code // 100, []).append(code)
    return {
        str(status): {
            "description": f"error_code {' or '.join(map(str, found))}.",
            "content": {
                JSON: {
                    "schema": by_type[repr(ErrorBody)],
                    "example": {"error_code": found[0], "message": "what is wrong, and what to do"},
                }
            },
        }
        for status, found in by_status.items()
    }
