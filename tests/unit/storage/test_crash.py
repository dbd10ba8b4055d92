"""A process that writes and syncs is killed, again and again: all that it said was synced is there."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raftbroker.storage import open_store
from tests.unit.storage.conftest import OPTIONS
from tests.unit.storage.helpers import create
from tests.unit.storage.test_damage import age_note, step_entry, step_write

ROUNDS = 6


def write_until_killed(directory: Path) -> None:
    """Says each index once it is synced."""
    store, _ = open_store(directory, OPTIONS)
    if not store.groups():
        store.write([create()])
    index = store.load(1).last_index
    while True:
        index += 1
        store.write([step_write(1, index)])
        store.sync()
        sys.stdout.write(f"{index}\n")
        sys.stdout.flush()


def run_and_kill(directory: Path, seconds: float) -> int:
    """The last index that the process said was synced."""
    code = f"from tests.unit.storage.test_crash import *; write_until_killed(Path({str(directory)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    with contextlib.closing(process.stdout):
        lines = (said + process.stdout.read()).split(b"\n")
    process.wait()
    return int(lines[-2])


def write_a_little(directory: Path) -> None:
    """Ends without closing: what recovery has just replaced is the newest there is."""
    store, _ = open_store(directory, OPTIONS)
    if not store.groups():
        store.write([create()])
    index = store.load(1).last_index
    for step in range(index + 1, index + 4):
        store.write([step_write(1, step)])
        store.sync()
    os._exit(0)


@pytest.mark.parametrize("noted", [True, False])
def test_a_crash_right_after_recovery_is_not_taken_for_damage(noted: bool, tmp_path: Path) -> None:
    code = f"from tests.unit.storage.test_crash import *; write_a_little(Path({str(tmp_path)!r}))"
    for _ in range(ROUNDS):
        subprocess.run([sys.executable, "-c", code], check=True)
        if not noted:
            age_note(tmp_path)
    store, _ = open_store(tmp_path, OPTIONS)
    assert store.load(1).last_index == 3 * ROUNDS
    store.close()


def test_what_was_synced_survives_kill_9(tmp_path: Path) -> None:
    seed = random.Random(1)
    synced = 0
    for _ in range(ROUNDS):
        said = run_and_kill(tmp_path, seed.uniform(0.01, 0.6))
        assert said > synced
        synced = said
        store, _ = open_store(tmp_path, OPTIONS)
        image = store.load(1)
        assert synced <= image.last_index <= synced + 1
        assert image.applied == image.last_index
        for index in range(1, image.last_index + 1):
            assert store.entries(1, index, index, 1) == [step_entry(1, index)]
        store.close()
