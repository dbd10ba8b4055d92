"""`raftbroker server`: what stops it from starting, how that is told, and how it logs."""

import json
import logging
import subprocess
import sys
from pathlib import Path

from raftbroker.cli.server import EXIT_CONFIG, JsonFormatter, TextFormatter, port_message
from raftbroker.config import Config, load


def test_a_bad_configuration_is_told_and_has_its_own_status(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[node]\nid = 0\n[raft]\nheartbeat = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "raftbroker.cli.server", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == EXIT_CONFIG
    assert "configuration: node.id" in done.stderr
    assert "did you mean raft.heartbeat_ms?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_loads_neither_typer_nor_rich() -> None:
    code = "import sys, raftbroker.cli.server; print(*sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == ""


def test_a_taken_port_is_told_by_its_key() -> None:
    config = load(None, ["http.listen=127.0.0.1:9999"], {})
    asyncio_says = "[Errno 98] error while attempting to bind on address ('127.0.0.1', 9999): address already in use"
    assert port_message(config, asyncio_says).startswith("http.listen: 127.0.0.1:9999 is in use")
    transport_says = "[Errno 98] cannot listen for peers on 127.0.0.1:7082: Address already in use"
    assert port_message(Config(), transport_says).startswith("peers.listen: 127.0.0.1:7082 is in use")
    assert "in use" in port_message(Config(), "who knows")


def test_log_lines() -> None:
    record = logging.LogRecord("raftbroker.node", logging.WARNING, "f", 1, "it is %d", (3,), None)
    record.created = 1795341600.25
    assert TextFormatter().format(record) == "2026-11-22T10:00:00.250Z WARNING raftbroker.node: it is 3"
    line = json.loads(JsonFormatter().format(record))
    assert line == {
        "time": "2026-11-22T10:00:00.250Z",
        "level": "warning",
        "logger": "raftbroker.node",
        "message": "it is 3",
    }


def test_a_parent_that_is_gone_already_ends_the_child() -> None:
    code = (
        "import sys; sys.argv = ['x', '--parent', '999999']; from raftbroker.cli.server import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
