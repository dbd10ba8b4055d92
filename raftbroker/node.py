"""A running node, put together: the one place that makes clocks, random numbers, sockets and threads.

`Core` is everything of a node but the outside world: store, transport, disk and clocks are handed in, so that the
simulation runs the very same thing. `Node` gives it the real ones and opens the front doors.

Start-up, in order: the files of the store are checked and opened; the identity is read and the boot counter raised
durably; HTTP listens (alive, not ready); peers are dialled; the node belongs to a cluster, at once if it did before;
the control group opens, then the data groups that the control state names; Kafka clients are let in once the control
state has this node, for one that knew no other nodes and no topics would tell its clients that there are none; the node
is ready once the control state has caught up.
"""

import asyncio
import logging
import os
import random
import resource
import secrets
import shutil
import ssl
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from consensus.election import ElectionTiming
from consensus.formation import Formation
from consensus.group import Group
from consensus.host import Host
from consensus.identity import Identity, take_identity
from consensus.replication import Limits
from consensus.status import GroupLimits
from consensus.store import Disk, Store
from consensus.tcp import PeerTls, TcpTransport
from consensus.transport import Peer, Transport
from raftbroker.broker.broker import Broker
from raftbroker.broker.context import CONTROL, BrokerOptions
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.webhook_delivery import AddressRules, Sender
from raftbroker.config import KEYS, Config, Secret, Value, split_address
from raftbroker.http import HttpOptions, Metric, ProcessUsage, bounded, make_app, make_runner
from raftbroker.http.webhook_poster import WebhookPoster
from raftbroker.kafka.context import KafkaOptions, NodeConfig
from raftbroker.kafka.server import KafkaListener
from raftbroker.state.control import ControlMachine
from raftbroker.storage import LogStore, RecordReader, StorageOptions, open_store
from raftbroker.storage.disk import ThreadDisk

LOG = logging.getLogger(__name__)

LOOPBACK_SECRET = b"raftbroker on loopback, where no secret is set"
"""Proves nothing; only for listeners that other machines cannot reach. `config` demands a real one for the rest."""
HAND_OVER_SECONDS = 1.0
"""How long a node that stops in order waits for others to take over the groups it leads."""


@dataclass(frozen=True)
class Outside:
    """What a node is handed of the outside world."""

    clock: Callable[[], float]
    """Monotonic seconds."""
    wall: Callable[[], int]
    """Epoch milliseconds."""
    random: random.Random
    new_id: Callable[[], str]
    """32 hex digits, never the same twice."""


@dataclass(frozen=True)
class Settings:
    """What a core is told."""

    timing: ElectionTiming
    limits: GroupLimits
    broker: BrokerOptions
    initial: dict[int, str]
    """Node id -> peer address of those that form the cluster; empty for a node that joins."""
    join: tuple[str, ...] = ()


class Core:
    """A node without front doors."""

    def __init__(
        self,
        identity: Identity,
        store: Store,
        records: RecordReader,
        disk: Disk,
        transport: Transport,
        outside: Outside,
        settings: Settings,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._transport = transport
        self.host = Host(
            identity,
            store,
            disk,
            transport,
            clock=outside.clock,
            random=outside.random,
            timing=settings.timing,
            limits=settings.limits,
            on_fatal=on_fatal,
        )
        self.control = ControlMachine()
        self.formation = Formation(self.host, set(settings.initial), outside.new_id)
        self.broker = Broker(
            self.host, self.control, records, settings.broker, outside.clock, outside.wall, outside.random
        )
        self.host.on_applied(self._applied)
        self._belonging: asyncio.Task[None] | None = None
        self.registered = asyncio.Event()
        """Set once the control state here has this node."""

    async def start(self) -> None:
        """Returns once this node listens to its peers; it belongs to a cluster as soon as it can."""
        self._transport.set_addresses(self._settings.initial)
        self._transport.seek(list(self._settings.join))
        await self.host.start()
        self._belonging = asyncio.get_running_loop().create_task(self._belong(), name="belong")

    async def _belong(self) -> None:
        try:
            formed = await self.formation.belong()
            first = min(self._settings.initial, default=0) == self.host.me.node
            self.host.open_group(CONTROL, self.control, self.formation.configuration, prefer=first)
            self._know_addresses()
            self._know_self()
            await self.broker.start()
            LOG.info("node %d belongs to cluster %s", self.host.me.node, formed.cluster)
        except Exception as error:  # noqa: BLE001  a node that cannot start must say so and stop
            self.host.fatal(error)

    def _applied(self, group: Group) -> None:
        if group.id == CONTROL:
            self._know_addresses()
            self._know_self()

    def _know_self(self) -> None:
        node = self.control.node(self.host.me.node)
        if node is not None and node.uuid == self.host.me.uuid:
            self.registered.set()

    def _know_addresses(self) -> None:
        known = {node.id: node.peer for node in self.control.nodes()}
        addresses = self._settings.initial | known
        addresses.pop(self.host.me.node, None)
        self._transport.set_addresses(addresses)

    async def hand_over(self, timeout: float) -> None:
        """Lets others lead the groups that this node leads, as far as they can in `timeout` seconds."""
        led = [group for group in self.host.groups.values() if group.leading and len(group.configuration.voters) > 1]
        done = await asyncio.gather(*(group.transfer(None, timeout) for group in led), return_exceptions=True)
        for group, outcome in zip(led, done, strict=True):
            if isinstance(outcome, BaseException):
                LOG.info("group %d was not handed over: %s", group.id, outcome)

    async def stop(self) -> None:
        if self._belonging is not None:
            self._belonging.cancel()
            await asyncio.gather(self._belonging, return_exceptions=True)
        await self.broker.stop()
        await self.host.stop()

    def abandon(self) -> None:
        """Ends at once, as a crash does."""
        if self._belonging is not None:
            self._belonging.cancel()
        self.host.abandon()


class Node:
    """One node of a cluster, serving."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        """Ends with the cause once this node cannot go on: its process should stop."""
        self._store: LogStore | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._disk: ThreadDisk | None = None
        self._compacting: ThreadPoolExecutor | None = None
        self._runner: web.AppRunner | None = None
        self._http_socket: asyncio.Server | None = None
        self._kafka: KafkaListener | None = None
        self._kafka_socket: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self._poster: WebhookPoster | None = None
        self.core: Core | None = None

    async def start(self) -> None:
        """Returns once HTTP listens; Kafka clients are let in later. Raises Damaged, IdentityMismatch, OSError (an
        address in use)."""
        config = self.config
        storage = StorageOptions(
            reserve_bytes=config.storage.reserve_bytes,
            ballast_bytes=config.storage.ballast_bytes,
            memtable_bytes=config.storage.memtable_bytes,
            cache_bytes=config.storage.cache_bytes,
        )
        self._store, records = open_store(Path(config.node.data_dir), storage)
        nonce = secrets.token_hex(8)
        identity = take_identity(self._store, config.node.id, lambda: uuid.uuid4().hex, nonce)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="commit")
        me = Peer(identity.member.node, identity.member.uuid, identity.boot, nonce, "", config.peers.advertised)
        rng = random.Random(secrets.randbits(64))
        transport = TcpTransport(
            me,
            config.peers.listen,
            secret=config.peers.secret.reveal() or LOOPBACK_SECRET,
            random=rng,
            random_bytes=secrets.token_bytes,
            tls=_peer_tls(config),
        )
        outside = Outside(time.monotonic, _wall, rng, lambda: uuid.uuid4().hex)
        self._disk = ThreadDisk(self._store, self._executor)
        self.core = Core(identity, self._store, records, self._disk, transport, outside, _settings(config), self._fatal)
        self._compacting = ThreadPoolExecutor(1, thread_name_prefix="compact")
        self.core.broker.compactor.aside = partial(asyncio.get_running_loop().run_in_executor, self._compacting)
        rules = AddressRules(config.webhooks.allowed_networks)
        self._poster = WebhookPoster(rules)
        sender = Sender(self._poster, rules, _wall)
        self.core.broker.webhooks.sender = sender
        self.core.broker.queues.notifier = sender
        await self._listen(self.core.broker, rng)
        await self._listen_kafka(self.core.broker, rng)
        await self.core.start()
        self._opening = asyncio.get_running_loop().create_task(self._open_kafka(self.core), name="open Kafka")

    async def _open_kafka(self, core: Core) -> None:
        assert self._kafka_socket is not None
        await core.registered.wait()
        try:
            await self._kafka_socket.start_serving()
        except OSError as error:
            self._fatal(error)
            return
        LOG.info("node %d serves Kafka on %s", self.config.node.id, self.config.kafka.listen)

    async def _listen(self, broker: Broker, rng: random.Random) -> None:
        http = self.config.http
        options = HttpOptions(
            wall=_wall,
            random=rng,
            process_usage=_usage,
            more_metrics=self._kafka_metrics,
            base_url=f"http://{http.advertised}",
            body_bytes_max=http.body_bytes_max,
            requests_max=http.requests_max,
            request_timeout=http.request_timeout_ms / 1000,
            consumer_idle_ms=http.consumer_idle_ms,
            allowed_origins=http.allowed_origins,
        )
        self._runner = make_runner(make_app(broker, options))
        await self._runner.setup()
        host, port = split_address(http.listen)
        accept = bounded(self._runner, http.connections_max)
        self._http_socket = await asyncio.get_running_loop().create_server(accept, host, port, backlog=128)

    def _kafka_metrics(self) -> list[Metric]:
        return [] if self._kafka is None else [Metric(*family) for family in self._kafka.metrics()]

    async def _listen_kafka(self, broker: Broker, rng: random.Random) -> None:
        kafka = self.config.kafka
        options = KafkaOptions(
            random=rng,
            advertised=split_address(kafka.advertised),
            frame_bytes_max=kafka.frame_bytes_max,
            connections_max=kafka.connections_max,
            request_bytes_max=kafka.request_bytes_max,
            answer_bytes_max=kafka.answer_bytes_max,
            idle_timeout=kafka.idle_timeout_ms / 1000,
            auto_create_topics=kafka.auto_create_topics,
            log_dir=str(self.config.node.data_dir),
            disk_bytes=self._disk_bytes,
            node_configs=_node_configs(self.config),
        )
        self._kafka = KafkaListener(broker, options)
        host, port = split_address(kafka.listen)
        self._kafka_socket = await asyncio.get_running_loop().create_server(
            self._kafka.connect, host, port, start_serving=False
        )

    def _disk_bytes(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self.config.node.data_dir)
        return usage.total, usage.free

    def _fatal(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    async def stop(self) -> None:
        """Hands leadership over, ends what is under way, writes what is pending, closes the store."""
        if self.core is not None and self.core.host.broken is None:
            await self.core.hand_over(HAND_OVER_SECONDS)
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for listening in (self._http_socket, self._kafka_socket):
            if listening is not None:
                listening.close()
        if self._kafka is not None:
            await self._kafka.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if self.core is not None:
            await self.core.stop()
        if self._poster is not None:
            await self._poster.close()
        if self._compacting is not None:
            self._compacting.shutdown(wait=True)
        if self._executor is not None and self._disk is not None:
            self._disk.close()
            self._executor.shutdown(wait=True)
        if self._store is not None:
            self._store.close()


def _settings(config: Config) -> Settings:
    raft = config.raft
    initial = config.cluster.initial_members
    if not initial and not config.cluster.join:
        initial = {config.node.id: config.peers.advertised}
    log = config.log
    return Settings(
        timing=ElectionTiming(raft.heartbeat_ms / 1000, raft.election_min_ms / 1000, raft.election_max_ms / 1000),
        limits=GroupLimits(
            replication=Limits(raft.append_bytes_max, raft.inflight_bytes_max),
            log_entries_max=raft.log_entries_max,
            log_bytes_max=raft.log_bytes_max,
            proposal_bytes_max=raft.proposal_bytes_max,
        ),
        broker=BrokerOptions(
            peer=config.peers.advertised,
            http=config.http.advertised,
            kafka=config.kafka.advertised,
            coordinator_shards=config.cluster.coordinator_shards,
            groups=_group_options(config),
            transaction_timeout_ms_max=config.transactions.timeout_ms_max,
            transactional_id_retain_ms=config.transactions.id_expiration_ms,
            default_partitions=log.default_partitions,
            default_replication_factor=log.default_replication_factor,
            topic_defaults={"retention.ms": str(log.retention_ms), "retention.bytes": str(log.retention_bytes)},
            entry_bytes_max=raft.entry_bytes_max,
            retention_check=log.retention_check_ms / 1000,
            compaction_check=log.compaction_check_ms / 1000,
            compaction_bytes_per_second=log.compaction_bytes_per_second,
            compaction_map_bytes=log.compaction_map_bytes,
        ),
        initial=initial,
        join=config.cluster.join,
    )


def _group_options(config: Config) -> GroupOptions:
    groups = config.groups
    return GroupOptions(
        session_ms_min=groups.session_ms_min,
        session_ms_max=groups.session_ms_max,
        initial_rebalance_delay_ms=groups.initial_rebalance_delay_ms,
        size_max=groups.size_max,
        offsets_retain_ms=groups.offsets_retention_minutes * 60_000,
        consumer_session_ms=groups.consumer_session_ms,
        consumer_heartbeat_ms=groups.consumer_heartbeat_ms,
    )


def _node_configs(config: Config) -> tuple[NodeConfig, ...]:
    """The configuration as Kafka's tools are shown it."""
    found = []
    for info in KEYS.values():
        value: Value = getattr(getattr(config, info.section), info.name)
        shown = None if isinstance(value, Secret) else _text(value)
        found.append(
            NodeConfig(info.key.kafka or info.full_name, shown, _text(info.default), info.kind, info.key.comment)
        )
    return tuple(found)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if isinstance(value, Secret) else str(value)


def _peer_tls(config: Config) -> PeerTls | None:
    peers = config.peers
    if not peers.tls_cert:
        return None
    contexts = []
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cafile=peers.tls_ca)
        context.load_cert_chain(peers.tls_cert, peers.tls_key)
        context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    return PeerTls(contexts[0], contexts[1])


def _wall() -> int:
    return time.time_ns() // 1_000_000


def _usage() -> ProcessUsage:
    used = resource.getrusage(resource.RUSAGE_SELF)
    resident = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    statm = Path("/proc/self/statm")
    if statm.exists():
        resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return ProcessUsage(used.ru_utime + used.ru_stime, resident)
