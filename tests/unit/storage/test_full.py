"""A full disk: new records are refused, reads and deletions go on, and it heals by itself."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consensus.errors import StoreFull
from consensus.store import Write
from raftbroker.storage import LogStore, StorageOptions, open_store, payload_key
from raftbroker.storage.rocks import RocksEngine, RocksOptions
from tests.unit.storage.conftest import Opened
from tests.unit.storage.helpers import create, entries, entry

MIB = 1 << 20
ALL = 1 << 30


class RoomyEngine(RocksEngine):
    """The real engine, on a disk that has as much room as the test says."""

    room = 100 * MIB

    def free_bytes(self) -> int:
        return self.room


def test_below_the_reserve_it_is_full_and_below_a_quarter_of_it_only_what_frees_space_is_taken(tmp_path: Path) -> None:
    told: list[bool] = []
    engine = RoomyEngine(tmp_path / "db", RocksOptions(), create=True)
    store = LogStore(engine, reserve_bytes=12 * MIB, on_full=told.append)
    store.write([create(), Write(1, entries=entries(1, 8))])
    engine.room = 12 * MIB + 50
    assert not store.full
    store.write([Write(1, entries=entries(9, 9))])
    assert store.full, "what was proposed before is still written"
    engine.room = 3 * MIB + 50
    with pytest.raises(StoreFull, match="3 MiB left"):
        store.write([Write(1, entries=entries(10, 10))])
    with pytest.raises(StoreFull):
        store.write([Write(1, commit=9), Write(1, entries=entries(10, 10))])
    assert store.load(1).last_index == 9
    store.write([Write(1, applied=9, commit=9, delete_payloads=[(payload_key(7, 0), payload_key(7, 5))])])
    assert store.entries(1, 6, 9, ALL) == entries(6, 9)
    engine.room = 14 * MIB
    assert store.full, "a little more than the reserve is not enough: it would flap"
    engine.room = 15 * MIB
    assert not store.full
    store.write([Write(1, entries=entries(10, 10))])
    assert told == [True, False]
    store.close()


class CrampedEngine(RoomyEngine):
    """Has no room to flush anything either."""

    def flush(self) -> None:
        raise StoreFull("no room")


def test_what_was_deleted_is_deleted_where_nothing_can_be_freed_at_once(tmp_path: Path) -> None:
    engine = CrampedEngine(tmp_path / "db", RocksOptions(), create=True)
    store = LogStore(engine, reserve_bytes=12 * MIB, reclaim=engine.reclaim)
    store.write([create(), Write(1, entries=entries(1, 8))])
    engine.room = 3 * MIB
    store.write([Write(1, applied=8, delete_payloads=[(payload_key(7, 0), payload_key(7, 5))])])
    assert store.load(1).applied == 8
    assert [key for key, _ in engine.scan("log", payload_key(7, 0), payload_key(8, 0))] == [
        payload_key(7, index) for index in range(5, 9)
    ]
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, leave: int, name: str = "filler") -> Path:
    """Somebody else's file that leaves that many bytes."""
    stats = os.statvfs(disk)
    filler = disk / name
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, stats.f_bavail * stats.f_frsize - leave)
    return filler


def test_the_ballast_goes_first_and_comes_back(small_disk: Path) -> None:
    options = StorageOptions(reserve_bytes=16 * MIB, ballast_bytes=8 * MIB, memtable_bytes=256 << 10)
    opened = Opened(small_disk / "data", options)
    store = opened.store
    ballast = small_disk / "data" / "ballast"
    store.write([create(), Write(1, entries=entries(1, 5))])
    assert ballast.stat().st_size == 8 * MIB
    filler = fill(small_disk, 2 * MIB)
    store.write([Write(1, entries=entries(6, 6))])
    assert store.full
    assert not ballast.exists(), "its room is for what was proposed before, and for deletions"
    more = fill(small_disk, 2 * MIB, "more")
    with pytest.raises(StoreFull):
        store.write([Write(1, entries=entries(7, 7))])
    store.write([Write(1, truncate_from=4)])
    store.sync()
    assert opened.reopen().load(1).last_index == 3
    assert opened.store.full
    assert not ballast.exists()
    filler.unlink()
    more.unlink()
    assert not opened.store.full
    assert ballast.stat().st_size == 8 * MIB
    opened.store.write([Write(1, entries=entries(4, 6))])
    assert opened.store.entries(1, 1, 6, ALL) == entries(1, 6)
    opened.store.close()


@pytest.mark.parametrize("size", [1_000, 20_000])
def test_deleting_heals_a_disk_that_the_store_itself_has_filled(small_disk: Path, size: int) -> None:
    options = StorageOptions(reserve_bytes=16 * MIB, ballast_bytes=4 * MIB, memtable_bytes=256 << 10)
    store, _ = open_store(small_disk / "data", options)
    store.write([create()])
    last = 0
    with contextlib.suppress(StoreFull):
        while last * size < 64 * MIB:
            store.write([Write(1, entries=entries(last + 1, last + 20, partition=last % 3, size=size))])
            store.sync()
            last += 20
    assert store.full
    assert 4 * MIB < last * size < 64 * MIB
    gone = [(payload_key(partition, 0), payload_key(partition + 1, 0)) for partition in (0, 1)]
    store.write([Write(1, applied=last, delete_payloads=gone)])
    store.sync()
    began = time.monotonic()
    while store.full and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert not store.full
    store.write([Write(1, entries=entries(last + 1, last + 20, partition=2, size=size))])
    store.close()
    store, reader = open_store(small_disk / "data", options)
    assert store.load(1).last_index == last + 20
    assert reader.floor(0, 1 << 40) is None
    assert len(reader.read(2, 0, 1 << 40, ALL)) >= last // 3
    store.close()


def test_no_space_at_all_refuses_and_heals(small_disk: Path) -> None:
    """What RocksDB makes of it when it meets the end of the disk itself: nothing synced is lost."""
    options = StorageOptions(reserve_bytes=0, ballast_bytes=0, memtable_bytes=512 << 10)
    store, _ = open_store(small_disk / "data", options)
    store.write([create()])
    filler = fill(small_disk, 4 * MIB)
    synced = 0
    with contextlib.suppress(StoreFull):
        while synced < 1000:
            store.write([Write(1, entries=[entry(synced + 1, size=50_000)])])
            store.sync()
            synced += 1
    assert 20 < synced < 1000
    for index in range(1, synced + 1):
        assert store.entries(1, index, index, ALL) == [entry(index, size=50_000)]
    with pytest.raises(StoreFull, match="is full"):
        store.write([Write(1, entries=[entry(synced + 1, size=50_000)])])
    filler.unlink()
    healed = write_once_there_is_room(store, Write(1, entries=[entry(synced + 1, size=50_000)]))
    assert healed < 15
    store.sync()
    store.close()
    store, _ = open_store(small_disk / "data", options)
    assert store.load(1).last_index == synced + 1
    for index in range(1, synced + 2):
        assert store.entries(1, index, index, ALL) == [entry(index, size=50_000)]
    store.close()


def write_once_there_is_room(store: LogStore, write: Write) -> float:
    """Seconds that RocksDB took to notice."""
    began = time.monotonic()
    while True:
        try:
            store.write([write])
        except StoreFull:
            if time.monotonic() - began > 30:
                raise
            time.sleep(0.1)
        else:
            return time.monotonic() - began
