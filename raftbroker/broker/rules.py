"""What a topic may be called and how large it may be: Kafka's rules for names, our bounds for counts."""

import re
from collections.abc import Mapping

from raftbroker.broker.errors import (
    ConfigChanged,
    InvalidConfig,
    InvalidPartitions,
    InvalidReplicationFactor,
    InvalidRequest,
)
from raftbroker.state import configs as state_configs
from raftbroker.state.errors import InvalidConfig as InvalidStateConfig

PARTITIONS_PER_TOPIC_MAX = 10_000
REPLICATION_FACTOR_MAX = 5

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}", re.ASCII)


def check_topic_name(name: str) -> None:
    """Raises InvalidRequest with the field topic_name."""
    if name in (".", ".."):
        raise InvalidRequest(f"a topic cannot be called {name!r}: choose another name", field="topic_name")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:60] + "..."
        raise InvalidRequest(
            f"{shown!r} is not a topic name: 1 to 249 characters out of letters, digits, '.', '_' and '-'",
            field="topic_name",
        )


def check_partition_count(count: int) -> None:
    if not 1 <= count <= PARTITIONS_PER_TOPIC_MAX:
        raise InvalidPartitions(
            f"a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, {count} were asked for", field="partitions_count"
        )


def check_replication_factor(factor: int) -> None:
    if not 1 <= factor <= REPLICATION_FACTOR_MAX:
        raise InvalidReplicationFactor(
            f"the replication factor is 1 to {REPLICATION_FACTOR_MAX}, {factor} was asked for",
            field="replication_factor",
        )


def check_configs(configs: Mapping[str, str]) -> dict[str, str]:
    """The configs as they are stored."""
    return {name: check_config(name, value) for name, value in sorted(configs.items())}


def check_config(name: str, value: str) -> str:
    try:
        return state_configs.validate(name, value)
    except InvalidStateConfig as error:
        raise InvalidConfig(f"topic config {error}", field=name) from error


def check_changes(changes: Mapping[str, str | None]) -> dict[str, str | None]:
    """The changes as they are stored. Also a config that is put back to its default has to exist."""
    for name, value in changes.items():
        if value is None and name not in state_configs.DEFINITIONS:
            check_config(name, "")
    return {name: None if value is None else check_config(name, value) for name, value in changes.items()}


def check_expected(configs: Mapping[str, str], expected: Mapping[str, str | None], defaults: Mapping[str, str]) -> None:
    """A topic's own configs are as expected: a value that is set, or the default (of this node where `defaults` has
    it); None is for one that is not set. Raises ConfigChanged."""
    for name, value in expected.items():
        holds = configs.get(name)
        if value is not None and holds is None:
            holds = defaults.get(name, state_configs.DEFINITIONS[name].default)
        if holds != value:
            raise ConfigChanged(
                f"{name} is {holds!r}, expected was {'that it is not set' if value is None else repr(value)}: nothing "
                "was changed. Read it and decide anew",
                field=name,
            )
