"""A node under the harness: what it notes of its disk, and that its waits bear a wrong clock."""

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from jepsen import disk_note, node
from jepsen.cluster import ROOT
from jepsen.cluster import Node as HarnessNode
from jepsen.faults.clock import Clock, library

# libfaketime reads its file again once the whole second has moved on by two, whenever in a second that began.
WAIT = """
import sys, time
from pathlib import Path
from jepsen.node import sleep
clock = Path(sys.argv[1])
sleep(0.01)
clock.write_text("-86400")
time.sleep = sleep
given_up = time.monotonic() + 10
while time.time() > float(sys.argv[2]) - 80_000:
    if time.monotonic() > given_up:
        sys.exit(3)
    time.sleep(0.05)
for _ in range(5):
    time.sleep(0.05)
"""


def harness_node(folder: Path) -> HarnessNode:
    made = HarnessNode(1, folder, "", "", "", {}, [])
    made.disk.mkdir()
    return made


def test_a_wait_lasts_as_long_as_it_is_told() -> None:
    began = time.monotonic()
    node.sleep(0.2)
    assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.skipif(library() is None, reason="libfaketime is not installed")
def test_a_wait_bears_a_clock_that_jumps(tmp_path: Path) -> None:
    victim = harness_node(tmp_path)
    Clock.prepare(victim)
    ended = subprocess.run(
        [sys.executable, "-c", WAIT, str(victim.disk / "clock"), str(time.time())],
        cwd=ROOT,
        env=dict(os.environ) | victim.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


# --- what a power loss takes ------------------------------------------------------------------------------------


def make_logs(folder: Path, **sizes: int) -> Path:
    database = folder / "rocksdb"
    database.mkdir()
    for name, size in sizes.items():
        (database / f"{name.removeprefix('log')}.log").write_bytes(b"x" * size)
    return database


def size_of(database: Path, name: str) -> int:
    return (database / f"{name}.log").stat().st_size


def test_a_power_loss_takes_nothing_that_was_synced(tmp_path: Path) -> None:
    database = make_logs(tmp_path, log000007=1000, log000009=500)
    disk_note.DurableNote(tmp_path).write(9, 300)
    for seed in range(20):
        disk_note.lose_power(database, tmp_path, Random(seed))
        assert size_of(database, "000007") == 1000
        assert 300 <= size_of(database, "000009") <= 500


def test_a_power_loss_may_take_all_that_was_not(tmp_path: Path) -> None:
    database = make_logs(tmp_path, log000009=500, log000011=80)
    disk_note.DurableNote(tmp_path).write(9, 300)
    assert disk_note.lose_power(database, tmp_path, Random(1), all_of_it=True) == 280
    assert (size_of(database, "000009"), size_of(database, "000011")) == (300, 0)


def test_logs_behind_one_that_lost_something_are_lost_whole(tmp_path: Path) -> None:
    database = make_logs(tmp_path, log000009=500, log000011=80)
    disk_note.DurableNote(tmp_path).write(9, 300)
    lost = disk_note.lose_power(database, tmp_path, Random(3))
    assert lost > 80
    assert size_of(database, "000011") == 0


def test_without_a_note_nothing_is_taken(tmp_path: Path) -> None:
    database = make_logs(tmp_path, log000009=500)
    assert disk_note.lose_power(database, tmp_path, Random(1), all_of_it=True) == 0


def test_the_harness_notes_what_is_durable_before_the_node_does(tmp_path: Path) -> None:
    """Else a power loss between the two could take what the node has noted, and it would refuse to start."""
    script = """
import sys
from pathlib import Path
from jepsen import node
from raftbroker.storage import watermark
folder = Path(sys.argv[1])
original = watermark.Watermark._note
def noting(self):
    known = (folder / "durable").read_bytes() if (folder / "durable").exists() else b""
    number, size = int.from_bytes(known[:8], "little"), int.from_bytes(known[8:], "little")
    assert (number, size) >= (self._wal.number, self._wal.settled), (number, size, self._wal.number, self._wal.settled)
    noting.count += 1
    original(self)
noting.count = 0
watermark.Watermark._note = noting
node.watch_disk(folder)
from raftbroker.storage.rocks import RocksEngine, RocksOptions
from raftbroker.storage.engine import Batch
note = folder / "synced"
watermark.make_note(note)
engine = RocksEngine(folder / "rocksdb", RocksOptions(), create=True, note=note)
for number in range(20):
    batch = Batch()
    batch.put("node", b"key", bytes(100 * number))
    engine.write(batch)
    engine.sync()
engine.close()
assert noting.count >= 20, noting.count
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
