"""Every record of the MANIFEST and of each log, one at a time, is where the file is cut off or has a flipped bit.

The stores have flushed often, and each ends in another way, so that different files hold the last rows. With the note
that they left, all rows are there or the store is refused. A power loss may leave an older note: to the newest
write-ahead log it can then have happened as well that it ends early, which nothing tells; all else must be found
without the note.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftbroker.storage import LogStore, StorageOptions, StoreDamaged, open_store
from raftbroker.storage.frames import Record, read_frames
from raftbroker.storage.rocks import RocksEngine, RocksOptions
from raftbroker.storage.watermark import make_note
from tests.unit.storage import test_damage
from tests.unit.storage.helpers import create
from tests.unit.storage.test_damage import GROUPS, STEPS, age_note, outcome, step_write

OPTIONS = StorageOptions(reserve_bytes=0, ballast_bytes=0, memtable_bytes=64 << 10)
RECORDS_PER_LOG_MAX = 8


def fill(directory: Path) -> LogStore:
    store, _ = open_store(directory, OPTIONS)
    store.write([create(group) for group in GROUPS])
    store.sync()
    for index in range(1, STEPS + 1):
        store.write([step_write(group, index) for group in GROUPS])
        store.sync()
        if index == STEPS // 2:
            store.close()  # so that the MANIFEST begins with a snapshot
            store, _ = open_store(directory, OPTIONS)
        if index in (STEPS - 20, STEPS - 10):
            # Its rows leave the logs, those of the other families stay: several logs are needed.
            store._engine._families["log"].flush(True)  # type: ignore[attr-defined]
    return store


def leave(directory: Path, end: str) -> None:
    """Runs in a process of its own, which ends without closing the store."""
    store = fill(directory)
    if end == "flushed":
        store._engine.flush()  # type: ignore[attr-defined]
    elif end == "closed":
        store.close()
    os._exit(0)


def run(code: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"from tests.unit.storage.test_cuts import *\n{code}"], check=True, timeout=60
    )


@pytest.fixture(scope="module", params=["killed", "flushed", "closed", "recovered"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param) / "data"
    run(f"leave(Path({str(directory)!r}), {request.param!r})")
    if request.param == "recovered":
        run(f"open_store(Path({str(directory)!r}), OPTIONS)\nos._exit(0)")
    return directory


def logs(directory: Path) -> list[Path]:
    return sorted(directory.glob("rocksdb/*.log"))


def manifest(directory: Path) -> Path:
    return directory / "rocksdb" / (directory / "rocksdb" / "CURRENT").read_text().strip()


def copy(template: Path, directory: Path) -> None:
    """Tables and blob files never change: they are linked."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(
        template,
        directory,
        copy_function=lambda source, target: (
            os.link(source, target) if str(source).endswith((".sst", ".blob")) else shutil.copy2(source, target)
        ),
    )


def records(path: Path) -> list[Record]:
    """Of a log, which has many alike, the first and some others."""
    found = read_frames(path).records
    if path.suffix == ".log" and len(found) > RECORDS_PER_LOG_MAX:
        some = random.Random(path.name).sample(found[1:-1], RECORDS_PER_LOG_MAX - 2)
        return [found[0], *sorted(some, key=lambda record: record.start), found[-1]]
    return found


def damages(path: Path, note: str) -> Iterator[tuple[str, int]]:
    """("cut" or "flip", place)."""
    seed = random.Random(path.name)
    for record in records(path):
        yield "cut", record.start
        if note == "old":  # no other than a cut at the start, where the note tells how long the file was
            yield "cut", seed.randrange(record.start + 1, record.end)
        if path.suffix == ".log":
            yield "flip", seed.randrange(record.start, record.end)


def apply(path: Path, how: str, at: int) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[at] ^= 1 << at % 8
    path.write_bytes(data[:at] if how == "cut" else data)


def steps_min(template: Path, path: Path, how: str, at: int) -> int:
    """How many steps must be there with an old note, unless the store is refused. A record of the newest log is one."""
    if path != logs(template)[-1]:
        return STEPS
    found = read_frames(path).records
    behind = sum(record.end > at for record in found)
    return STEPS - behind if how == "cut" or behind == 1 else STEPS


@pytest.mark.parametrize("note", ["as left", "old"])
def test_no_record_is_missed(store: Path, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_damage, "OPTIONS", OPTIONS)
    counts: Counter[str] = Counter()
    directory = tmp_path / "data"
    for path in (manifest(store), *logs(store)):
        for how, at in damages(path, note):
            copy(store, directory)
            if note == "old":
                age_note(directory)
            apply(directory / path.relative_to(store), how, at)
            try:
                counts[outcome(directory, STEPS if note == "as left" else steps_min(store, path, how, at))] += 1
            except Exception as error:
                raise AssertionError(f"{path}: {how} at {at}") from error
    assert set(counts) <= {"intact", "refused"}
    assert counts["refused"] > counts["intact"]


@pytest.mark.parametrize("note", ["as left", "old"])
def test_undamaged_it_is_intact(store: Path, note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_damage, "OPTIONS", OPTIONS)
    copy(store, tmp_path / "data")
    if note == "old":
        age_note(tmp_path / "data")
    assert outcome(tmp_path / "data") == "intact"


@pytest.mark.parametrize("kind", ["*.log", "*.sst", "*.blob", "MANIFEST-*", "CURRENT"])
def test_no_file_is_missed(store: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_damage, "OPTIONS", OPTIONS)
    counts: Counter[str] = Counter()
    for path in (store / "rocksdb").glob(kind):
        copy(store, tmp_path / "data")
        (tmp_path / "data" / "rocksdb" / path.name).unlink()
        counts[outcome(tmp_path / "data")] += 1
    assert counts["refused"]
    assert counts.total() == counts["refused"] + counts["intact"], "those that were obsolete may go"


def test_without_its_note_it_is_refused(store: Path, tmp_path: Path) -> None:
    copy(store, tmp_path / "data")
    (tmp_path / "data" / "synced").unlink()
    with pytest.raises(StoreDamaged, match=r"synced is damaged: it is missing .* rejoins as a learner"):
        open_store(tmp_path / "data", OPTIONS)


def test_these_stores_differ_in_where_the_last_rows_are(store: Path) -> None:
    sizes = [path.stat().st_size for path in logs(store)]
    if store.parent.name.startswith("killed"):
        assert len(sizes) > 1, "one log is needed by some families, a newer one by all"
        assert all(sizes)
    else:
        assert sizes[-1] == 0, "all rows are in tables"


def test_the_note_is_on_the_disk_before_the_database_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if not list(tmp_path.glob("new/data/rocksdb/*")):
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    made, _ = open_store(tmp_path / "new" / "data", OPTIONS)
    made.close()
    assert synced == ["new", tmp_path.name, "synced", "data"]


def test_a_database_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    """RocksDB makes the column families one by one: a crash leaves any prefix of the edits that do it."""
    template = tmp_path / "template"
    template.mkdir()
    make_note(template / "synced")
    RocksEngine(template / "rocksdb", RocksOptions(), create=True).close()
    edits = read_frames(manifest(template)).records
    adding = [edit for edit in edits if any(name in edit.body for name in (b"node", b"raft", b"log", b"state"))]
    assert len(adding) == 4
    for edit in adding:
        directory = tmp_path / "data"
        copy(template, directory)
        apply(manifest(directory), "cut", edit.start)
        made, _ = open_store(directory, OPTIONS)
        assert made.groups() == []
        made.close()


def test_a_log_that_a_full_disk_left_empty_is_told_from_one_that_was_emptied(tmp_path: Path) -> None:
    """Where the first write after a start fails, RocksDB goes on with another log."""
    directory = tmp_path / "template"
    run(f"""
store, _ = open_store(Path({str(directory)!r}), OPTIONS)
store.write([create()])
store.close()
store, _ = open_store(Path({str(directory)!r}), OPTIONS)
for index in (1, 2):
    store.write([step_write(1, index)])
    store.sync()
os._exit(0)""")
    age_note(directory)
    (log,) = logs(directory)
    data = log.read_bytes()
    second = read_frames(log).records[1].start
    for written, later, expected in ((0, 0, 2), (second, second, 2), (0, second, None)):
        copy(directory, tmp_path / "data")
        (first,) = logs(tmp_path / "data")
        first.write_bytes(data[:written])
        first.with_name(f"{int(log.stem) + 5:06}.log").write_bytes(data[later:])
        if expected is None:
            with pytest.raises(StoreDamaged, match=r"the logs before it, or MANIFEST-.*, have been cut off"):
                open_store(tmp_path / "data", OPTIONS)
        else:
            store, _ = open_store(tmp_path / "data", OPTIONS)
            assert store.load(1).last_index == expected
            store.close()
