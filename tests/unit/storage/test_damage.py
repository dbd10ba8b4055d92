"""Bits flipped and tails cut in every kind of file of a store whose rows were all synced.

What must hold of each case: everything synced is there; or the store refuses to open and names a file; or reading
raises Damaged, or closing, where nothing but a compaction has read the damaged bytes. Never: a row that is missing or
different without an error.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from consensus.errors import Damaged
from consensus.model import Entry, HardState, Payload
from consensus.store import Write
from raftbroker.storage import LogStore, StorageOptions, StoreDamaged, open_store, payload_key
from raftbroker.storage.frames import BLOCK_BYTES, read_frames
from raftbroker.storage.watermark import make_note
from tests.unit.storage.helpers import MEMBER, create, entry, frame

OPTIONS = StorageOptions(reserve_bytes=0, ballast_bytes=0, memtable_bytes=128 << 10)
GROUPS = (1, 2)
STEPS = 120
ALL = 1 << 30
KINDS = {
    "wal": "rocksdb/*.log",
    "manifest": "rocksdb/MANIFEST-*",
    "table": "rocksdb/*.sst",
    "blob": "rocksdb/*.blob",
    "current": "rocksdb/CURRENT",
    "identity": "rocksdb/IDENTITY",
    "options": "rocksdb/OPTIONS-*",
    "config": "rocksdb/rocksdict-config.json",
    "note": "synced",
}
CASES_PER_KIND = {"wal": 110, "manifest": 70, "table": 70, "blob": 40}


def step_entry(group: int, index: int) -> Entry:
    """Sizes from a few bytes to several blocks of the write-ahead log."""
    size = (3, 300, 6_000, 40, 20_000, 700)[index % 6]
    data = random.Random(group * 1000 + index).randbytes(size)
    return Entry.of(1 + index // 50, index, 1, b"c" * (index % 90), (Payload.of(payload_key(group, index), data),))


def step_write(group: int, index: int) -> Write:
    return Write(
        group,
        hard_state=HardState(1 + index // 50, MEMBER),
        entries=[step_entry(group, index)],
        applied=index,
        state={b"last": b"%d" % index, b"row %d" % (index % 7): b"v" * index},
    )


def fill(directory: Path, *, clean: bool) -> None:
    """Runs in a process of its own, which ends without closing the store unless `clean`."""
    store, _ = open_store(directory, OPTIONS)
    store.write([create(group) for group in GROUPS])
    store.sync()
    for index in range(1, STEPS + 1):
        store.write([step_write(group, index) for group in GROUPS])
        store.sync()
        if index == STEPS // 3:
            store.close()  # tables, blob files and a MANIFEST that begins with a snapshot
            store, _ = open_store(directory, OPTIONS)
        if index == STEPS // 2:
            store._engine.flush()  # type: ignore[attr-defined]
    if clean:
        store.close()
    os._exit(0)


def make(directory: Path, *, clean: bool) -> Path:
    code = f"from tests.unit.storage.test_damage import fill, Path; fill(Path({str(directory)!r}), clean={clean})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("killed") / "data", clean=False)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("closed") / "data", clean=True)


def verify(store: LogStore, steps_min: int = STEPS) -> None:
    """Raises Damaged where reading says so, AssertionError for what is wrong without saying so."""
    assert store.groups() == list(GROUPS)
    steps = store.load(GROUPS[0]).last_index
    assert steps_min <= steps <= STEPS
    for group in GROUPS:
        image = store.load(group)
        assert (image.last_index, image.applied) == (steps, steps)
        assert image.hard_state == HardState(1 + steps // 50, MEMBER)
        state: dict[bytes, bytes | None] = {}
        for index in range(1, steps + 1):
            state |= step_write(group, index).state
        assert image.state == state
        for index in range(1, steps + 1):
            assert store.entries(group, index, index, ALL) == [step_entry(group, index)]


def outcome(directory: Path, steps_min: int = STEPS) -> str:
    try:
        store, _ = open_store(directory, OPTIONS)
    except StoreDamaged as error:
        named = str(directory) in str(error) and "rejoins as a learner" in str(error)
        return "refused" if named else f"refused without a way out: {error}"
    found = "intact"
    try:
        verify(store, steps_min)
    except Damaged:
        found = "found on reading"
    try:
        store.close()
    except Damaged:  # which tables are compacted, and when, differs from run to run
        found = "found on closing" if found == "intact" else found
    return found


def age_note(directory: Path) -> None:
    """Leaves a note older than anything in the database, older than a power loss could make it: it claims nothing."""
    (directory / "synced").unlink()
    make_note(directory / "synced")


def damage(
    path: Path, seed: random.Random, ways: Sequence[str] = ("flip", "flip", "flip", "cut", "zero", "gone")
) -> str:
    """Flips a bit, or cuts or zeroes the tail, at a place that the seed chooses; says what it did."""
    data = bytearray(path.read_bytes())
    how = seed.choice(ways)
    if how == "flip" and data:
        at = seed.randrange(len(data))
        data[at] ^= 1 << seed.randrange(8)
        path.write_bytes(data)
    elif how == "gone":
        at = 0
        path.unlink()
    else:
        at = seed.randrange(len(data)) if data else 0
        path.write_bytes(data[:at] + (bytes(len(data) - at) if how == "zero" else b""))
    return f"{path.name}: {how} at {at} of {len(data)}"


def test_an_undamaged_store_is_intact(killed: Path, closed: Path, tmp_path: Path) -> None:
    for template in (killed, closed):
        kinds = {kind for kind, pattern in KINDS.items() if list(template.glob(pattern))}
        assert kinds == set(KINDS)
        copied = tmp_path / template.parent.name
        shutil.copytree(template, copied)
        assert outcome(copied) == "intact"
        assert outcome(copied) == "intact"


@pytest.mark.parametrize("state", ["killed", "closed"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_never_silent(
    kind: str, state: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template: Path = request.getfixturevalue(state)
    counts: Counter[str] = Counter()
    for number in range(CASES_PER_KIND.get(kind, 12)):
        seed = random.Random(f"{kind} {state} {number}")
        directory = tmp_path / "data"
        shutil.copytree(template, directory)
        done = damage(seed.choice(sorted(directory.glob(KINDS[kind]))), seed)
        try:
            counts[outcome(directory)] += 1
        except Exception as error:
            raise AssertionError(f"case {number}: {done}") from error
        shutil.rmtree(directory)
    assert set(counts) <= {"intact", "refused", "found on reading", "found on closing"}
    with capsys.disabled():
        sys.stdout.write(
            f"\n  {state} {kind}: {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}"
        )
    assert kind not in ("wal", "manifest") or counts["refused"] > 0
    assert kind not in ("table", "blob") or counts.total() - counts["intact"] > counts["intact"]


@pytest.mark.parametrize("tail", ["half", "zeros", "garbage", "header", "wrong end"])
def test_a_torn_last_record_is_cut_off(tail: str, killed: Path, tmp_path: Path) -> None:
    """What a power loss leaves behind the last sync: part of a record, nothing of it acknowledged."""
    directory = tmp_path / "data"
    shutil.copytree(killed, directory)
    wal = max(directory.glob(KINDS["wal"]))
    size = wal.stat().st_size
    room = BLOCK_BYTES - size % BLOCK_BYTES  # another in each run: RocksDB flushes when it likes
    assert room > 64, "by chance the template ends with its block"
    body = random.Random(tail).randbytes(min(3000, room // 3))
    fragment = frame(1, body)
    end = len(body) // 20
    torn = {
        "half": fragment[: len(fragment) // 2],
        "zeros": bytes(min(5000, room)),
        "garbage": random.Random(tail).randbytes(len(body)),
        "header": fragment[:5],
        "wrong end": fragment[:-end] + bytes(end),
    }[tail]
    with wal.open("ab") as file:
        file.write(torn)
    assert outcome(directory) == "intact"
    assert outcome(directory) == "intact"


def test_a_torn_record_with_a_sound_one_behind_it_is_damage(killed: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(killed, directory)
    age_note(directory)
    with max(directory.glob(KINDS["wal"])).open("ab") as file:
        file.write(frame(1, b"x" * 100)[:-1] + b"y" + frame(1, b"z" * 100))
    with pytest.raises(StoreDamaged, match="a sound record behind it"):
        open_store(directory, OPTIONS)


def test_rocksdb_alone_would_lose_synced_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That these tests can fail: the same cut, with the check of the files switched off."""
    store, _ = open_store(tmp_path / "origin", OPTIONS)
    store.write([create()])
    for index in range(1, 21):
        store.write([Write(1, entries=[entry(index)])])
        store.sync()
    directory = tmp_path / "data"
    shutil.copytree(tmp_path / "origin", directory)  # as kill -9 would leave it
    store.close()
    (wal,) = directory.glob(KINDS["wal"])
    os.truncate(wal, read_frames(wal).records[-5].end)
    with pytest.raises(StoreDamaged, match="has been cut off"):
        open_store(directory, OPTIONS)
    monkeypatch.setattr("raftbroker.storage.opening.check_files", lambda database, note: False)
    store, _ = open_store(directory, OPTIONS)
    assert store.load(1).last_index == 16
    store.close()


def test_a_directory_without_current_is_not_made_anew(killed: Path, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    shutil.copytree(killed, directory)
    shutil.rmtree(directory / "rocksdb")
    with pytest.raises(StoreDamaged, match="CURRENT"):
        open_store(directory, OPTIONS)


def test_a_database_whose_making_was_interrupted_is_made(tmp_path: Path) -> None:
    (tmp_path / "rocksdb").mkdir()
    (tmp_path / "rocksdb" / "MANIFEST-000001").write_bytes(b"")
    (tmp_path / "rocksdb" / "IDENTITY").write_bytes(b"")
    store, _ = open_store(tmp_path, OPTIONS)
    store.close()


def test_another_process_has_it(tmp_path: Path) -> None:
    store, _ = open_store(tmp_path, OPTIONS)
    with pytest.raises(OSError, match="lock"):
        open_store(tmp_path, OPTIONS)
    store.close()
