"""Messages made at random from their definitions, and what two other codecs make of the same bytes."""

import importlib
import io
import random
import re
import uuid
from typing import Any

from kafka.protocol import admin, consumer, metadata, producer
from kafka.protocol.api_message import ApiMessage
from kafka.protocol.schemas import BaseField
from kafka.protocol.schemas.fields import ArrayField, StructField
from kio.serial import entity_reader, entity_writer

from raftbroker.kafka.definitions import consumer_groups

_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
_LETTERS = "abcdefghijklmnopqrstuvwxyz-._ ÄÖ€"
_LAST_ERROR_CODE = 119
"""kio knows the codes up to some release of Kafka."""


def sample(rng: random.Random, kind: type[ApiMessage], version: int) -> Any:
    """A message with every field of its version, each at random; tagged fields are there or not."""
    return _struct(rng, kind._struct, kind, version)


def _struct(rng: random.Random, struct: Any, kind: type, version: int) -> Any:
    fields = {}
    for field in struct._fields:
        if field.for_version_q(version) and (not field.tagged_field_q(version) or rng.random() < 0.5):
            fields[field.name] = _value(rng, field, version)
    return kind(version=version, **fields)


def _value(rng: random.Random, field: BaseField, version: int) -> Any:
    if field.nullable_for_version_q(version) and rng.random() < 0.3:
        return None
    if isinstance(field, ArrayField):
        count = rng.choice((0, 1, 1, 2, 5))
        of = field.array_of
        if isinstance(of, StructField):
            return [_struct(rng, of, of.data_class, version) for _ in range(count)]
        return [_simple(rng, of) for _ in range(count)]
    if isinstance(field, StructField):
        return _struct(rng, field, field.data_class, version)
    return _simple(rng, field)


def _simple(rng: random.Random, field: BaseField) -> Any:
    kind, name = field.type_str, field.name
    if name.endswith("error_code"):
        return rng.randint(-1, _LAST_ERROR_CODE)
    if name.endswith(("_ms", "timestamp")):
        return rng.randint(0, 1 << 30)
    if kind in _BITS:
        edge = 1 << _BITS[kind] - 1
        return rng.choice((0, 1, -1, edge - 1, -edge, rng.randint(-edge, edge - 1)))
    if kind == "uint16":
        return rng.randint(0, 65535)
    if kind == "float64":
        return rng.uniform(-1e9, 1e9)
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "uuid":
        return uuid.UUID(int=rng.getrandbits(128))
    if kind == "bitfield":
        return {rng.randint(0, 20) for _ in range(3)}
    size = rng.choice((0, 1, 5, 40, 300))
    if kind in ("bytes", "records"):
        return rng.randbytes(size)
    return "".join(rng.choices(_LETTERS, k=size))


def kio_class(kind: type[ApiMessage], version: int) -> Any:
    """kio's class of the same message."""
    side = "request" if kind.is_request() else "response"
    name = re.sub("(Request|Response)$", "", kind.name)
    folder = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
    module = importlib.import_module(f"kio.schema.{folder}.v{version}.{side}")
    return getattr(module, kind.name)


def through_kio(kind: type[ApiMessage], version: int, body: bytes) -> bytes:
    """The bytes as kio reads and writes them again."""
    entity = kio_class(kind, version)
    read, size = entity_reader(entity)(body, 0)
    assert size == len(body)
    written = io.BytesIO()
    entity_writer(entity)(written, read)
    return written.getvalue()


def _find_messages() -> dict[tuple[int, bool], type[ApiMessage]]:
    found = {}
    for module in (admin, consumer, metadata, producer, consumer_groups):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, ApiMessage) and kind is not ApiMessage:
                found[kind.API_KEY, kind.is_request()] = kind
    return found


MESSAGES = _find_messages()
"""By API key and whether it is the request."""
