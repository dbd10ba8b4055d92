"""What consensus asks of a network between nodes: messages to a node, in order, or not at all.

Within one connection messages arrive whole, unchanged and in the order sent. A connection that breaks loses what
was under way, and both ends are told. Across connections nothing is promised: late, duplicated and reordered
messages are the replicas' business.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from consensus.messages import Message


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection, as it proved itself in the handshake."""

    node: int
    uuid: str
    """Of its data directory, 32 hex digits."""
    boot: int
    """How often that directory has been started."""
    nonce: str
    """Drawn anew at every start: two starts with one boot counter are a directory that was copied back (C9)."""
    cluster: str
    """The cluster's id; empty while the node belongs to none."""
    address: str
    """host:port where its peers reach it."""


class Inbox(Protocol):
    """Who receives; called on the event loop, must not raise for anything a peer can send."""

    def peer_allowed(self, peer: Peer) -> str | None:
        """Whether to talk with this peer at all: None, or the reason for the refusal, which it is told."""

    def peer_connected(self, peer: Peer) -> None: ...

    def peer_disconnected(self, peer: Peer) -> None: ...

    def peer_messages(self, peer: Peer, messages: list[Message]) -> None: ...

    def refused_by(self, node: int | None, address: str, reason: str) -> None:
        """A peer would not talk with us; the reason is its `peer_allowed`'s."""


class Transport(Protocol):
    def send(self, node: int, message: Message) -> bool:
        """Queues for the end of this loop turn, when all messages to a node leave in one frame.

        False where there is no connection or its bound of unsent bytes is reached: the message is dropped."""

    def connected(self, node: int) -> Peer | None: ...

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """Whom to keep a connection with: node id -> host:port; nodes left out are let go."""

    def seek(self, addresses: list[str]) -> None:
        """Addresses of nodes whose ids are not yet known, dialled until a handshake tells (joining)."""

    def update_identity(self, cluster: str) -> None:
        """What this node tells of itself in handshakes from now on."""

    async def start(self, inbox: Inbox) -> None: ...

    async def stop(self) -> None: ...


Clock = Callable[[], float]
"""Monotonic seconds."""
