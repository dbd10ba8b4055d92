"""Records as JSON, in the format a reader asked for: what reads, consumers and pushed streams have in common."""

from binascii import b2a_base64
from collections.abc import Callable

import msgspec

from raftbroker.http.media import Format
from raftbroker.state.batch import Record

_raw = msgspec.json.Decoder(msgspec.Raw)


class NotShowable(ValueError):
    """A key or value cannot be shown in the asked-for format; the text says which of the two."""


def _show_json(data: bytes) -> bytes:
    if not data.isascii():
        data.decode()
    _raw.decode(data)
    return data


def _show_binary(data: bytes) -> bytes:
    return b'"' + b2a_base64(data, newline=False) + b'"'


def _show_string(data: bytes) -> bytes:
    return msgspec.json.encode(data.decode())


_SHOW: dict[Format, Callable[[bytes], bytes]] = {
    Format.JSON: _show_json,
    Format.BINARY: _show_binary,
    Format.STRING: _show_string,
}


def _show_headers(headers: tuple[tuple[str, bytes | None], ...]) -> bytes:
    shown = [
        b'{"name":'
        + msgspec.json.encode(name)
        + b',"value":'
        + (b"null" if value is None else _show_binary(value))
        + b"}"
        for name, value in headers
    ]
    return b',"headers":[' + b",".join(shown) + b"]}"


class Show:
    """Shows the records of one partition, each as the JSON object that `v2_forms.ReadRecord` describes."""

    def __init__(self, topic: str, partition: int, format_: Format) -> None:
        self._start = b'{"topic":' + msgspec.json.encode(topic) + b',"partition":%d,"offset":' % partition
        self._show = _SHOW[format_]

    def record(self, record: Record) -> bytes:
        """Raises NotShowable."""
        return b"".join(
            (
                self._start,
                b'%d,"timestamp":%d,"key":' % (record.offset, record.timestamp)
                if record.timestamp >= 0
                else b'%d,"timestamp":null,"key":' % record.offset,
                b"null" if record.key is None else self._part("key", record.key),
                b',"value":',
                b"null" if record.value is None else self._part("value", record.value),
                b',"headers":[]}' if not record.headers else _show_headers(record.headers),
            )
        )

    def _part(self, part: str, data: bytes) -> bytes:
        try:
            return self._show(data)
        except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            raise NotShowable(part) from error
