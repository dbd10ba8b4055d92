"""Every command explains itself, and the whole program's exit statuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from raftbroker.cli.app import app
from raftbroker.config import KEYS
from tests.ports import free_port

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def commands(typer_app: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in typer_app.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__.replace("_", "-"))
    for group in typer_app.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, (*path, str(group.name)))


def raftbroker(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftbroker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=cwd)


@pytest.mark.parametrize("command", list(commands(app)), ids=" ".join)
def test_help_has_examples_and_explains_every_option(command: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert f"raftbroker {' '.join(command)}" in result.stdout.split("Example", 1)[1]


def test_the_commands_are_those_that_were_promised() -> None:
    assert {" ".join(command) for command in commands(app)} == {
        "dev",
        "server",
        "produce",
        "consume",
        *(
            f"topic {name}"
            for name in ("create", "list", "describe", "alter", "delete", "add-partitions", "delete-records")
        ),
        *(f"group {name}" for name in ("list", "describe", "reset-offsets", "delete")),
        *(f"queue {name}" for name in ("create", "list", "send", "receive", "peek", "redrive", "purge", "delete")),
        *(f"webhook {name}" for name in ("create", "list", "describe", "pause", "resume", "delete")),
        *(f"cluster {name}" for name in ("status", "health")),
        *(f"node {name}" for name in ("list", "show", "transfer")),
        *(f"config {name}" for name in ("template", "show")),
    }


def test_exit_statuses() -> None:
    assert raftbroker("--version").stdout.startswith("raftbroker 0.")
    wrong = raftbroker("topic", "delete", "t", "--url", f"http://127.0.0.1:{free_port()}")
    assert wrong.returncode == 1
    assert "say --yes" in wrong.stderr
    assert raftbroker("topic", "create").returncode == 2
    bad = raftbroker("config", "show", "--set", "raft.heartbeat_ms=1")
    assert bad.returncode == 2
    assert bad.stderr == "raftbroker: raft.heartbeat_ms (--set): 1 is too small; it must be 10 to 10000\n"


def test_config_template_can_be_used_and_shown(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["config", "template", "--set", "node.id=2"])
    path = tmp_path / "node.toml"
    path.write_text(result.stdout)
    shown = RUNNER.invoke(app, ["config", "show", "--config", str(path), "--json", "--set", "raft.heartbeat_ms=99"])
    documents = {document["key"]: document for document in json.loads(shown.stdout)}
    assert list(documents) == list(KEYS)
    assert documents["node.id"]["value"] == 2
    assert documents["node.id"]["origin"] == str(path)
    assert documents["raft.heartbeat_ms"]["value"] == 99
    assert documents["raft.heartbeat_ms"]["default"] == 200
    assert documents["raft.heartbeat_ms"]["origin"] == "--set"


def test_config_show_keeps_the_secret() -> None:
    for arguments in (["--json"], []):
        shown = RUNNER.invoke(
            app, ["config", "show", *arguments], env={"RAFTBROKER_PEERS__SECRET": "correct horse battery"}
        )
        assert shown.exit_code == 0
        assert "horse" not in shown.output
