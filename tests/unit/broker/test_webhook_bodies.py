"""What receivers are sent: any record can be shown and read back; cutting and sharing out lose and reorder nothing."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from raftbroker.broker.webhook_bodies import BATCH_BYTES_MAX, cut, lanes_of, record_bytes, records_body
from raftbroker.state.batch import Record
from raftbroker.state.webhooks import Webhook

HOOK = Webhook("h", "1", 1, 5, topic="t", url="http://a.b/")

datas = st.none() | st.binary(max_size=20) | st.text(max_size=5).map(lambda text: json.dumps(text).encode())
headers = st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=4)), max_size=2).map(tuple)
drafts = st.tuples(datas, datas, headers, st.integers(-1, 2**40))


def made(found: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...], int]]) -> list[Record]:
    return [Record(*one, 2 * n) for n, one in enumerate(found)]


def back(text: str | None, encoded: str | None) -> bytes | None:
    if encoded is not None:
        return base64.b64decode(encoded)
    return None if text is None else text.encode()


@given(st.lists(drafts, max_size=5).map(made))
def test_every_record_can_be_read_back(records: list[Record]) -> None:
    shown = json.loads(records_body(HOOK, 3, records))
    assert (shown["webhook"], shown["topic"], shown["partition"]) == ("h", "t", 3)
    for record, found in zip(records, shown["records"], strict=True):
        assert ("key" in found) != ("key_base64" in found)
        assert ("value" in found) != ("value_base64" in found)
        assert (found["offset"], found["timestamp"]) == (
            record.offset,
            None if record.timestamp < 0 else record.timestamp,
        )
        assert back(found.get("key"), found.get("key_base64")) == record.key
        if "value_base64" in found:
            assert base64.b64decode(found["value_base64"]) == record.value
        elif record.value is None:
            assert found["value"] is None
        else:
            assert found["value"] == json.loads(record.value)
        heads = [(one["name"], back(one.get("value"), one.get("value_base64"))) for one in found["headers"]]
        assert heads == list(record.headers)


sizes = st.lists(st.sampled_from([0, 10, BATCH_BYTES_MAX // 3, BATCH_BYTES_MAX + 5]), max_size=12)


@given(sizes, st.integers(1, 5), st.none() | st.integers(0, 30))
def test_cutting_keeps_order_and_bounds(found: list[int], most: int, last: int | None) -> None:
    records = [Record(None, bytes(size), (), 0, 2 * n) for n, size in enumerate(found)]
    pieces = list(cut(records, most, last))
    assert [record for piece in pieces for record in piece] == records
    for piece in pieces:
        assert 1 <= len(piece) <= most
        assert len(piece) == 1 or sum(map(record_bytes, piece)) <= BATCH_BYTES_MAX
    if last is not None and pieces and records[0].offset <= last:
        assert pieces[0][-1].offset <= last, "a batch that is tried again gains no records"


@given(st.lists(st.none() | st.binary(max_size=1), max_size=30), st.integers(1, 16))
def test_lanes_keep_the_order_of_each_key(keys: list[bytes | None], count: int) -> None:
    records = [Record(key, None, (), 0, n) for n, key in enumerate(keys)]
    lanes = lanes_of(records, count)
    assert len(lanes) <= count
    assert sorted(record.offset for lane in lanes.values() for record in lane) == list(range(len(records)))
    homes: dict[bytes | None, int] = {}
    for number, lane in lanes.items():
        assert [record.offset for record in lane] == sorted(record.offset for record in lane)
        for record in lane:
            assert homes.setdefault(record.key, number) == number
