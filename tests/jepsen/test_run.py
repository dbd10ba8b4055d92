"""Whole runs on three nodes of one's own: one that must be valid, one with a bug that must be found, one that says
nothing. What each leaves behind, and with which status it ends."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jepsen.__main__ import app
from jepsen.cluster import ROOT
from jepsen.report import write_all
from jepsen.store import read_json

RUN_SECONDS_MAX = 180

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Ran:
    """`folder` is the run's own."""

    status: int
    said: str
    folder: Path

    @property
    def results(self) -> dict[str, object]:
        return read_json(self.folder / "results.json")


RUNS = {
    "sound": (
        *("--workload=log", "--sub-via=subscribe", "--faults=kill:one", "--hold=2", "--quiet=1.5"),
        *("--time-limit=10", "--seed=7"),
    ),
    "planted": ("--workload=log", "--faults=none", "--time-limit=6", "--plant=duplicate-gets-new-offset"),
    "nothing": ("--workload=register", "--faults=none", "--time-limit=1", "--rate=1", "--concurrency=1"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """All at once: most of the time each waits for its own cluster, and by the clock."""
    stores = {name: tmp_path_factory.mktemp(name) for name in RUNS}
    usual = [sys.executable, "-m", "jepsen", "test", "--rate=50", "--concurrency=6"]
    processes = {
        name: subprocess.Popen(
            [*usual, f"--store={stores[name]}", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for name, options in RUNS.items()
    }
    try:
        said = {name: process.communicate(timeout=RUN_SECONDS_MAX)[0] for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    return {name: Ran(processes[name].returncode, said[name], folder_of(stores[name])) for name in RUNS}


def folder_of(store: Path) -> Path:
    """Of the one run in it, or of none that came to be."""
    return next((path.parent for path in store.glob("*/*/test.json")), store)


@pytest.fixture(scope="module")
def sound(runs: dict[str, Ran]) -> Ran:
    """The broker as it is, while nodes are killed."""
    return runs["sound"]


def test_a_sound_broker_passes(sound: Ran) -> None:
    assert sound.status == 0, sound.said
    assert sound.results["valid"] is True
    assert sound.results["problems"] == {}
    assert "valid: " in sound.said


def test_nodes_were_killed_and_clients_served(sound: Ran) -> None:
    figures = sound.results["availability"]
    assert isinstance(figures, dict)
    assert [kind["fault"] for kind in figures["by_kind"]] == ["kill:one"]
    assert all(fault["detail"].startswith("nodes [") for fault in figures["faults"])
    assert figures["ok_share"] > 0.5
    assert any(kind["writable_after_end_max"] is not None for kind in figures["by_kind"])


def test_the_folder_has_all_there_is_to_know(sound: Ran) -> None:
    names = {path.name for path in sound.folder.iterdir()}
    pictures = {"latency.png", "rate.png", "availability.png", "lag.png", "timeline.html"}
    logs = {f"node-{number}.log" for number in (1, 2, 3)}
    assert names == {"history.edn", "results.json", "test.json", "index.html", "raft.jsonl"} | pictures | logs
    assert all((sound.folder / name).stat().st_size for name in names)
    about = read_json(sound.folder / "test.json")
    assert about["options"]["seed"] == 7  # type: ignore[index]
    assert {"versions", "settings", "commit", "command", "machine"} <= about.keys()


def test_what_was_not_done_is_said(sound: Ran) -> None:
    remark = "subscribe over HTTP: those clients are assigned their partitions"
    assert sound.results["skipped"] == {"workload log": remark}
    assert f"skipped workload log: {remark}" in sound.said


def test_judging_its_history_again_says_the_same(sound: Ran) -> None:
    command = [sys.executable, "-m", "jepsen", "check", str(sound.folder / "history.edn")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_all_runs_stand_on_one_page(sound: Ran) -> None:
    page = write_all(sound.folder.parents[1]).read_text()
    assert f'href="{sound.folder.parent.name}/{sound.folder.name}/index.html"' in page
    assert '<td class="valid">valid' in page


def test_a_planted_bug_is_found(runs: dict[str, Ran]) -> None:
    ran = runs["planted"]
    assert ran.status == 1, ran.said
    assert "duplicate" in ran.results["bad"], ran.results["bad"]  # type: ignore[operator]
    assert "anomalies: " in ran.said


def test_a_run_that_says_nothing_does_not_pass(runs: dict[str, Ran]) -> None:
    ran = runs["nothing"]
    assert ran.status == 2, ran.said
    assert ran.results["valid"] is None
    assert "could not tell: only" in ran.said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--workload=logs"], "'logs' is none of log, txn"),
        (["--faults=kil"], "there is no fault 'kil'"),
        (["--faults=kill:most"], "kill has no variant 'most'"),
        (["--plant=none-such"], "'none-such' is none of reply-before-commit"),
        (["--fault-command=kill=true"], "are of a cluster that runs already"),
        (["--url=http://127.0.0.1:1", "--workload=txn"], "txn's clients need host:port of each of the 1 nodes"),
        (["--url=http://127.0.0.1:1", "--faults=clock"], "there is no fault 'clock'"),
    ],
)
def test_options_that_cannot_be_had_are_refused(tmp_path: Path, options: list[str], reason: str) -> None:
    ended = CliRunner().invoke(app, ["test", f"--store={tmp_path}", *options])
    assert ended.exit_code == 2
    assert reason in " ".join(ended.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
