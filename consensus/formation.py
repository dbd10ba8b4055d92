"""How a node comes to belong to a cluster (C9).

A node that belongs to none asks every peer it is connected with how theirs was formed. If the answer names this very
directory among the first voters, it is one of them; if it does not, this node is new, or its disk was replaced: it
joins as a learner. Only when every initial member is connected and belongs to no cluster either does the one with the
lowest id form it: it draws the cluster's id, writes down who the first voters are, and the others learn by asking.

So a cluster is never formed twice: what one node wrote down is all that the others take, and a node that lost its disk
cannot form a second one while any of the others can be reached and remembers the first.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from consensus.errors import ConsensusError
from consensus.host import Host
from consensus.identity import Formed, formation_rows, stored_formation
from consensus.model import Configuration
from consensus.rpc import RemoteError
from consensus.transport import Peer

LOG = logging.getLogger(__name__)

ASK_SECONDS = 0.05
_METHOD = "formation.get.1"
_encode = msgspec.msgpack.Encoder().encode


class Formation:
    """Ends once this node belongs to a cluster; afterwards it tells others how it was formed."""

    def __init__(self, host: Host, initial: set[int], new_cluster: Callable[[], str]) -> None:
        """`initial`: ids of the nodes that are to form a cluster, this one among them; empty for one that joins."""
        self._host = host
        self._initial = initial
        self._new_cluster = new_cluster
        self.formed = stored_formation(host.store)
        self._peers: dict[int, Peer] = {}
        host.rpc.register(_METHOD, self._tell)
        host.on_peer(self._peer_changed)

    @property
    def configuration(self) -> Configuration | None:
        """The control group's first configuration, where this node is one of its first voters."""
        if self.formed is None or self._host.me not in self.formed.members:
            return None
        return Configuration(self.formed.members)

    async def belong(self) -> Formed:
        """Returns once this node belongs to a cluster, which may take until others can be reached."""
        waited = 0.0
        while self.formed is None:
            formed = await self._learn() or self._draft()
            if formed is None:
                if waited == 0.0 or waited >= 10.0:
                    self._say_what_is_missing()
                    waited = 0.0
                waited += ASK_SECONDS
                await asyncio.sleep(ASK_SECONDS)
                continue
            await self._host.write_node_rows(formation_rows(formed))
            self.formed = formed
        self._host.join_cluster(self.formed.cluster)
        return self.formed

    async def _tell(self, peer: Peer, body: bytes) -> bytes:
        return _encode(self.formed)

    def _peer_changed(self, peer: Peer, connected: bool) -> None:
        if connected:
            self._peers[peer.node] = peer
        else:
            self._peers.pop(peer.node, None)

    async def _learn(self) -> Formed | None:
        """Asks all connected peers; None where none of them belongs to a cluster."""
        self._empty: set[int] = set()
        for node in list(self._peers):
            try:
                answer = await self._host.rpc.call(node, _METHOD, b"", 2.0)
                formed = msgspec.msgpack.decode(answer, type=Formed | None)
            except (ConsensusError, RemoteError, msgspec.DecodeError) as error:
                LOG.debug("node %d did not say how its cluster was formed: %s", node, error)
                continue
            if formed is not None:
                return formed
            self._empty.add(node)
        return None

    def _draft(self) -> Formed | None:
        me = self._host.me
        others = self._initial - {me.node}
        connected = all(node in self._peers and node in self._empty for node in others)
        if me.node not in self._initial or me.node != min(self._initial) or not connected:
            return None
        members = [me, *((self._peers[node].node, self._peers[node].uuid) for node in others)]
        formed = Formed(self._new_cluster(), tuple(type(me)(*member) for member in sorted(members)))
        LOG.info("forms cluster %s of nodes %s", formed.cluster, ", ".join(str(node) for node in sorted(self._initial)))
        return formed

    def _say_what_is_missing(self) -> None:
        missing = sorted(self._initial - {self._host.me.node} - set(self._peers))
        if missing:
            LOG.info("waits for nodes %s to form a cluster with", ", ".join(map(str, missing)))
        elif not self._initial and not self._peers:
            LOG.info("waits for a node of the cluster to join: none can be reached yet")
