"""A process that writes and syncs is killed, again and again. All that it said was synced is there, and no store is
refused, wherever the kill struck: in writing, flushing, closing, opening, recovering, or making a new one."""

import functools
import os
import random
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus.model import LogBase
from consensus.store import Write
from raftbroker.storage import LogStore, StorageOptions, open_store, payload_key
from tests.unit.storage.conftest import OPTIONS
from tests.unit.storage.helpers import BASE, create
from tests.unit.storage.test_damage import age_note, step_entry, step_write

ROUNDS = 6
KILLS = 30
KEPT = 100
"""Entries and payloads older than that are dropped, so that compactions find garbage."""


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


@pytest.mark.parametrize("note", ["as left", "old"])
def test_a_crash_right_after_recovery_is_not_taken_for_damage(note: str, tmp_path: Path) -> None:
    code = f"from tests.unit.storage.test_crash import *; write_a_little(Path({str(tmp_path)!r}))"
    for _ in range(ROUNDS):
        subprocess.run([sys.executable, "-c", code], check=True)
        if note == "old":
            age_note(tmp_path)
    store, _ = open_store(tmp_path, OPTIONS)
    assert store.load(1).last_index == 3 * ROUNDS
    store.close()


def write_until_killed(directory: Path, options: StorageOptions, say: Callable[[str], None]) -> None:
    """Says each index once it is synced; closes and opens now and then."""
    while True:
        say("opening")
        store, _ = open_store(directory, options)
        say("open")
        if not store.groups():
            store.write([create()])
            store.sync()
        last = store.load(1).last_index
        for index in range(last + 1, last + 60):
            store.write([step_write(1, index)])
            store.sync()
            say(str(index))
            if index % 30 == 0 and index > 2 * KEPT:
                drop(store, index - KEPT)
        store.close()


def drop(store: LogStore, through: int) -> None:
    base = LogBase(through, 1 + through // 50, BASE.configuration)
    trimmed = (payload_key(1, 0), payload_key(1, through + 1))
    store.write([Write(1, drop_through=base, delete_payloads=[trimmed])])


def check(directory: Path, options: StorageOptions, synced: int, say: Callable[[str], None]) -> None:
    """Says the last index, which may be one that was synced when nobody could be told any more."""
    store, _ = open_store(directory, options)
    last = 0
    if synced or store.groups():
        image = store.load(1)
        last = image.last_index
        assert synced <= last == image.applied
        for index in range(image.base.index + 1, last + 1):
            assert store.entries(1, index, index, 1) == [step_entry(1, index)]
        state: dict[bytes, bytes | None] = {}
        for index in range(1, last + 1):
            state |= step_write(1, index).state
        assert image.state == state
    say(str(last))


def told(job: Callable[[Callable[[str], None]], None], lines: int, seconds: float) -> list[str]:
    """What a forked process says. It is killed so many seconds after so many lines, unless it ends before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            job(lambda line: os.write(writing, f"{line}\n".encode()) and None)
            status = 0
        except Exception:  # noqa: BLE001 - the parent sees the status, people the text
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    text, killing = b"", float("inf")
    with open(reading, "rb", buffering=0) as pipe:
        while (now := time.monotonic()) < killing:
            if killing == float("inf") and text.count(b"\n") >= lines:
                killing = now + seconds
            ready, _, _ = select.select([pipe], [], [], None if killing == float("inf") else killing - now)
            if ready and not (part := pipe.read(1 << 16)):
                break
            text += part if ready else b""
        os.kill(child, signal.SIGKILL)
        while part := pipe.read(1 << 16):
            text += part
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return text.decode().splitlines()


def live_and_die(directory: Path, memtable_bytes: int) -> None:
    """Runs in a process of its own that never opens a store itself, so that it may fork."""
    options = StorageOptions(reserve_bytes=0, ballast_bytes=0, memtable_bytes=memtable_bytes)
    chance = random.Random(memtable_bytes)
    synced = 0
    for _ in range(KILLS):
        lines, seconds = chance.choice(
            ((1, chance.uniform(0, 0.03)), (chance.randrange(3, 80), chance.uniform(0, 0.01)))
        )
        said = told(functools.partial(write_until_killed, directory, options), lines, seconds)
        synced = max([synced, *(int(line) for line in said if line.isdigit())])
        if chance.random() < 0.6:
            synced = int(told(functools.partial(check, directory, options, synced), 1, 30)[0])
    assert synced > KILLS


@pytest.mark.parametrize("memtable_bytes", [64 << 10, 32 << 20])
def test_what_was_synced_survives_kill_9(memtable_bytes: int, tmp_path: Path) -> None:
    code = f"from tests.unit.storage.test_crash import *; live_and_die(Path({str(tmp_path)!r}), {memtable_bytes})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
