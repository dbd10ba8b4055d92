"""How commands travel in the log: one version byte, then msgpack of a tagged array.

The version covers the encoding of all commands of a kind of group; a new command is a new tag, guarded by the cluster's
feature version. What cannot be decoded in a committed entry is never skipped: `UnknownCommand` stops the node (C10),
for going on would make its state differ from the others'.
"""

from typing import Generic, TypeVar

import msgspec

from consensus.errors import UnknownCommand

VERSION = 1
_VERSION_BYTE = bytes([VERSION])
_encoder = msgspec.msgpack.Encoder()


class Command(msgspec.Struct, frozen=True, array_like=True, tag_field="t"):
    """The root of all commands of this package."""


T = TypeVar("T", bound=Command)


def encode_command(command: Command) -> bytes:
    """The bytes to propose."""
    return _VERSION_BYTE + _encoder.encode(command)


class CommandDecoder(Generic[T]):
    """Decodes the commands of one kind of group; `decoder` is for the union of their types."""

    def __init__(self, kind: str, decoder: "msgspec.msgpack.Decoder[T]") -> None:
        self._kind = kind
        self._decode = decoder.decode

    def decode(self, data: bytes) -> T:
        """Raises UnknownCommand for anything this version does not know."""
        if data[:1] != _VERSION_BYTE:
            version = str(data[0]) if data else "none"
            raise UnknownCommand(
                f"a committed {self._kind} command has encoding version {version}, this node knows {VERSION}: "
                "start it with a newer raftbroker"
            )
        try:
            return self._decode(memoryview(data)[1:])
        except msgspec.DecodeError as error:
            raise UnknownCommand(
                f"a committed {self._kind} command is not known to this version ({error}): "
                "start this node with a newer raftbroker"
            ) from error
