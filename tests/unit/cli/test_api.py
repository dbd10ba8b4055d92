"""The command line's HTTP client: what is repeated, what is not, and what people are told."""

import time

import pytest

from raftbroker.cli import api as api_module
from raftbroker.cli.api import Api, ApiError, NotReached
from raftbroker.cli.failure import CommandError
from tests.ports import free_port
from tests.unit.cli.scripted import Reply, serving

HEALTHY = b'{"is_healthy":true,"controller_id":1,"all_nodes":[1],"nodes_down":[],"leaderless_partitions":[],' + (
    b'"under_replicated_partitions":[]}'
)
NOT_NOW = Reply(503, b'{"error_code":50302,"message":"no leader yet"}')
UNKNOWN = Reply(500, b'{"error_code":50003,"message":"unknown outcome"}')
REFUSED = Reply(404, b'{"error_code":40401,"message":"There is no topic \'x\'; create it."}')
OFFSETS = Reply(body=b'{"offsets":[{"partition":0,"offset":7,"error_code":null,"error":null}]}')


def test_a_refusal_is_told_with_its_code_and_not_repeated() -> None:
    with serving(REFUSED) as server:
        with pytest.raises(ApiError, match=r"There is no topic 'x'; create it. \(error 40401\)") as caught:
            Api([server.url]).partitions("x")
        assert caught.value.code == 40401
        assert len(server.asked) == 1


def test_what_was_certainly_not_done_is_repeated_even_if_not_repeatable() -> None:
    with serving(NOT_NOW, Reply(429, b"{}"), Reply(204, b"")) as server:
        Api([server.url]).send("DELETE", "/v3/x")
        assert [asked.method for asked in server.asked] == ["DELETE"] * 3


def test_an_unknown_outcome_is_repeated_only_when_that_is_safe() -> None:
    with serving(UNKNOWN, OFFSETS) as server:
        report = Api([server.url]).produce("t", None, b"{}", "key-1", patience=10)
        assert report.offsets[0].offset == 7
        assert [asked.headers["Idempotency-Key"] for asked in server.asked] == ["key-1", "key-1"]
    with serving(UNKNOWN, Reply(204, b"")) as server:
        with pytest.raises(ApiError, match="unknown outcome"):
            Api([server.url]).send("POST", "/v3/x", [1])
        assert len(server.asked) == 1


def test_a_broken_connection_is_repeated_only_when_that_is_safe() -> None:
    broken = Reply(close_unanswered=True)
    with serving(broken, OFFSETS) as server:
        assert Api([server.url]).produce("t", 0, b"{}", "k", patience=10).offsets[0].offset == 7
        assert len(server.asked) == 2
    with serving(broken) as server:
        with pytest.raises(NotReached, match="Whether it was done is unknown"):
            Api([server.url]).send("POST", "/v3/x", [1])
        assert len(server.asked) == 1


def test_another_node_is_asked_when_one_is_not_there() -> None:
    with serving(Reply(body=HEALTHY)) as server:
        assert Api([f"http://127.0.0.1:{free_port()}", server.url]).health().is_healthy


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_REACH_SECONDS_MAX", 0.2)
    started = time.monotonic()
    with pytest.raises(NotReached, match=r"cannot reach a node at .*raftbroker dev.*--url"):
        Api([f"http://127.0.0.1:{free_port()}"]).health()
    assert time.monotonic() - started < 3


def test_patience_ends() -> None:
    with serving(*[NOT_NOW] * 100) as server, pytest.raises(ApiError, match="no leader yet"):
        Api([server.url], patience=0.3).health()


def test_what_is_no_node_is_recognised() -> None:
    with serving(Reply(400, b"<html>")) as server, pytest.raises(ApiError, match="is this a raftbroker node"):
        Api([server.url]).health()
    with serving(Reply(body=b'{"other": 1}')) as server, pytest.raises(CommandError, match="another version"):
        Api([server.url]).health()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http:///path"])
def test_a_url_that_cannot_be_one(url: str) -> None:
    with pytest.raises(CommandError, match="is not a URL of a node"):
        Api([url])


def test_a_connection_is_kept() -> None:
    with serving(Reply(body=HEALTHY), Reply(body=HEALTHY)) as server:
        api = Api([server.url])
        api.health()
        kept = api._local.kept[1].sock
        api.health()
        assert api._local.kept[1].sock is kept


def test_names_are_quoted() -> None:
    with serving(Reply(body=b"[]")) as server:
        Api([server.url]).partitions("a b/c")
        assert server.asked[0].path == "/topics/a%20b%2Fc/partitions"
