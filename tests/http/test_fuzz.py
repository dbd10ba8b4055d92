"""Whatever a client sends, the answer is never a 500: random paths, headers, parameters and bodies.

Over a stand-in, where the encoding is met at its fastest, and over a real node."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftbroker.http.app import ROUTES
from tests.http.harness import BINARY_V2, JSON, JSON_V2, STRING_V2, Client, LoopThread, door
from tests.http.stand_in import StandIn


class Target:
    """A front door under fuzz; its topic is made again when a request deletes it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.cluster = client.get("/v3/clusters").json["data"][0]["cluster_id"]
        self.renew()

    def renew(self) -> None:
        self.client.post(f"/v3/clusters/{self.cluster}/topics", {"topic_name": "orders", "partitions_count": 3})


@pytest.fixture(scope="module", params=["stand-in", "node"])
def target(request: pytest.FixtureRequest, thread: LoopThread) -> Iterator[Target]:
    broker = StandIn({"one": 1}) if request.param == "stand-in" else request.getfixturevalue("real_broker")
    with door(thread, broker, poll_ms_max=5) as client:
        yield Target(client)


text = st.text(max_size=12)
names = st.sampled_from(["orders", "one", "stand-in", "0", "1", "retention.ms"]) | text.map(lambda t: quote(t, safe=""))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("records", "entries", "data", "topic_name", "partitions_count", "configs", "value", "key", "before_offset")
RECORD_FIELDS = (
    "value", "key", "partition", "partition_id", "headers", "timestamp", "id", "type", "data", "name",
    "producer_id", "producer_epoch", "sequence", "operation",
)  # fmt: skip
inner = st.dictionaries(
    st.sampled_from(RECORD_FIELDS),
    json_values | st.dictionaries(st.sampled_from(RECORD_FIELDS), json_values, max_size=2),
    max_size=4,
)
bodies = (
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(FIELDS), st.lists(inner, max_size=3) | inner | json_values, max_size=3).map(
        lambda value: json.dumps(value).encode()
    )
    | inner.map(lambda value: json.dumps(value).encode())
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30)
headers = st.dictionaries(
    st.sampled_from(["Accept", "Idempotency-Key", "X-Request-Id", "Host", "Content-Encoding", "Expect", "Range"]),
    header_values,
    max_size=3,
)
media = st.sampled_from([JSON, JSON_V2, BINARY_V2, STRING_V2, "text/plain"]) | header_values
queries = st.dictionaries(
    st.sampled_from(["offset", "timeout", "max_bytes", "max_records", "timestamp", "target"]),
    st.integers(-5, 2**64).map(str) | text | st.sampled_from(["earliest", "latest"]),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, Any, dict[str, str], str]:
    route = draw(st.sampled_from(ROUTES))
    path = route.path
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        if path[start : end + 1] == "{cluster_id}" and draw(st.integers(0, 9)):
            path = path.replace("{cluster_id}", "CLUSTER")
            continue
        usual = {"{topic_name}": "orders", "{partition_id}": "0"}.get(path[start : end + 1], "1")
        path = path[:start] + (draw(names) if draw(st.integers(0, 4)) == 0 else usual) + path[end + 1 :]
    query = "&".join(f"{name}={quote(value)}" for name, value in draw(queries).items())
    method = (
        route.method if draw(st.integers(0, 9)) else draw(st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "BREW"]))
    )
    return method, path + ("?" + query if query else ""), draw(st.none() | bodies), draw(headers), draw(media)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(requests())
def test_no_request_gets_a_500(target: Target, request: tuple[str, str, Any, dict[str, str], str]) -> None:
    method, path, body, more, type_ = request
    path = path.replace("CLUSTER", target.cluster)
    answer = target.client.ask(method, path, body, {name: value.strip() for name, value in more.items()}, type_.strip())
    assert answer.status < 500, answer
    if method == "DELETE" and answer.status == 204:
        target.renew()
    if answer.status >= 400 and answer.headers.get("content-type") == JSON:
        assert str(answer.code).startswith(str(answer.status))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200))
def test_bytes_that_are_not_http_do_not_hurt(client: Client, data: bytes) -> None:
    with client.raw() as connection:
        connection.sendall(data + b"\r\n\r\n")
        connection.shutdown(1)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), answer
