"""`raftbroker consume`: where it starts and ends, and how records are shown."""

import base64
import datetime
import json
from dataclasses import dataclass, field

import pytest

from raftbroker.cli.api import Api, Offsets, Partition
from raftbroker.cli.consume import Consumed, Position, Reader, _as_json, _parse_format, find_positions, parse_time
from raftbroker.cli.failure import CommandError
from tests.unit.cli.scripted import Reply, serving

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:00+00:00", "2026-11-22T10:00:00+00:00"),
        ("2026-11-22T10:00+02:00", "2026-11-22T08:00:00+00:00"),
        ("1795341600000", "2026-11-22T10:00:00+00:00"),
        ("15m", "2026-11-22T11:45:00+00:00"),
        ("1d", "2026-11-21T12:00:00+00:00"),
        ("30s", "2026-11-22T11:59:30+00:00"),
    ],
)
def test_times(text: str, moment: str) -> None:
    assert parse_time(text, NOW) == int(datetime.datetime.fromisoformat(moment).timestamp() * 1000)


@pytest.mark.parametrize("text", ["soon", "15", "", "-5m", "2026-13-01"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(CommandError, match="how long ago"):
        parse_time(text, NOW)


@dataclass
class FixedApi(Api):
    """Three partitions with known offsets; only the reading of positions is exercised."""

    bounds: dict[int, Offsets] = field(
        default_factory=lambda: {0: Offsets(0, 100), 1: Offsets(40, 50), 2: Offsets(7, 7)}
    )

    def partitions(self, topic: str) -> list[Partition]:
        return [Partition(number, 1, []) for number in self.bounds]

    def offsets(self, topic: str, partition: int) -> Offsets:
        return self.bounds[partition]

    def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        return self.bounds[partition].beginning_offset + 1


def starts(offset: int | None = None, time: int | None = None, *, end: bool = False, follow: bool = False) -> list[int]:
    found = find_positions(FixedApi(), "t", None, offset, time, from_end=end, follow=follow)
    assert all((position.end is None) == follow for position in found)
    return [position.start for position in found]


def test_positions() -> None:
    assert starts() == [0, 40, 7]
    assert starts(end=True, follow=True) == [100, 50, 7]
    assert starts(45) == [45, 45, 45]
    assert starts(-5) == [95, 45, 7]
    assert starts(time=1) == [1, 41, 8]
    assert find_positions(FixedApi(), "t", 1, None, None, from_end=False, follow=False) == [Position(1, 40, 50)]
    with pytest.raises(CommandError, match="t has no partition 3; it has 0 to 2"):
        find_positions(FixedApi(), "t", 3, None, None, from_end=False, follow=False)


def records(*offsets: int) -> Reply:
    found = [
        {
            "topic": "t",
            "partition": 0,
            "offset": offset,
            "timestamp": 5,
            "key": None,
            "value": base64.b64encode(b"v%d" % offset).decode(),
            "headers": [{"name": "h", "value": None}],
        }
        for offset in offsets
    ]
    return Reply(body=json.dumps(found).encode())


def test_reading_ends_where_it_should_and_goes_on_after_an_empty_answer() -> None:
    with serving(records(3, 4), records(), records(5, 6, 7)) as server:
        pieces = list(Reader(Api([server.url]), "t", [Position(0, 3, 6), Position(1, 9, 9)]))
        assert [record.value for piece in pieces for record in piece] == [b"v3", b"v4", b"v5"]
        assert [asked.path.split("?")[1].split("&")[0] for asked in server.asked] == [
            "offset=3",
            "offset=5",
            "offset=5",
        ]


def test_records_deleted_meanwhile_are_told_and_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    gone = Reply(416, b'{"error_code":416,"message":"below the start"}')
    moved = Reply(body=b'{"beginning_offset":5,"end_offset":6}')
    with serving(gone, moved, records(5)) as server:
        pieces = list(Reader(Api([server.url]), "t", [Position(0, 3, 6)]))
    assert [record.offset for piece in pieces for record in piece] == [5]
    assert "t/0: offsets 3 to 4 are gone" in capsys.readouterr().err


def test_an_error_reaches_the_reader() -> None:
    refused = Reply(404, b'{"error_code":40401,"message":"gone"}')
    with serving(refused) as server, pytest.raises(CommandError, match="gone"):
        list(Reader(Api([server.url]), "t", [Position(0, 0, 9)]))


RECORD = Consumed("t", 1, 42, 1700, b"k", b"\x00raw", [("a", b"b"), ("c", None)])


def test_formats() -> None:
    assert _parse_format("{value}").fill(RECORD) == b"\x00raw\n"
    assert _parse_format("{topic}/{partition}@{offset}\\t{key} {x}").fill(RECORD) == b"t/1@42\tk {x}\n"
    assert _parse_format("{timestamp} {headers}").fill(RECORD) == b"1700 a=b,c=\n"
    assert _parse_format("{key}|{value}").fill(Consumed("t", 0, 0, None, None, None, [])) == b"|\n"


def test_json_lines() -> None:
    assert json.loads(_as_json(RECORD)) == {
        "topic": "t",
        "partition": 1,
        "offset": 42,
        "timestamp": 1700,
        "key": "k",
        "value": "\x00raw",
        "headers": [["a", "b"], ["c", None]],
    }
    binary = json.loads(_as_json(Consumed("t", 1, 42, 1700, None, b"\xff", [])))
    assert binary["key"] is None
    assert binary["value_base64"] == "/w=="
    assert "value" not in binary
