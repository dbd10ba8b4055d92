"""Reading RocksDB's log format: what is a record, what is torn, and what is damage."""

import random
from pathlib import Path

import pytest

from raftbroker.storage.frames import BLOCK_BYTES, FileDamaged, read_frames
from tests.unit.storage.helpers import frame

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def write_records(bodies: list[bytes]) -> bytes:
    """The format's writer, as its specification says."""
    data = bytearray()
    for body in bodies:
        left, begun = body, False
        while True:
            room = BLOCK_BYTES - len(data) % BLOCK_BYTES
            if room < 7:
                data += bytes(room)
                continue
            part, left = left[: room - 7], left[room - 7 :]
            kind = (LAST if begun else FULL) if not left else (MIDDLE if begun else FIRST)
            data += frame(kind, part)
            begun = True
            if not left:
                break
    return bytes(data)


def bodies(seed: int, count: int = 60) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.choice((0, 1, 12, 300, 5_000, 40_000, 90_000))) for _ in range(count)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "000001.log"


@pytest.mark.parametrize("seed", range(5))
def test_records_come_back(file: Path, seed: int) -> None:
    written = bodies(seed)
    data = write_records(written)
    file.write_bytes(data)
    frames = read_frames(file)
    assert [record.body for record in frames.records] == written
    assert (frames.end, frames.torn) == (len(data), None)
    assert [record.body for record in read_frames(file, body_bytes=12).records] == [body[:12] for body in written]


def test_records_that_end_just_before_a_block_does(file: Path) -> None:
    for rest in range(25):
        written = [b"a" * (BLOCK_BYTES - 7 - rest), bytes(range(50)), b"c" * 50]
        file.write_bytes(write_records(written))
        assert [record.body for record in read_frames(file).records] == written
        assert [record.body for record in read_frames(file, body_bytes=12).records] == [body[:12] for body in written]


@pytest.mark.parametrize("seed", range(5))
def test_every_cut_leaves_the_whole_records(file: Path, seed: int) -> None:
    written = bodies(seed, 12)
    data = write_records(written)
    file.write_bytes(data)
    ends = [record.end for record in read_frames(file).records]
    for at in random.Random(seed).sample(range(len(data)), 60):
        file.write_bytes(data[:at])
        frames = read_frames(file)
        assert len(frames.records) == sum(end <= at for end in ends)
        assert frames.torn is None or frames.incomplete


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_is_damage_but_in_the_last_record(file: Path, seed: int) -> None:
    source = random.Random(seed)
    written = bodies(seed, 12)
    data = write_records(written)
    file.write_bytes(data)
    last = read_frames(file).records[-1].start
    for _ in range(60):
        at = source.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << source.randrange(8)
        file.write_bytes(flipped)
        if at < last:
            with pytest.raises(FileDamaged):
                read_frames(file)
        else:
            frames = read_frames(file)
            assert frames.torn is not None
            assert [record.body for record in frames.records] == written[:-1]


def test_fragments_out_of_order(file: Path) -> None:
    file.write_bytes(frame(FIRST, b"a") + frame(FULL, b"b"))
    with pytest.raises(FileDamaged, match="broken off"):
        read_frames(file)
    file.write_bytes(frame(FULL, b"a") + frame(LAST, b"b"))
    assert read_frames(file).torn is not None
    file.write_bytes(frame(LAST, b"a") + frame(FULL, b"b"))
    with pytest.raises(FileDamaged, match="a sound record behind it"):
        read_frames(file)


def test_unknown_types_that_may_be_ignored_are(file: Path) -> None:
    file.write_bytes(frame(FULL, b"a") + frame(130, b"?") + frame(FULL, b"b"))
    assert [record.body for record in read_frames(file).records] == [b"a", b"b"]
    file.write_bytes(frame(FULL, b"a") + frame(9, b"?") + frame(FULL, b"b"))
    with pytest.raises(FileDamaged, match="unknown type 9"):
        read_frames(file)


def test_an_empty_file(file: Path) -> None:
    file.write_bytes(b"")
    frames = read_frames(file)
    assert (frames.records, frames.end, frames.torn) == ([], 0, None)
