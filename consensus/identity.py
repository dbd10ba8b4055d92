"""Who this node is, who its peers were, and which cluster it belongs to (C9).

A data directory is an identity: node id, a UUID drawn when the directory was first used, a boot counter that every
start raises durably before anything else, and a nonce drawn at every start. Peers remember the latest counter and
nonce of every directory they met: a counter that went back, or the same counter with another nonce, is a directory
that was copied back in time, whose votes and acknowledgements were forgotten. It is refused and told the way out, for
good: each further start raises its counter, and would soon raise it past the one that was seen.
"""

from collections.abc import Callable, Mapping

import msgspec

from consensus.errors import ConsensusError
from consensus.model import Member
from consensus.store import Store, Write
from consensus.transport import Peer

NODE_ROWS = -1
"""The group number under which rows of the node itself are written."""
_IDENTITY = b"identity"
_CLUSTER = b"cluster"
_PEER = b"peer/"

_encode = msgspec.msgpack.Encoder().encode


class IdentityMismatch(ConsensusError):
    """The data directory is another node's."""


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    node: int
    uuid: str
    boot: int


class _Met(msgspec.Struct, frozen=True, array_like=True):
    boot: int
    nonce: str
    copied_back: bool = False


class Formed(msgspec.Struct, frozen=True, array_like=True):
    """How a cluster was formed: its id and the first voters of its control group."""

    cluster: str
    members: tuple[Member, ...]


class Identity(msgspec.Struct, frozen=True):
    member: Member
    boot: int
    nonce: str


def take_identity(store: Store, node: int, new_uuid: Callable[[], str], nonce: str) -> Identity:
    """Reads or makes the directory's identity and raises its boot counter, durably, before it is used.

    Raises IdentityMismatch where the directory was made by a node with another id."""
    row = store.node_row(_IDENTITY)
    stored = msgspec.msgpack.decode(row, type=_Stored) if row is not None else _Stored(node, new_uuid(), 0)
    if stored.node != node:
        raise IdentityMismatch(
            f"this data directory belongs to node {stored.node}, but node.id is {node}: "
            "set node.id to match, or give this node a directory of its own"
        )
    stored = _Stored(node, stored.uuid, stored.boot + 1)
    store.write([Write(NODE_ROWS, node={_IDENTITY: _encode(stored)})])
    store.sync()
    return Identity(Member(node, stored.uuid), stored.boot, nonce)


def stored_formation(store: Store) -> Formed | None:
    row = store.node_row(_CLUSTER)
    return msgspec.msgpack.decode(row, type=Formed) if row is not None else None


def formation_rows(formed: Formed) -> dict[bytes, bytes | None]:
    return {_CLUSTER: _encode(formed)}


class Acquaintances:
    """The boot counters of the peers this node has met."""

    def __init__(self, store: Store, remember: Callable[[Mapping[bytes, bytes | None]], None]) -> None:
        self._store = store
        self._remember = remember
        self._met: dict[bytes, _Met] = {}

    def refusal(self, peer: Peer) -> str | None:
        """Why this peer's directory cannot be trusted, or None; then it is remembered."""
        key = _PEER + f"{peer.node}/{peer.uuid}".encode()
        met = self._met.get(key)
        if met is None:
            row = self._store.node_row(key)
            met = msgspec.msgpack.decode(row, type=_Met) if row is not None else _Met(0, "")
        went_back = peer.boot < met.boot or (peer.boot == met.boot and peer.nonce != met.nonce)
        if went_back and not met.copied_back:
            met = self._met[key] = _Met(met.boot, met.nonce, True)
            self._remember({key: _encode(met)})
        if met.copied_back:
            return (
                f"the data directory of node {peer.node} is an older copy of itself (start {met.boot} was seen, and "
                "then that one or an earlier one anew): it may have forgotten what it acknowledged. Move it away and "
                "start the node with an empty directory; it rejoins as a learner and is promoted once it has caught up"
            )
        now = _Met(peer.boot, peer.nonce)
        if now != met:
            self._met[key] = now
            self._remember({key: _encode(now)})
        return None
