"""What kafka-python's own decoder makes of broken requests, and ours beside it: decision 2 in docs/decisions."""

import pytest
from kafka.protocol.metadata import MetadataRequest

from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.handlers import APIS

METADATA = APIS[3]


def test_the_library_reads_a_number_of_any_length() -> None:
    """Metadata version 12 for one topic, whose number, one, takes 52 bytes: the more, the longer each takes."""
    body = b"\x82" + b"\x80" * 50 + b"\0" + b"\0" * 16 + b"\x02x\0" + b"\x01\x00\x00"
    assert [topic.name for topic in MetadataRequest.decode(body, version=12).topics] == ["x"]
    with pytest.raises(BrokenFrame, match="32 bits"):
        METADATA.decode(memoryview(body), 12)


def test_the_library_takes_what_is_cut_off_for_what_was_sent() -> None:
    """Metadata version 0 for one topic, whose name has 100 bytes, of which 3 are there."""
    body = b"\0\0\0\x01" + b"\0\x64" + b"abc"
    assert [topic.name for topic in MetadataRequest.decode(body, version=0).topics] == ["abc"]
    with pytest.raises(BrokenFrame, match="a field of 100 bytes begins 3 bytes before the end"):
        METADATA.decode(memoryview(body), 0)
