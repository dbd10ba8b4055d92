"""`raftbroker group ...` against a node in this process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.cli.app import app
from raftbroker.cli.failure import CommandError
from raftbroker.cli.group import PlaceToReset, parse_places
from raftbroker.config import load
from raftbroker.node import Node
from tests.http.harness import LoopThread
from tests.ports import free_port
from tests.unit.broker.nodes import batch_of, until

EPOCH_MS = 1_700_000_000_000
RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


async def _start(directory: Path) -> Node:
    sets = [f"{door}.listen=127.0.0.1:{free_port()}" for door in ("http", "kafka", "peers")]
    node = Node(load(None, [*sets, f"node.data_dir={directory}"], {}))
    await node.start()
    assert node.core is not None
    broker = node.core.broker
    await until(lambda: broker.readiness().ready and broker.consumer_groups.elected("billing"))
    await until(lambda: broker.consumer_groups.leads("billing"))
    await broker.create_topic("orders", 2, 1)
    for number in range(4):
        await broker.produce("orders", 0, batch_of(b"x", timestamp=EPOCH_MS + 1_000 * number))
    done = await broker.consumer_groups.commit("billing", [OffsetToCommit("orders", 0, 1)])
    assert done.error is None
    return node


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    thread = LoopThread()
    node = thread.run(_start(tmp_path_factory.mktemp("group")))
    yield f"http://{node.config.http.listen}"
    thread.run(node.stop())
    thread.stop()


def run(url: str, *arguments: str) -> str:
    result = RUNNER.invoke(app, ["group", *arguments, "--url", url])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_group_from_the_command_line(url: str) -> None:
    assert "billing" in run(url, "list")
    assert json.loads(run(url, "list", "--json"))[0]["consumer_group_id"] == "billing"
    assert "empty, classic, 0 members, 3 behind in all" in run(url, "describe", "billing")
    described = json.loads(run(url, "describe", "billing", "--json"))
    assert [(one["partition_id"], one["lag"]) for one in described["partitions"]] == [(0, 3)]

    def reset(*arguments: str) -> list[tuple[int, int | None, int]]:
        shown = json.loads(run(url, "reset-offsets", "billing", *arguments, "--json"))
        return [(one["partition_id"], one["before"], one["after"]) for one in shown["offsets"]]

    assert reset("--to-latest", "--dry-run") == [(0, 1, 4)]
    assert reset("--to-time", str(EPOCH_MS + 2_000)) == [(0, 1, 2)]
    assert reset("--shift", "-1") == [(0, 2, 1)]
    assert reset("--to-offset", "9", "--topic", "orders:1") == [(1, None, 0)]
    assert reset("--to-earliest", "--topic", "orders") == [(0, 1, 0), (1, 0, 0)]
    assert "reset billing in 2 partitions" in run(url, "reset-offsets", "billing", "--to-latest")
    assert run(url, "delete", "billing", "--yes") == "deleted billing\n"
    assert "billing" not in run(url, "list")


@pytest.mark.parametrize("arguments", [(), ("--to-earliest", "--to-latest")])
def test_a_reset_says_where_to(url: str, arguments: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, ["group", "reset-offsets", "billing", *arguments, "--url", url])
    assert isinstance(result.exception, CommandError)
    assert "exactly one of" in str(result.exception)


def test_places() -> None:
    assert parse_places(None) == (None, None)
    assert parse_places(["a", "b:3"]) == (["a"], [PlaceToReset("b", 3)])
    with pytest.raises(CommandError, match="TOPIC:PARTITION"):
        parse_places(["a:x"])
