"""`raftbroker webhook ...` against a real node."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raftbroker.cli.app import app
from raftbroker.cli.failure import CommandError
from tests.http.harness import LoopThread
from tests.unit.cli.test_queue import _start

RUNNER = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})
SECRET = "f00dfeedf00dfeedf00d"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    thread = LoopThread()
    node = thread.run(_start(tmp_path_factory.mktemp("webhook")))
    assert node.core is not None
    thread.run(node.core.broker.create_topic("orders", 2, 1))
    yield f"http://{node.config.http.listen}"
    thread.run(node.stop())
    thread.stop()


def run(url: str, *arguments: str, stdin: str | None = None) -> str:
    result = RUNNER.invoke(app, ["webhook", *arguments, "--url", url], input=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def fails(url: str, *arguments: str) -> str:
    result = RUNNER.invoke(app, ["webhook", *arguments, "--url", url])
    assert isinstance(result.exception, CommandError)
    return str(result.exception)


def test_a_webhooks_life(url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    to = "https://93.184.216.34/hook"
    made = run(url, "create", "billing", "--topic", "orders", "--to", to, "--secret-file", str(secret), "--latest")
    assert "topic orders" in made
    assert SECRET not in made
    run(url, "pause", "billing")
    shown = json.loads(run(url, "describe", "billing", "--json"))
    assert (shown["state"], shown["batch_size"]) == ("paused", 100)
    assert "7" in run(url, "create", "billing", "--batch-size", "7")
    listed = json.loads(run(url, "list", "--json"))
    assert [(one["name"], one["batch_size"], one["url"]) for one in listed] == [("billing", 7, to)]
    assert "billing" in run(url, "list")
    assert "resumed billing" in run(url, "resume", "billing")
    assert "--yes" in fails(url, "delete", "billing")
    assert "deleted billing" in run(url, "delete", "billing", "--yes")
    assert json.loads(run(url, "list", "--json")) == []
    assert "no webhook billing" in fails(url, "describe", "billing")


def test_the_secret_comes_from_standard_input_or_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    to = ("--to", "https://93.184.216.34/")
    assert "secret" in fails(url, "create", "one", "--topic", "orders", *to)
    run(url, "create", "one", "--topic", "orders", *to, "--secret-file", "-", stdin=SECRET)
    monkeypatch.setenv("RAFTBROKER_WEBHOOK_SECRET", SECRET)
    run(url, "create", "two", "--topic", "orders", *to)
    for name in ("one", "two"):
        run(url, "delete", name, "--yes")


def test_refusals_say_what_to_do(url: str, tmp_path: Path) -> None:
    assert "cannot be read" in fails(url, "create", "x", "--secret-file", str(tmp_path / "none"))
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    refused = fails(url, "create", "x", "--topic", "orders", "--to", "http://127.0.0.1/", "--secret-file", str(secret))
    assert "url leads to an address that is refused" in refused
    assert SECRET not in refused
