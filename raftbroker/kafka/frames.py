"""Frames, and the header of a request and of an answer, which are read and written by hand.

A frame is four bytes of length and then that many bytes: header, then body. A request's header is API key, version,
correlation id and client id; with flexible versions tagged fields follow. An answer's is the correlation id, and with
flexible versions an empty list of tagged fields.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

from raftbroker.kafka.api import Api
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.reader import UNSOUND, Reader

SIZE_BYTES = 4
FRAME_BYTES_MIN = 10
"""A header whose client id is null."""
API_VERSIONS = 18
"""ApiVersions is special: any client, of any age, must be able to ask with it and to read the answer."""

_SIZE = Struct(">i")
_START = Struct(">hhi")
_ANSWER = Struct(">ii")
_FLEXIBLE_ANSWER = Struct(">iiB")


class Header(NamedTuple):
    """A request's header. `api` is None for ApiVersions in a version that is not served."""

    api: Api[Any, Any] | None
    version: int
    correlation_id: int
    client_id: str | None
    body_at: int


def frame_size(head: bytes | bytearray | memoryview, at: int, bytes_max: int) -> int:
    """The size that the four bytes at `at` announce. Raises BrokenFrame."""
    (size,) = _SIZE.unpack_from(head, at)
    if FRAME_BYTES_MIN <= size <= bytes_max:
        return int(size)
    start = bytes(head[at : at + SIZE_BYTES])
    if start[:1] == b"\x16":
        raise BrokenFrame("it speaks TLS, which this listener does not")
    if start.isalpha() or start in (b"GET ", b"PUT "):
        raise BrokenFrame("it speaks HTTP or the like; this listener speaks Kafka's protocol")
    raise BrokenFrame(f"it announces a request of {size} bytes; {FRAME_BYTES_MIN} to {bytes_max} are taken")


def read_header(frame: memoryview, apis: Mapping[int, Api[Any, Any]]) -> Header:
    """Raises BrokenFrame, also for what is not served: there is no answer that the client would understand."""
    key, version, correlation_id = _START.unpack_from(frame)
    api = apis.get(key)
    if api is None:
        raise BrokenFrame(f"it asks for API {key}, which is not served (nor advertised)")
    served = api.min_version <= version <= api.max_version
    if not served and key != API_VERSIONS:
        raise BrokenFrame(
            f"it asks for {api.name} version {version}; {api.min_version} to {api.max_version} are served"
        )
    reader = Reader(frame, _START.size)
    try:
        client_id = reader.nullable_string(compact=False)
        if served and version >= api.codec.flexible_from:
            reader.tags()
    except (BrokenFrame, *UNSOUND) as error:
        raise BrokenFrame(f"the header of its {api.name} request is not sound: {error}") from error
    return Header(api if served else None, version, correlation_id, client_id, reader.at)


def answer_head(header: Header, body_bytes: int) -> bytes:
    """The length and the header that go before an answer's body."""
    api = header.api
    if api is None or api.key == API_VERSIONS or header.version < api.codec.flexible_from:
        return _ANSWER.pack(body_bytes + 4, header.correlation_id)
    return _FLEXIBLE_ANSWER.pack(body_bytes + 5, header.correlation_id, 0)
