"""Topic configs by Kafka's names: types, bounds, defaults, documentation.

Four kinds of answer to a name:
- it works as in Kafka (`retention.ms`, `max.message.bytes`, ...);
- it is accepted and changes nothing, because what it tunes has no counterpart here; its documentation says so. Such
  configs come with every topic that tools copy from a Kafka cluster, and ignoring them neither loses nor reorders data;
- the name is known, but the value asks for what is not done here (recompression, unclean elections):
  refused with the reason;
- the name is unknown: refused, with the nearest names.

Values travel and are stored as strings; `TopicConfig` is their typed view.
"""

import difflib
import math
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from raftbroker.state.errors import InvalidConfig as InvalidConfig

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1


class ConfigType(StrEnum):
    """Kafka's names of config types, as its admin API shows them."""

    BOOLEAN = "BOOLEAN"
    STRING = "STRING"
    INT = "INT"
    LONG = "LONG"
    DOUBLE = "DOUBLE"
    LIST = "LIST"


class ConfigDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """One config: what it is called, takes and does."""

    name: str
    type: ConfigType
    default: str
    documentation: str
    minimum: float = -math.inf
    maximum: float = math.inf
    choices: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    """Values Kafka takes and this broker does not (yet), each with the reason."""
    effective: bool = True
    """False where it is accepted for compatibility and changes nothing."""


_NOTHING = " Accepted for compatibility; it changes nothing here: "


def _int(name: str, default: int, low: int, high: int, text: str) -> ConfigDefinition:
    kind = ConfigType.INT if high <= INT_MAX else ConfigType.LONG
    return ConfigDefinition(name=name, type=kind, default=str(default), documentation=text, minimum=low, maximum=high)


def _ignored(definition: ConfigDefinition, why: str) -> ConfigDefinition:
    return msgspec.structs.replace(definition, documentation=definition.documentation + _NOTHING + why, effective=False)


def _level(codec: str, default: int, low: int, high: int) -> ConfigDefinition:
    definition = _int(
        f"compression.{codec}.level", default, low, high, f"The level for {codec} when the broker compresses."
    )
    return _ignored(definition, "batches keep the compression their producer chose.")


_DEFINITIONS: tuple[ConfigDefinition, ...] = (
    ConfigDefinition(
        name="cleanup.policy",
        type=ConfigType.LIST,
        default="delete",
        choices=("delete", "compact"),
        documentation="What happens to old records. delete removes them by retention.ms and retention.bytes; compact "
        "keeps the newest record of each key, whatever its age, and refuses records without a key; compact,delete does "
        "both.",
    ),
    _level("gzip", -1, -1, 9),
    _level("lz4", 9, 1, 17),
    _level("zstd", 3, -131072, 22),
    ConfigDefinition(
        name="compression.type",
        type=ConfigType.STRING,
        default="producer",
        choices=("producer",),
        refused=dict.fromkeys(
            ("uncompressed", "gzip", "snappy", "lz4", "zstd"),
            "the broker stores batches exactly as sent: leave it at producer and set the producer's compression.type",
        ),
        documentation="Batches keep the compression their producer chose; producer is the only value.",
    ),
    _int(
        "delete.retention.ms",
        86_400_000,
        0,
        LONG_MAX,
        "How long compaction keeps a tombstone (a record without a value, which deletes its key), in ms after it "
        "has first gone over it: a reader that takes longer from the first record to the last may miss deletions.",
    ),
    _ignored(
        _int("file.delete.delay.ms", 60_000, 0, LONG_MAX, "How long a deleted segment's file stays, in ms."),
        "records are deleted by key range, not by file.",
    ),
    _ignored(
        _int("flush.messages", LONG_MAX, 1, LONG_MAX, "Records between forced fsyncs."),
        "every write is on the disks of a majority before it is acknowledged.",
    ),
    _ignored(
        _int("flush.ms", LONG_MAX, 0, LONG_MAX, "Time between forced fsyncs, in ms."),
        "every write is on the disks of a majority before it is acknowledged.",
    ),
    _ignored(
        _int("index.interval.bytes", 4096, 0, INT_MAX, "Bytes between entries of a segment's index."),
        "every batch is found by its key.",
    ),
    _int(
        "max.compaction.lag.ms",
        LONG_MAX,
        1,
        LONG_MAX,
        "How long compaction may wait for min.cleanable.dirty.ratio, in ms from the append of what is new.",
    ),
    _int(
        "max.message.bytes",
        1_048_588,
        0,
        INT_MAX,
        "The largest record batch taken, in bytes, as compressed by its producer. The broker's own bounds on a request "
        "hold besides.",
    ),
    _int(
        "message.timestamp.after.max.ms",
        3_600_000,
        0,
        LONG_MAX,
        "How far a record's timestamp may be ahead of the broker's clock, in ms; beyond it the batch is refused. Only "
        "with message.timestamp.type=CreateTime.",
    ),
    _int(
        "message.timestamp.before.max.ms",
        LONG_MAX,
        0,
        LONG_MAX,
        "How far a record's timestamp may be behind the broker's clock, in ms; beyond it the batch is refused. Only "
        "with message.timestamp.type=CreateTime.",
    ),
    ConfigDefinition(
        name="message.timestamp.type",
        type=ConfigType.STRING,
        default="CreateTime",
        choices=("CreateTime", "LogAppendTime"),
        documentation="Whether records keep their producer's timestamp or get the time they were appended.",
    ),
    ConfigDefinition(
        name="min.cleanable.dirty.ratio",
        type=ConfigType.DOUBLE,
        default="0.5",
        minimum=0,
        maximum=1,
        documentation="The share of a partition's bytes that has not been compacted yet from which on compaction "
        "goes over it: less keeps it smaller and writes more.",
    ),
    _int(
        "min.compaction.lag.ms",
        0,
        0,
        LONG_MAX,
        "How long a record is left alone by compaction, in ms since it was appended.",
    ),
    _int(
        "min.insync.replicas",
        1,
        1,
        5,
        "How many replicas must be in sync for a write to be taken. A majority of the replicas always has a write on "
        "disk before it is acknowledged, whatever this says and whatever acks a producer asks for; a value above the "
        "majority also refuses writes while fewer replicas than that have caught up.",
    ),
    _ignored(
        ConfigDefinition(
            name="preallocate",
            type=ConfigType.BOOLEAN,
            default="false",
            documentation="Whether a segment's file is allocated whole when it is made.",
        ),
        "there are no segment files.",
    ),
    ConfigDefinition(
        name="remote.storage.enable",
        type=ConfigType.BOOLEAN,
        default="false",
        refused={"true": "tiered storage is not implemented"},
        documentation="Whether old segments move to remote storage; only false.",
    ),
    _int(
        "retention.bytes",
        -1,
        -1,
        LONG_MAX,
        "How many bytes a partition keeps before its oldest records go; -1 is no limit. Records go in chunks, so a "
        "little more than this stays.",
    ),
    _int(
        "retention.ms",
        604_800_000,
        -1,
        LONG_MAX,
        "How long a record is kept, in ms, by its timestamp; -1 is for ever. Records go in chunks, so some stay a "
        "little longer, and none goes while a majority's clocks disagree.",
    ),
    _ignored(
        _int("segment.bytes", 1_073_741_824, 14, INT_MAX, "The size of a segment's file, in bytes."),
        "there are no segment files; the chunks that retention deletes are sized by the broker.",
    ),
    _ignored(
        _int("segment.index.bytes", 10_485_760, 4, INT_MAX, "The size of a segment's index, in bytes."),
        "there are no segment files.",
    ),
    _ignored(
        _int("segment.jitter.ms", 0, 0, LONG_MAX, "Random time taken off segment.ms, in ms."),
        "there are no segment files.",
    ),
    _ignored(
        _int("segment.ms", 604_800_000, 1, LONG_MAX, "How long a segment stays open, in ms."),
        "there are no segment files; the chunks that retention deletes are sized by the broker.",
    ),
    ConfigDefinition(
        name="unclean.leader.election.enable",
        type=ConfigType.BOOLEAN,
        default="false",
        refused={"true": "a leader always holds every acknowledged record; electing another would lose some"},
        documentation="Whether a replica that lacks acknowledged records may lead; only false.",
    ),
)

DEFINITIONS: Mapping[str, ConfigDefinition] = {
    definition.name: definition for definition in sorted(_DEFINITIONS, key=lambda definition: definition.name)
}
"""Every known topic config by name, in order of their names."""


def validate(name: str, value: str) -> str:
    """The value as it is stored (trimmed, numbers and booleans in one spelling). Raises InvalidConfig."""
    definition = DEFINITIONS.get(name)
    if definition is None:
        near = difflib.get_close_matches(name.lower().replace("_", "."), DEFINITIONS, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "the topic configs are " + ", ".join(DEFINITIONS)
        raise InvalidConfig(name, f"there is no such topic config; {hint}")
    text = value.strip()
    if definition.type in (ConfigType.INT, ConfigType.LONG):
        return _whole_number(definition, text)
    if definition.type is ConfigType.DOUBLE:
        return _fraction(definition, text)
    if definition.type is ConfigType.BOOLEAN:
        text = text.lower()
        if text not in ("true", "false"):
            raise InvalidConfig(name, f"{value!r} is neither true nor false")
        _check_refused(definition, text)
        return text
    items = [item.strip() for item in text.split(",")] if definition.type is ConfigType.LIST else [text]
    for item in items:
        _check_refused(definition, item)
        if item not in definition.choices:
            raise InvalidConfig(name, f"{item!r} is not one of {', '.join(definition.choices)}")
    return ",".join(dict.fromkeys(items))


def validate_all(configs: Mapping[str, str]) -> dict[str, str]:
    """The whole map as it is stored, ordered by name. Raises InvalidConfig for the first that cannot be taken."""
    return {name: validate(name, configs[name]) for name in sorted(configs)}


def _check_refused(definition: ConfigDefinition, value: str) -> None:
    reason = definition.refused.get(value)
    if reason is not None:
        raise InvalidConfig(definition.name, f"{value} is refused: {reason}")


def _whole_number(definition: ConfigDefinition, text: str) -> str:
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise InvalidConfig(definition.name, f"{text[:80]!r} is not a whole number")
    number = int(text)
    if not definition.minimum <= number <= definition.maximum:
        raise InvalidConfig(definition.name, f"{number} is out of bounds: {definition.minimum} to {definition.maximum}")
    return str(number)


def _fraction(definition: ConfigDefinition, text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        raise InvalidConfig(definition.name, f"{text[:80]!r} is not a number") from None
    if not definition.minimum <= number <= definition.maximum:
        raise InvalidConfig(definition.name, f"{text} is out of bounds: {definition.minimum} to {definition.maximum}")
    return repr(number)


class TopicConfig(msgspec.Struct, frozen=True):
    """A topic's configs, typed; -1 means no limit for the retention fields."""

    cleanup_policy: str
    compression_type: str
    delete_retention_ms: int
    max_compaction_lag_ms: int
    max_message_bytes: int
    message_timestamp_after_max_ms: int
    message_timestamp_before_max_ms: int
    message_timestamp_type: str
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    min_insync_replicas: int
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_ms: int

    @property
    def log_append_time(self) -> bool:
        return self.message_timestamp_type == "LogAppendTime"

    @property
    def compacted(self) -> bool:
        """The newest record of each key is kept, and every record has a key."""
        return compacted(self.cleanup_policy)

    @property
    def deletes(self) -> bool:
        """Records go by age and size."""
        return "delete" in self.cleanup_policy.split(",")


def compacted(policy: str) -> bool:
    """Whether a `cleanup.policy` asks for compaction."""
    return "compact" in policy.split(",")


def topic_config(configs: Mapping[str, str], defaults: Mapping[str, str] | None = None) -> TopicConfig:
    """The typed view of a topic's own configs over the broker's `defaults` over Kafka's.

    All values must have passed `validate`; names this version does not know are left aside."""
    values: dict[str, str | int | float] = {}
    for field in TopicConfig.__struct_fields__:
        name = field.replace("_", ".")
        definition = DEFINITIONS[name]
        text = configs.get(name) or (defaults or {}).get(name) or definition.default
        kind = definition.type
        values[field] = (
            int(text)
            if kind in (ConfigType.INT, ConfigType.LONG)
            else float(text)
            if kind is ConfigType.DOUBLE
            else text
        )
    return msgspec.convert(values, TopicConfig)
