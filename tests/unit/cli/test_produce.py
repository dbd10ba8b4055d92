"""`raftbroker produce`: batches, keys, and that no failure loses or doubles a record silently."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from raftbroker.cli.app import app
from raftbroker.cli.failure import CommandError
from raftbroker.cli.produce import Line, _parse_header, _parse_line, grouped
from tests.unit.cli.scripted import Reply, Server, serving


def report(*offsets: int, partition: int = 0) -> Reply:
    found = [{"partition": partition, "offset": offset, "error_code": None, "error": None} for offset in offsets]
    return Reply(body=json.dumps({"offsets": found}).encode())


def run(server: Server, *arguments: str, text: str | bytes = "") -> str:
    result = CliRunner().invoke(app, ["produce", "t", "--url", server.url, *arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def values(server: Server) -> list[list[bytes]]:
    bodies = [msgspec.json.decode(asked.body) for asked in server.asked]
    return [[base64.b64decode(record["value"]) for record in body["records"]] for body in bodies]


def test_arguments() -> None:
    with serving(report(4, 5)) as server:
        out = run(server, "one", "two words", "--key", "k", "--header", "a=b=c")
        assert values(server) == [[b"one", b"two words"]]
        record = msgspec.json.decode(server.asked[0].body)["records"][0]
        assert base64.b64decode(record["key"]) == b"k"
        assert record["headers"] == [{"name": "a", "value": base64.b64encode(b"b=c").decode()}]
        assert server.asked[0].path == "/topics/t"
    assert "produced 2 records to t" in out
    assert "partition 0: offsets 4 to 5" in out


def test_lines_of_a_file_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\r\n\xff\xfe\n\nlast")
    with serving(report(0, 1), report(2, 3)) as server:
        out = run(server, "--file", str(path), "--batch", "2", "--partition", "3", "--json")
        assert values(server) == [[b"a", b"\xff\xfe"], [b"", b"last"]]
        assert server.asked[0].path == "/topics/t/partitions/3"
        keys = [asked.headers["Idempotency-Key"] for asked in server.asked]
        assert len(set(keys)) == 2
    assert json.loads(out) == [{"partition": 0, "records": 4, "first_offset": 0, "last_offset": 3}]


def test_standard_input_with_keys() -> None:
    with serving(report(0)) as server:
        run(server, "--key-separator", "=>", text="k=>v=>w\n")
        record = msgspec.json.decode(server.asked[0].body)["records"][0]
        assert base64.b64decode(record["key"]) == b"k"
        assert base64.b64decode(record["value"]) == b"v=>w"


def test_records_that_failed_for_now_are_sent_again_whole_with_the_same_key() -> None:
    half = {"offsets": [{"partition": 0, "offset": 1}, {"partition": 1, "error_code": 50302, "error": "no leader"}]}
    with serving(Reply(body=json.dumps(half).encode()), report(1, 9)) as server:
        run(server, "a", "b")
        first, second = server.asked
        assert first.body == second.body
        assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_a_record_that_is_refused_ends_it_and_says_how_far_it_came() -> None:
    refused = {"offsets": [{"partition": 0, "error_code": 413, "error": "too large"}]}
    with (
        serving(report(0), Reply(body=json.dumps(refused).encode())) as server,
        pytest.raises(CommandError, match=r"1 record could not be produced to t \(1 records before .*too large"),
    ):
        run(server, "a", "b", "--batch", "1")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (report(), "answered for 0 records instead of 1"),
        (Reply(body=b'{"offsets":[{"partition":0}]}'), "without an offset"),
    ],
)
def test_an_answer_that_cannot_be_right_is_not_taken_as_success(answer: Reply, words: str) -> None:
    with serving(answer) as server, pytest.raises(CommandError, match=words):
        run(server, "a")


def test_what_cannot_be_meant_is_refused() -> None:
    with serving() as server:
        with pytest.raises(CommandError, match="choose one"):
            run(server, "a", "--file", "x")
        with pytest.raises(CommandError, match="cannot read"):
            run(server, "--file", "/does/not/exist")
        with pytest.raises(CommandError, match="NAME=VALUE"):
            run(server, "a", "--header", "x")
        with pytest.raises(CommandError, match="no key separator"):
            run(server, "a", "--key-separator", ":")


def test_parsing() -> None:
    assert _parse_line(b"a:b", None, ":") == Line(b"a", b"b", 3)
    assert _parse_line(b"a:b", "k", None) == Line(b"k", b"a:b", 3)
    assert _parse_header("a=").name == "a"


@given(st.lists(st.binary(max_size=300)), st.integers(1, 10), st.integers(1, 1000))
def test_grouping_keeps_every_line_in_order_within_bounds(data: list[bytes], count_max: int, bytes_max: int) -> None:
    lines = [Line(None, value, len(value)) for value in data]
    groups = list(grouped(lines, count_max, bytes_max))
    assert [line for group in groups for line in group] == lines
    for group in groups:
        assert 1 <= len(group) <= count_max
        assert len(group) == 1 or sum(len(line.value) + 64 for line in group) <= bytes_max
