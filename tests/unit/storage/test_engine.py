"""The real engine's reads: bounds, directions, views, and many threads."""

import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from consensus.errors import Damaged
from raftbroker.storage.engine import Batch, Reads
from raftbroker.storage.rocks import RocksEngine, RocksOptions


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    made = RocksEngine(tmp_path / "db", RocksOptions(), create=True)
    yield made
    made.close()


def put(engine: RocksEngine, **rows: str) -> None:
    batch = Batch()
    for key, value in rows.items():
        batch.put("state", key.encode(), value.encode())
    engine.write(batch)


@pytest.mark.parametrize("flushed", [False, True])
def test_scans_keep_to_their_bounds(engine: RocksEngine, flushed: bool) -> None:
    seed = random.Random(1)
    model = {bytes(seed.choices(b"abc", k=seed.randrange(1, 6))): b"%d" % n for n in range(200)}
    batch = Batch()
    for key, value in model.items():
        batch.put("log", key, value)
        batch.put("raft", key, b"another family")
    engine.write(batch)
    if flushed:
        engine.flush()
    view = engine.snapshot()
    for _ in range(500):
        low, high = (bytes(seed.choices(b"abcd", k=seed.randrange(5))) for _ in range(2))
        expected = sorted((key, value) for key, value in model.items() if low <= key < high)
        source: Reads
        for source in (engine, view):
            assert list(source.scan("log", low, high)) == expected
            assert list(source.scan("log", low, high, reverse=True)) == expected[::-1]
            assert source.get("log", low) == model.get(low)


def test_the_last_operation_wins(engine: RocksEngine) -> None:
    batch = Batch()
    batch.put("log", b"a", b"1")
    batch.put("log", b"b", b"1")
    batch.delete_range("log", b"a", b"c")
    batch.put("log", b"b", b"2")
    batch.put("log", b"c", b"3")
    batch.delete("log", b"c")
    batch.delete_range("log", b"z", b"b")
    engine.write(batch)
    assert list(engine.scan("log", b"", b"\xff")) == [(b"b", b"2")]


def test_a_view_does_not_change(engine: RocksEngine) -> None:
    """rocksdict's own snapshots show the present when iterated."""
    put(engine, a="1", b="2", c="3")
    view = engine.snapshot()
    batch = Batch()
    batch.put("state", b"a", b"9")
    batch.delete("state", b"b")
    batch.delete_range("state", b"c", b"d")
    batch.put("state", b"bb", b"9")
    engine.write(batch)
    engine.flush()
    assert list(view.scan("state", b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert (view.get("state", b"a"), view.get("state", b"bb"), view.get("state", b"b")) == (b"1", None, b"2")
    assert list(engine.scan("state", b"", b"\xff")) == [(b"a", b"9"), (b"bb", b"9")]
    view.close()
    with pytest.raises(OSError, match="closed"):
        view.get("state", b"a")


def test_scans_of_one_view_may_be_interleaved(engine: RocksEngine) -> None:
    put(engine, a="1", b="2", c="3", d="4")
    view = engine.snapshot()
    seen = []
    for key, _ in view.scan("state", b"a", b"z"):
        back = [other for other, _ in view.scan("state", b"", b"z", reverse=True)]
        assert back == [b"d", b"c", b"b", b"a"]
        assert view.get("state", b"a") == b"1"
        seen.append(key)
    assert seen == [b"a", b"b", b"c", b"d"]
    forth, back_again = view.scan("state", b"", b"z"), view.scan("state", b"", b"z", reverse=True)
    assert [(next(forth)[0], next(back_again)[0]) for _ in range(4)] == [
        (b"a", b"d"),
        (b"b", b"c"),
        (b"c", b"b"),
        (b"d", b"a"),
    ]


def test_closing_frees_the_directory_from_open_views_and_scans(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path / "db", RocksOptions(), create=True)
    put(engine, a="1", b="2")
    view = engine.snapshot()
    scan = view.scan("state", b"", b"z")
    next(scan)
    engine.close()
    RocksEngine(tmp_path / "db", RocksOptions(), create=False).close()
    with pytest.raises(OSError, match="closed"):
        next(scan)


def test_a_missing_database_is_not_made_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not exist"):
        RocksEngine(tmp_path / "db", RocksOptions(), create=False)


def test_readers_see_batches_whole(engine: RocksEngine) -> None:
    """One thread writes the same number to every family, others take views: all four always agree."""
    families = ("node", "raft", "log", "state")
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            view = engine.snapshot()
            found = {view.get(family, b"number") for family in families}
            if len(found) != 1:
                wrong.append(found)
            view.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1500):
        batch = Batch()
        for family in families:
            batch.put(family, b"number", b"%d" % number)
        engine.write(batch)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_more_than_the_memtables_hold_is_taken_in_the_end(tmp_path: Path) -> None:
    """Writes that RocksDB refuses because a flush is behind are tried again."""
    options = RocksOptions(memtable_bytes=256 << 10, memtables_bytes_max=1 << 20)
    engine = RocksEngine(tmp_path / "db", options, create=True)
    for number in range(60):
        batch = Batch()
        batch.put("log", b"%08d" % number, bytes(1 << 20))
        engine.write(batch)
    engine.sync()
    assert sum(len(value) for _, value in engine.scan("log", b"", b"\xff")) == 60 << 20
    engine.close()


def test_a_flush_does_not_wait_for_a_compaction_that_may_never_have_room(tmp_path: Path) -> None:
    """It is a stall that a flush waits for: the reasons for one are taken away while it runs, and put back."""
    engine = RocksEngine(tmp_path / "db", RocksOptions(), create=True)
    state = engine._families["state"]
    state.set_options({"disable_auto_compactions": "true"})
    for number in range(12):
        put(engine, a=str(number))
        engine.flush()
    assert slowdown_triggers(tmp_path / "db") == [20, 20, 20, 20, 20]
    assert engine._lift_stalls() == [state]
    assert sorted(slowdown_triggers(tmp_path / "db")) == [20, 20, 20, 20, 1 << 30]
    engine.flush()
    assert slowdown_triggers(tmp_path / "db") == [20, 20, 20, 20, 20]
    engine.close()


def slowdown_triggers(database: Path) -> list[int]:
    """Of all families, as the newest options file has them."""
    newest = max(database.glob("OPTIONS-*"))
    return [int(found) for found in re.findall(r"level0_slowdown_writes_trigger=(\d+)", newest.read_text())]


def test_closing_lets_go_of_a_database_in_which_a_compaction_met_damage_and_says_so(tmp_path: Path) -> None:
    engine = RocksEngine(tmp_path / "db", RocksOptions(), create=True)
    for number in range(3):
        put(engine, **{f"key {key}": str(number) * 100 for key in range(100)})
        engine.flush()
    engine.close()
    table = min((tmp_path / "db").glob("*.sst"))
    data = bytearray(table.read_bytes())
    data[100] ^= 1
    table.write_bytes(data)
    engine = RocksEngine(tmp_path / "db", RocksOptions(), create=False)
    engine._families["state"].compact_range(None, None)
    with pytest.raises(Damaged, match=table.name):
        engine.close()
    RocksEngine(tmp_path / "db", RocksOptions(), create=False).close()
