"""Requests and answers from their definitions: `messages(Request, Response)` makes the codec of an API.

The definitions, the classes that bear a message's fields and the encoder are kafka-python's, compiled there from
Kafka's own JSON files; messages that it lacks are in `raftbroker.kafka.definitions`, in the same form. Its decoder is
made for answers from a broker that one trusts: it reads varints without end (300 KB of them take seconds), copies the
rest of the frame at every tagged field, and takes what is cut off for what was sent. So requests are decoded here, by
the same definitions, through the bounded `Reader`.

A decoded request has every field of its version; fields of other versions read as their defaults (do not change
those: they are shared). UUIDs of zeros read as None. Answers may leave fields out: they get their defaults.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from kafka.protocol.api_message import ApiMessage
from kafka.protocol.schemas import BaseField, StructField
from kafka.protocol.schemas.fields import ArrayField

from raftbroker.kafka.api import Codec, Parts
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.reader import ELEMENTS_MAX, Reader

Q = TypeVar("Q", bound="ApiMessage")
R = TypeVar("R", bound="ApiMessage")

Read = Callable[[Reader], object]

NEVER_FLEXIBLE = 1 << 15


def messages(request: type[Q], response: type[R], *, elements_max: int = ELEMENTS_MAX) -> Codec[Q, R]:
    """The codec of an API whose messages are these. A request lists at most `elements_max` things: where each costs
    much to answer, say fewer."""
    assert request.json["flexibleVersions"] == response.json["flexibleVersions"], f"{request.name} and its answer"
    flexible = BaseField.parse_versions(request.json["flexibleVersions"])  # type: ignore[no-untyped-call]
    flexible_from = flexible[0] if flexible[0] >= 0 else NEVER_FLEXIBLE

    def decode(body: memoryview, version: int) -> Q:
        return cast(
            Q, _message_reader(request, version, version >= flexible_from)(Reader(body, elements_max=elements_max))
        )

    return Codec(flexible_from, decode, _encode)


def _encode(response: ApiMessage, version: int) -> Parts:
    return (cast(bytearray, response.encode(version=version)),)  # type: ignore[no-untyped-call]


# --- decoding -------------------------------------------------------------------------------------------------


@functools.cache
def _message_reader(kind: type[ApiMessage], version: int, flexible: bool) -> Read:
    return _struct_reader(cast(StructField, kind._struct), kind, version, flexible)


def _struct_reader(struct: StructField, kind: type, version: int, flexible: bool) -> Read:
    fields: list[tuple[str, Read]] = [
        (field.name, _field_reader(field, version, flexible))
        for field in struct.untagged_fields(version)  # type: ignore[no-untyped-call]
    ]
    tagged: Mapping[int, tuple[str, Read]] = {}
    if flexible:
        tagged = {
            field.tag: (field.name, _field_reader(field, version, flexible))
            for field in struct.fields.values()
            if field.for_version_q(version) and field.tagged_field_q(version)
        }

    def read(reader: Reader) -> object:
        made: Any = object.__new__(kind)
        made._version = version
        made.tags = made.unknown_tags = None
        for name, read_field in fields:
            setattr(made, name, read_field(reader))
        if flexible:
            reader.tags(functools.partial(_tag_reader, made, tagged) if tagged else None)
        return made

    return read


def _tag_reader(made: object, tagged: Mapping[int, tuple[str, Read]], tag: int) -> Callable[[Reader], None] | None:
    known = tagged.get(tag)
    if known is None:
        return None
    name, read_field = known
    return lambda reader: setattr(made, name, read_field(reader))


def _field_reader(field: BaseField, version: int, flexible: bool) -> Read:
    nullable = bool(field.nullable_for_version_q(version))  # type: ignore[no-untyped-call]
    if isinstance(field, ArrayField):
        return _array_reader(field, version, flexible, nullable)
    if isinstance(field, StructField):
        read = _struct_reader(field, field.data_class, version, flexible)
        return _nullable_struct_reader(read) if nullable else read
    return _simple_reader(field.type_str, flexible, nullable)


def _nullable_struct_reader(read: Read) -> Read:
    return lambda reader: None if reader.int8() < 0 else read(reader)


def _array_reader(field: ArrayField, version: int, flexible: bool, nullable: bool) -> Read:
    of = field.array_of
    if isinstance(of, StructField):
        element = _struct_reader(of, of.data_class, version, flexible)
    else:
        element = _simple_reader(of.type_str, flexible, nullable=False)
    numbers = of.type_str == "int32"

    def read(reader: Reader) -> object:
        count = reader.nullable_count(flexible)
        if count is None:
            if nullable:
                return None
            raise BrokenFrame(f"{field.name} is null, which it must not be")
        if numbers:
            return reader.int32s(count)
        return [element(reader) for _ in range(count)]

    return read


def _simple_reader(kind: str, flexible: bool, nullable: bool) -> Read:
    if kind == "string":
        return _with_compact(Reader.nullable_string if nullable else Reader.string, flexible)
    if kind in ("bytes", "records"):
        return lambda reader: _copied(reader.nullable_bytes(flexible), nullable)
    return _SIMPLE[kind]


_SIMPLE: Mapping[str, Read] = {
    "int8": Reader.int8,
    "int16": Reader.int16,
    "uint16": Reader.uint16,
    "int32": Reader.int32,
    "int64": Reader.int64,
    "float64": Reader.float64,
    "bool": Reader.boolean,
    "uuid": Reader.uuid,
}


def _with_compact(read: Callable[[Reader, bool], object], compact: bool) -> Read:
    return lambda reader: read(reader, compact)


def _copied(found: memoryview | None, nullable: bool) -> bytes | None:
    if found is None and not nullable:
        raise BrokenFrame("bytes are null that must not be")
    return None if found is None else bytes(found)
