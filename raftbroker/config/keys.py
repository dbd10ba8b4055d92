"""Every key a node can be told, with its default, its comment and its bounds: one struct per section.

Promises that `KEYS` lists all of them in the order they are documented; the template, the checks, the
documentation and the tests follow from it.
"""

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from raftbroker.config.values import (
    ENVIRONMENT_PREFIX,
    SECRET_LENGTH_MIN,
    Key,
    Secret,
    Value,
    check_address,
    check_initial,
    check_network,
    check_optional_address,
    check_origin,
)

_MIB = 1 << 20


def _address(purpose: str, kafka: str = "") -> Key:
    return Key(f"{purpose} Loopback unless you say otherwise.", check=check_address, kafka=kafka)


def _advertised(who: str, kafka: str = "") -> Key:
    return Key(
        f"Where {who} reach this node, when that is not `listen`: behind a proxy, in a container, or when"
        " listening on every interface. Empty: the same as `listen`.",
        check=check_optional_address,
        kafka=kafka,
    )


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """This node itself."""

    id: Annotated[
        int, Key("This node's number, unique in the cluster and never changed.", 1, 65535, kafka="broker.id")
    ] = 1
    data_dir: Annotated[
        Path,
        Key(
            "Where this node keeps everything. One node, one directory; never copy it to another node.",
            kafka="log.dirs",
        ),
    ] = Path("data")


class PeersConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the nodes of a cluster talk with each other."""

    listen: Annotated[str, _address("Where the other nodes connect.")] = "127.0.0.1:7082"
    advertised: Annotated[str, _advertised("the other nodes")] = ""
    secret: Annotated[
        Secret,
        Key(
            f"The secret all nodes share and prove to each other, at least {SECRET_LENGTH_MIN} characters. Needed as"
            " soon as `listen` is not loopback. Better kept in `secret_file` or the environment than here."
        ),
    ] = Secret()
    secret_file: Annotated[
        str, Key("A file that holds the shared secret; white space around it is ignored. Instead of `secret`.")
    ] = ""
    tls_cert: Annotated[
        str,
        Key(
            "This node's certificate chain, PEM. With tls_key and tls_ca, peers talk mutual TLS and accept only"
            " certificates that tls_ca signed."
        ),
    ] = ""
    tls_key: Annotated[str, Key("The private key of tls_cert, PEM.")] = ""
    tls_ca: Annotated[str, Key("The authority that signed every peer's certificate, PEM.")] = ""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP front door."""

    listen: Annotated[str, _address("Where HTTP clients connect.")] = "127.0.0.1:8082"
    advertised: Annotated[str, _advertised("HTTP clients and other nodes' links")] = ""
    body_bytes_max: Annotated[
        int, Key("The largest request body taken, in bytes; a larger one is answered 413.", 64 * 1024, 1 << 30)
    ] = 32 * _MIB
    connections_max: Annotated[
        int, Key("How many clients may be connected; more are answered 503 and closed at once.", 1, 1_000_000)
    ] = 2000
    requests_max: Annotated[
        int, Key("How many requests may be under way at once; more are answered 429 with Retry-After.", 1, 1_000_000)
    ] = 1024
    request_timeout_ms: Annotated[
        int,
        Key(
            "How long a request may wait for the cluster before it is answered as unavailable (certainly not done)"
            " or unknown (perhaps done), in milliseconds.",
            100,
            600_000,
        ),
    ] = 30_000
    allowed_origins: Annotated[
        tuple[str, ...],
        Key(
            'Web pages that may open event streams and WebSockets, by their origin, for instance "https://app.example":'
            ' "loopback" for all pages of the user\'s own machine, "*" for all there are. This node\'s own always may.',
            check=check_origin,
        ),
    ] = ("loopback",)
    consumer_idle_ms: Annotated[
        int,
        Key(
            "A consumer instance that nothing is asked of for so long is closed and leaves its group; milliseconds.",
            1_000,
            86_400_000,
        ),
    ] = 300_000


class KafkaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The Kafka front door: Kafka's own clients and tools connect here."""

    listen: Annotated[str, _address("Where Kafka clients connect.", "listeners")] = "127.0.0.1:9092"
    advertised: Annotated[str, _advertised("Kafka clients", "advertised.listeners")] = ""
    auto_create_topics: Annotated[
        bool,
        Key(
            "Whether a Kafka client that asks for a topic which does not exist makes it, with `log`'s defaults; Kafka"
            " does so too. HTTP never does.",
            kafka="auto.create.topics.enable",
        ),
    ] = True
    frame_bytes_max: Annotated[
        int,
        Key(
            "The largest request taken, in bytes; a larger one closes its connection. A batch of 32 MiB fits.",
            64 * 1024,
            1 << 30,
            kafka="socket.request.max.bytes",
        ),
    ] = 36 * _MIB
    request_bytes_max: Annotated[
        int,
        Key(
            "Bytes of all requests being read or served; beyond it further requests are not read until there is room.",
            1 * _MIB,
            1 << 36,
            kafka="queued.max.request.bytes",
        ),
    ] = 256 * _MIB
    answer_bytes_max: Annotated[
        int,
        Key(
            "Bytes of all answers that slow clients have not taken; beyond it the slowest is cut off.",
            1 * _MIB,
            1 << 36,
        ),
    ] = 256 * _MIB
    connections_max: Annotated[
        int, Key("How many clients may be connected; more are closed at once.", 1, 1_000_000, kafka="max.connections")
    ] = 2000
    idle_timeout_ms: Annotated[
        int,
        Key(
            "A connection that sends nothing and waits for nothing this long is closed, in milliseconds.",
            1000,
            86_400_000,
            kafka="connections.max.idle.ms",
        ),
    ] = 600_000


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster this node belongs to. With neither key set it is a cluster of its own."""

    initial: Annotated[
        tuple[str, ...],
        Key(
            "The nodes that form the cluster the first time, this one among them, as ID@host:port of their peers"
            " address; the same list on each. They form it only when all of them are reachable and empty; later the"
            " list serves to find the others. Example: 1@10.0.0.1:7082",
            check=check_initial,
        ),
    ] = ()
    join: Annotated[
        tuple[str, ...],
        Key(
            "For a node that joins a cluster that already runs: peers addresses (host:port) of one or more of its"
            " nodes. Not together with `initial`.",
            check=check_address,
        ),
    ] = ()
    coordinator_shards: Annotated[
        int,
        Key(
            "How many Raft groups share the work of coordinating consumer groups, transactions and queues. Read when"
            " the cluster forms; fixed from then on.",
            1,
            64,
        ),
    ] = 4

    @property
    def initial_members(self) -> dict[int, str]:
        """`initial` as node id -> host:port."""
        pairs = (member.split("@", 1) for member in self.initial)
        return {int(number): address for number, address in pairs}


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Replication. The defaults suit one site; raise the three times together between distant sites."""

    heartbeat_ms: Annotated[
        int, Key("How often a leader tells its followers that it is there, in milliseconds.", 10, 10_000)
    ] = 200
    election_min_ms: Annotated[
        int,
        Key(
            "A follower that hears nothing campaigns after this long at the earliest; at least 3 heartbeats. A leader"
            " whose process dies is replaced sooner: its connections break.",
            50,
            60_000,
        ),
    ] = 1000
    election_max_ms: Annotated[
        int, Key("... and after this long at the latest; the moment between is drawn at random.", 100, 120_000)
    ] = 2000
    entry_bytes_max: Annotated[
        int, Key("The largest log entry a leader makes by putting requests together, in bytes.", 1024, 64 * _MIB)
    ] = _MIB
    append_bytes_max: Annotated[
        int, Key("About how many bytes of entries one message to a follower carries.", 1024, 64 * _MIB)
    ] = _MIB
    inflight_bytes_max: Annotated[
        int, Key("Bytes sent to one follower of one group and not yet acknowledged.", 1024, 1 << 30)
    ] = 16 * _MIB
    proposal_bytes_max: Annotated[
        int,
        Key("Bytes proposed in one group and not yet applied; beyond it producers are told to wait.", 4096, 1 << 32),
    ] = 64 * _MIB
    log_entries_max: Annotated[
        int,
        Key(
            "Entries of a group's log kept for followers that fall behind; one further behind gets a snapshot. Tests"
            " set it low to see snapshots.",
            2,
            100_000_000,
        ),
    ] = 20_000
    log_bytes_max: Annotated[
        int, Key("The same bound in bytes, records included (they are stored once, whatever it is).", 1024, 1 << 40)
    ] = 128 * _MIB


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The one RocksDB of this node."""

    memtable_bytes: Annotated[
        int, Key("Memory for rows not yet in a table file, all column families together.", 1 * _MIB, 4 << 30)
    ] = 32 * _MIB
    cache_bytes: Annotated[int, Key("Memory for blocks read from table files.", 1 * _MIB, 64 << 30)] = 16 * _MIB
    reserve_bytes: Annotated[
        int,
        Key(
            "Writes of new records are refused while the disk has less room than this; reads and deletes go on, and"
            " writes resume by themselves when there is room again.",
            0,
            1 << 40,
        ),
    ] = 256 * _MIB
    ballast_bytes: Annotated[
        int,
        Key(
            "Size of a file that only takes room, given up when the disk is full so that deleting can still be"
            " written down. 0: none.",
            0,
            1 << 34,
        ),
    ] = 64 * _MIB


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic gets when it is created without saying otherwise."""

    default_partitions: Annotated[int, Key("Partitions of a new topic.", 1, 10_000, kafka="num.partitions")] = 1
    default_replication_factor: Annotated[
        int,
        Key(
            "Replicas of a new topic; while there are fewer nodes, the missing ones wait for nodes to join.",
            1,
            5,
            kafka="default.replication.factor",
        ),
    ] = 3
    retention_ms: Annotated[
        int,
        Key(
            "How long records are kept, in milliseconds; -1: for ever. Seven days.",
            -1,
            1 << 62,
            kafka="log.retention.ms",
        ),
    ] = 604_800_000
    retention_bytes: Annotated[
        int,
        Key(
            "How many bytes a partition keeps; older records go first. -1: no bound.",
            -1,
            1 << 62,
            kafka="log.retention.bytes",
        ),
    ] = -1
    retention_check_ms: Annotated[
        int,
        Key(
            "How often leaders look for records past their retention, in milliseconds.",
            100,
            86_400_000,
            kafka="log.retention.check.interval.ms",
        ),
    ] = 30_000
    compaction_check_ms: Annotated[
        int,
        Key(
            "How often leaders look for partitions to compact, in milliseconds.",
            100,
            86_400_000,
            kafka="log.cleaner.backoff.ms",
        ),
    ] = 15_000
    compaction_bytes_per_second: Annotated[
        int,
        Key(
            "How much compaction reads and writes on this node, in bytes a second.",
            1 << 16,
            1 << 40,
            kafka="log.cleaner.io.max.bytes.per.second",
        ),
    ] = 32 * _MIB
    compaction_map_bytes: Annotated[
        int,
        Key(
            "Memory for the keys that one pass of compaction knows, 30 bytes each; one that has not enough goes in"
            " several passes. There is one pass at a time.",
            32 * _MIB,
            1 << 34,
            kafka="log.cleaner.dedupe.buffer.size",
        ),
    ] = 64 * _MIB


class GroupsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Consumer groups, of Kafka clients and HTTP consumers alike. The same on every node."""

    session_ms_min: Annotated[
        int,
        Key(
            "The shortest session a member may ask for, in milliseconds: silent for longer, it is gone.",
            100,
            3_600_000,
            kafka="group.min.session.timeout.ms",
        ),
    ] = 6_000
    session_ms_max: Annotated[int, Key("The longest one.", 100, 86_400_000, kafka="group.max.session.timeout.ms")] = (
        1_800_000
    )
    initial_rebalance_delay_ms: Annotated[
        int,
        Key(
            "How long a group that was empty waits after each new member for another one, in milliseconds, so that a"
            " group that starts is assigned once.",
            0,
            60_000,
            kafka="group.initial.rebalance.delay.ms",
        ),
    ] = 500
    size_max: Annotated[int, Key("Members of one group.", 1, 2_000, kafka="group.max.size")] = 1_000
    offsets_retention_minutes: Annotated[
        int,
        Key(
            "How long a group without members keeps its offsets after it was last used. Seven days.",
            1,
            52_560_000,
            kafka="offsets.retention.minutes",
        ),
    ] = 10_080
    consumer_session_ms: Annotated[
        int,
        Key(
            "Members of the newer protocol (KIP-848): silent for longer, they are gone. In milliseconds.",
            100,
            3_600_000,
            kafka="group.consumer.session.timeout.ms",
        ),
    ] = 45_000
    consumer_heartbeat_ms: Annotated[
        int,
        Key(
            "... and how often they are told to let themselves be heard of.",
            50,
            3_600_000,
            kafka="group.consumer.heartbeat.interval.ms",
        ),
    ] = 5_000


class TransactionsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Transactions of Kafka clients. The same on every node."""

    timeout_ms_max: Annotated[
        int,
        Key(
            "The longest time-out that a transactional producer may ask for, in milliseconds. A transaction that is"
            " open for longer than its producer said is aborted.",
            1_000,
            86_400_000,
            kafka="transaction.max.timeout.ms",
        ),
    ] = 900_000
    id_expiration_ms: Annotated[
        int,
        Key(
            "How long a transactional id that is not used is remembered, in milliseconds. Seven days.",
            60_000,
            31_536_000_000,
            kafka="transactional.id.expiration.ms",
        ),
    ] = 604_800_000


class WebhooksConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What this node sends to webhooks. The same on every node."""

    allowed_networks: Annotated[
        tuple[str, ...],
        Key(
            "Networks that webhooks may point into beside the public internet, for instance 10.1.0.0/16. Addresses of"
            " loopback, private and link-local networks are refused unless they are in one of these.",
            check=check_network,
        ),
    ] = ()


class LoggingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the node writes about itself, one event a line, on standard error."""

    level: Annotated[str, Key("The least that is worth a line.", choices=("debug", "info", "warning", "error"))] = (
        "info"
    )
    json: Annotated[bool, Key("Lines as JSON objects, for log collectors.")] = False


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node can be told."""

    node: NodeConfig = NodeConfig()
    peers: PeersConfig = PeersConfig()
    http: HttpConfig = HttpConfig()
    kafka: KafkaConfig = KafkaConfig()
    cluster: ClusterConfig = ClusterConfig()
    raft: RaftConfig = RaftConfig()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()
    groups: GroupsConfig = GroupsConfig()
    transactions: TransactionsConfig = TransactionsConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    logging: LoggingConfig = LoggingConfig()


class KeyInfo(msgspec.Struct, frozen=True):
    """One key, for documentation and rendering."""

    section: str
    name: str
    kind: str
    """"integer", "boolean", "string", "path", "secret" or "list"."""
    default: Value
    key: Key

    @property
    def full_name(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def environment(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.section}__{self.name}".upper()

    @property
    def bounds(self) -> str:
        """What values are taken, in words; empty where any of its type is."""
        if self.key.choices:
            return "one of " + ", ".join(self.key.choices)
        if self.key.minimum is not None:
            return f"{self.key.minimum} to {self.key.maximum}"
        return ""


_KINDS: dict[object, str] = {int: "integer", bool: "boolean", str: "string", Path: "path", Secret: "secret"}


def _read_keys() -> tuple[dict[str, str], dict[str, KeyInfo]]:
    sections: dict[str, str] = {}
    keys: dict[str, KeyInfo] = {}
    defaults = Config()
    for section, struct in typing.get_type_hints(Config).items():
        sections[section] = (struct.__doc__ or "").strip()
        for name, hint in typing.get_type_hints(struct, include_extras=True).items():
            kind, key = typing.get_args(hint)
            default = getattr(getattr(defaults, section), name)
            info = KeyInfo(section, name, _KINDS.get(kind, "list"), default, key)
            keys[info.full_name] = info
    return sections, keys


_SECTIONS, _KEYS = _read_keys()
SECTIONS: Mapping[str, str] = types.MappingProxyType(_SECTIONS)
"""Every section with its comment."""
KEYS: Mapping[str, KeyInfo] = types.MappingProxyType(_KEYS)
"""Every key by its full name, in the order they are documented."""
