"""`raftbroker dev`: its files and ports, and real node processes that come and go with it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftbroker.cli.dev import (
    LOG_BYTES_MAX,
    child_environment,
    describe_exit,
    last_line,
    locked,
    node_toml,
    plan_node,
    prepare,
    rotate_log,
)
from raftbroker.cli.failure import CommandError
from raftbroker.config import load
from tests.ports import free_offset


def test_ports_and_files_are_where_the_design_says(tmp_path: Path) -> None:
    plan = plan_node(2, tmp_path, 100)
    assert (plan.http, plan.kafka, plan.peers) == ("127.0.0.1:8183", "127.0.0.1:9193", "127.0.0.1:7183")
    assert plan.pid_file == tmp_path / "node-2" / "node.pid"
    assert plan.log_file == tmp_path / "node-2" / "node.log"


def test_every_node_gets_a_configuration_that_loads(tmp_path: Path) -> None:
    plans, _ = prepare(tmp_path, 3, 0)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    configs = [load(plan.config_file, [], {}) for plan in plans]
    assert {config.node.id for config in configs} == {1, 2, 3}
    assert len({config.peers.secret for config in configs}) == 1
    assert all(config.peers.secret for config in configs)
    assert configs[0].cluster.initial_members == {number: f"127.0.0.1:{7081 + number}" for number in (1, 2, 3)}


def test_started_again_it_is_the_same_cluster_and_more_nodes_join(tmp_path: Path) -> None:
    prepare(tmp_path, 1, 7)
    secret = (tmp_path / "secret").read_text()
    plans, formation = prepare(tmp_path, 3, 7)
    assert formation.initial == 1
    assert (tmp_path / "secret").read_text() == secret
    first, second, third = (load(plan.config_file, [], {}).cluster for plan in plans)
    assert first.initial == ("1@127.0.0.1:7089",)
    assert second.join == third.join == ("127.0.0.1:7089",)
    with pytest.raises(CommandError, match="--port-offset 7"):
        prepare(tmp_path, 3, 8)


def test_fewer_nodes_than_formed_it_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path, 3, 0)
    with pytest.raises(CommandError, match="that 3 nodes formed"):
        prepare(tmp_path, 1, 0)
    (tmp_path / "cluster.json").write_text("[]")
    with pytest.raises(CommandError, match="is not what `raftbroker dev` wrote"):
        prepare(tmp_path, 3, 0)


def test_paths_with_quotes_survive(tmp_path: Path) -> None:
    directory = tmp_path / 'a "b"'
    directory.mkdir()
    plan = plan_node(1, directory, 0)
    path = tmp_path / "node.toml"
    path.write_text(node_toml(plan, 1, tmp_path / "secret", [plan]))
    (tmp_path / "secret").write_text("x" * 20)
    assert load(path, [], {}).node.data_dir == directory / "node-1" / "data"


def test_two_of_them_in_one_directory_exclude_each_other(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(CommandError, match="another `raftbroker dev`"), locked(tmp_path):
        pass


def test_the_environment_cannot_make_all_nodes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTBROKER_NODE__ID", "1")
    monkeypatch.setenv("RAFTBROKER_HTTP__LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("RAFTBROKER_RAFT__LOG_ENTRIES_MAX", "50")
    environment = child_environment()
    assert "RAFTBROKER_NODE__ID" not in environment
    assert "RAFTBROKER_HTTP__LISTEN" not in environment
    assert environment["RAFTBROKER_RAFT__LOG_ENTRIES_MAX"] == "50"


def test_logs_are_bounded_and_their_end_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    rotate_log(log)
    log.write_text("")
    assert str(log) in last_line(log)
    log.write_bytes(b"x" * LOG_BYTES_MAX + b"\nthe end\n")
    assert last_line(log) == "the end"
    rotate_log(log)
    assert not log.exists()
    assert (tmp_path / "node.log.1").exists()


def test_exits_are_described() -> None:
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(3) == "ended with status 3"


# --- with real node processes ---------------------------------------------------------------------------


class Dev:
    def __init__(self, directory: Path, offset: int, *arguments: str) -> None:
        self.directory = directory
        self.offset = offset
        self.output = directory.with_suffix(".out")
        command = [sys.executable, "-c", "from raftbroker.cli import main; main()", "dev"]
        command += [] if "--nodes" in arguments else ["--nodes", "1"]
        command += ["--data", str(directory), "--port-offset", str(offset), *arguments]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def node_pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return int((self.directory / "node-1" / "node.pid").read_text())
        return None

    def until_said(self, words: str) -> None:
        until(lambda: words in self.said, lambda: f"{words!r} was not said in: {self.said}")

    def until_ready(self) -> int:
        self.until_said("1 node ready in")
        pid = self.node_pid()
        assert pid is not None
        return pid


def until(condition: Callable[[], object], otherwise: Callable[[], str], seconds: float = 25.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent counts as gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def offset() -> int:
    return free_offset([7082, 8082, 9092])


@pytest.fixture
def start(tmp_path: Path, offset: int) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def begin(*arguments: str, data: str = "dev") -> Dev:
        started.append(Dev(tmp_path / data, offset, *arguments))
        return started[-1]

    yield begin
    for dev in started:
        if dev.process.poll() is None:
            dev.process.kill()
        dev.process.wait(10)


@pytest.mark.cluster
def test_a_killed_node_is_started_again_and_sigterm_ends_everything(start: Callable[..., Dev]) -> None:
    dev = start()
    first = dev.until_ready()
    os.kill(first, signal.SIGKILL)
    dev.until_said("node 1 was ended by SIGKILL")
    dev.until_said("node 1 is started again")
    until(lambda: dev.node_pid() not in (None, first), lambda: dev.said)
    second = dev.node_pid()
    assert second is not None
    dev.process.terminate()
    assert dev.process.wait(20) == 0
    assert not alive(second)
    assert dev.node_pid() is None


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_nodes_die_with_a_killed_parent_and_the_cluster_starts_again(start: Callable[..., Dev]) -> None:
    dev = start()
    pid = dev.until_ready()
    dev.process.kill()
    dev.process.wait()
    until(lambda: not alive(pid), lambda: f"node process {pid} outlived its parent", 5)
    dev.output.unlink()
    again = start("--no-restart")
    pid = again.until_ready()
    os.kill(pid, signal.SIGKILL)
    again.until_said("no node is left to run")
    assert again.process.wait(10) == 1


@pytest.mark.cluster
def test_a_taken_port_ends_it_with_the_reason(start: Callable[..., Dev], offset: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 8082 + offset))
        taken.listen()
        dev = start()
        assert dev.process.wait(20) == 1
    assert f"http.listen: 127.0.0.1:{8082 + offset} is in use" in dev.said
