"""`raftbroker queue ...` against a real node."""

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raftbroker.cli.app import app
from raftbroker.cli.failure import CommandError
from raftbroker.config import load
from raftbroker.node import Node
from tests.http.harness import LoopThread
from tests.ports import free_port

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
_names = count(1)


async def _start(directory: Path) -> Node:
    sets = [
        f"node.data_dir={directory}",
        *(f"{door}.listen=127.0.0.1:{free_port()}" for door in ("http", "kafka", "peers")),
    ]
    node = Node(load(None, sets, {}))
    await node.start()
    assert node.core is not None
    async with asyncio.timeout(30):
        while not node.core.broker.readiness().ready or len(node.core.broker.shards.led()) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return node


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    thread = LoopThread()
    node = thread.run(_start(tmp_path_factory.mktemp("queue")))
    yield f"http://{node.config.http.listen}"
    thread.run(node.stop())
    thread.stop()


@pytest.fixture
def queue(url: str) -> str:
    name = f"queue-{next(_names)}"
    run(url, "create", name)
    return name


def run(url: str, *arguments: str, stdin: str | None = None) -> str:
    result = RUNNER.invoke(app, ["queue", *arguments, "--url", url], input=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def told(url: str, *arguments: str) -> str:
    """With what is said beside the answer."""
    result = RUNNER.invoke(app, ["queue", *arguments, "--url", url])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def fails(url: str, *arguments: str) -> str:
    result = RUNNER.invoke(app, ["queue", *arguments, "--url", url])
    assert isinstance(result.exception, CommandError), result.output
    return str(result.exception)


def of_json(text: str) -> Any:
    return json.loads(text)


def test_queues_are_made_changed_shown_and_deleted(url: str) -> None:
    shown = run(url, "create", "orders", "-c", "dead.letter.queue=orders-dead", "-c", "ordered.by.key=true")
    assert "orders-dead" in shown
    made = of_json(run(url, "create", "orders", "-c", "lock.ms=60000", "-c", "dead.letter.queue=", "--json"))
    assert made["configs"]["lock.ms"] == 60_000
    assert made["configs"]["dead.letter.queue"] is None
    assert made["configs"]["ordered.by.key"] is True
    assert "orders" in run(url, "list")
    assert "since it was made" in run(url, "list", "orders")
    assert {"orders", "orders-dead"} <= {one["name"] for one in of_json(run(url, "list", "--json"))}
    assert "say --yes" in fails(url, "delete", "orders")
    assert run(url, "delete", "orders", "--yes") == "deleted orders\n"
    assert "40406" in fails(url, "list", "orders")


def test_wrong_configs_are_named(url: str, queue: str) -> None:
    assert "lock.ms" in fails(url, "create", queue, "-c", "lock.ms=0")
    assert "NAME=VALUE" in fails(url, "create", queue, "-c", "lock.ms")


def test_messages_from_arguments_file_and_input(url: str, queue: str, tmp_path: Path) -> None:
    assert run(url, "send", queue, "one", "two").startswith(f"sent 2 messages to {queue} in ")
    path = tmp_path / "lines.txt"
    path.write_bytes("drei\nvi\xe9r\n".encode() + b"\xff\n")
    summary = of_json(run(url, "send", queue, "--file", str(path), "--batch", "2", "--json"))
    assert (summary["sent"], summary["duplicates"]) == (3, 0)
    run(url, "send", queue, "--file", "-", stdin="six\nseven\n")
    result = RUNNER.invoke(app, ["queue", "receive", queue, "--max", "100", "--url", url])
    assert result.stdout_bytes == "one\ntwo\ndrei\nvi\xe9r\n".encode() + b"\xff\nsix\nseven\n"
    assert of_json(run(url, "list", queue, "--json"))[0]["totals"]["acknowledged"] == 7
    assert "choose one" in fails(url, "send", queue, "x", "--file", str(path))
    assert "cannot read" in fails(url, "send", queue, "--file", str(tmp_path / "none"))


def test_json_messages_with_all_that_goes_with_them(url: str, queue: str) -> None:
    more = ["--key", "k", "-H", "source=cli", "--priority", "9", "--ttl", "60000", "--receipt", "told"]
    run(url, "send", queue, "--format", "json", '{"n": 1}', *more)
    assert "is not JSON" in fails(url, "send", queue, "--format", "json", "{")
    assert "text or json" in fails(url, "send", queue, "--format", "xml", "x")
    assert "NAME=VALUE" in fails(url, "send", queue, "x", "-H", "source")
    message = of_json(run(url, "receive", queue, "--json", "--consumer", "me"))
    assert (message["body"], message["key"], message["headers"]) == ({"n": 1}, "k", {"source": "cli"})
    told = of_json(run(url, "receive", "told", "--wait", "20")) if wait_for(url, "told") else {}
    assert (told["state"], told["consumer"]) == ("consumed", "me")


def wait_for(url: str, queue: str) -> bool:
    """A reply queue is made when the first receipt comes."""
    return any(queue in {one["name"] for one in of_json(run(url, "list", "--json"))} for _ in range(200))


def test_messages_that_are_not_acknowledged_come_again(url: str, queue: str) -> None:
    run(url, "send", queue, "again")
    assert run(url, "receive", queue, "--no-ack", "--lock", "300") == "again\n"
    assert run(url, "receive", queue, "--wait", "20") == "again\n"
    assert run(url, "receive", queue, "--wait", "0") == ""


def test_a_lock_that_ran_out_before_the_acknowledgement_is_told(
    url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from raftbroker.cli import queue_messages

    monkeypatch.setattr(queue_messages, "_write", lambda message, json: time.sleep(1.5))
    run(url, "send", queue, "slow")
    assert "not acknowledged" in fails(url, "receive", queue, "--lock", "50")


def test_peek_redrive_and_purge(url: str) -> None:
    run(url, "create", "strict", "-c", "max.deliveries=1")
    run(url, "send", "strict", "bad", "good")
    assert "bad" in run(url, "peek", "strict")
    run(url, "receive", "strict", "--no-ack", "--lock", "50")
    for _ in range(200):
        dead = of_json(run(url, "peek", "strict", "--dead", "--json"))
        if dead:
            break
    assert [message["body_base64"] for message in dead] == ["YmFk"]
    assert "bad" in run(url, "peek", "strict", "--dead")
    assert run(url, "redrive", "strict") == "1 message brought back to strict\n"
    assert run(url, "redrive", "strict", "--max", "5") == "0 messages brought back to strict\n"
    run(url, "create", "strict", "-c", "dead.letter.queue=elsewhere")
    assert "raftbroker queue peek elsewhere" in told(url, "peek", "strict", "--dead")
    assert "say --yes" in fails(url, "purge", "strict")
    assert run(url, "purge", "strict", "--yes") == "dropped 2 messages of strict\n"
