"""Errors travel between nodes without loss."""

import msgspec
import pytest

from raftbroker.broker import errors
from raftbroker.broker.errors import BrokerError, WireError, from_wire, to_wire


def concrete(root: type[BrokerError] = BrokerError) -> list[type[BrokerError]]:
    return [root, *(found for child in root.__subclasses__() for found in concrete(child))]


@pytest.mark.parametrize("kind", concrete())
def test_every_error_survives_the_wire(kind: type[BrokerError]) -> None:
    error = kind("it went wrong", field="offset")
    for n, name in enumerate(kind.numbers):
        setattr(error, name, 7 + n)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(to_wire(error)), type=WireError)
    back = from_wire(wire)
    assert type(back) is kind
    assert (back.message, back.field, str(back)) == ("it went wrong", "offset", "it went wrong")
    assert [getattr(back, name) for name in kind.numbers] == [7 + n for n in range(len(kind.numbers))]


def test_an_unknown_kind_is_named() -> None:
    error = from_wire(WireError("Novel", "from the future", None, (1, 2)))
    assert isinstance(error, errors.Internal)
    assert "Novel" in error.message
    assert "from the future" in error.message
