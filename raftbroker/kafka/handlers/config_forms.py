"""Configs as Kafka's admin API shows and takes them: resources, types, sources, operations."""

from collections.abc import Iterable
from enum import IntEnum

from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.views import ConfigView
from raftbroker.kafka.context import KafkaContext
from raftbroker.state.configs import DEFINITIONS, ConfigType


class Resource(IntEnum):
    TOPIC = 2
    BROKER = 4


class Source(IntEnum):
    """Where a value comes from."""

    DYNAMIC_TOPIC = 1
    STATIC_BROKER = 4
    DEFAULT = 5


class Kind(IntEnum):
    BOOLEAN = 1
    STRING = 2
    INT = 3
    LONG = 5
    DOUBLE = 6
    LIST = 7
    PASSWORD = 9


KIND_OF_TYPE = {
    ConfigType.BOOLEAN: Kind.BOOLEAN,
    ConfigType.STRING: Kind.STRING,
    ConfigType.INT: Kind.INT,
    ConfigType.LONG: Kind.LONG,
    ConfigType.DOUBLE: Kind.DOUBLE,
    ConfigType.LIST: Kind.LIST,
}
KIND_OF_KEY = {
    "integer": Kind.LONG,
    "boolean": Kind.BOOLEAN,
    "list": Kind.LIST,
    "secret": Kind.PASSWORD,
}
"""Of a node's configuration; what is not named is a string."""


def source_of(config: ConfigView) -> Source:
    """Of a topic's config: set for it, or by this node's configuration, or Kafka's default."""
    if not config.is_default:
        return Source.DYNAMIC_TOPIC
    definition = DEFINITIONS.get(config.name)
    differs = definition is not None and definition.default != config.default
    return Source.STATIC_BROKER if differs else Source.DEFAULT


def shown_value(config: ConfigView) -> str | None:
    return None if config.sensitive else config.value


def check_topic_resource(kind: int, name: str) -> None:
    """Only topics' configs change while a cluster runs. Raises InvalidRequest."""
    if kind == Resource.BROKER:
        raise InvalidRequest(
            "a node's configuration is in its file, its environment and its command line: set it there and restart it"
        )
    if kind != Resource.TOPIC:
        raise InvalidRequest(f"resources of type {kind} have no configs here, only topics (2) and brokers (4) have")
    if not name:
        raise InvalidRequest("the topic's name is empty", field="topic_name")


async def change_topic(
    context: KafkaContext, topic: str, changes: dict[str, str | None], *, validate_only: bool
) -> None:
    await context.broker.alter_configs(
        topic, changes, validate_only=validate_only, timeout=context.options.request_timeout
    )


def check_named_once(names: Iterable[str]) -> None:
    """Raises InvalidRequest."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidRequest(f"config {name[:260]} is named twice; name each once")
        seen.add(name)
