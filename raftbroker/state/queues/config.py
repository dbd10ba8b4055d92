"""The configs of a queue: names, defaults, bounds, and what each does. Times are ms."""

from collections.abc import Mapping
from typing import Any

import msgspec

from raftbroker.state.errors import InvalidConfig

DAY_MS = 86_400_000
LOCK_MS_MAX = 12 * 3_600_000
DEDUP_MS_MIN = 60_000
"""More than a request lasts: one that is tried again within it is always recognised."""
RETENTION_MS_MAX = 3660 * DAY_MS
NAME_CHARACTERS_MAX = 249

ConfigValue = int | str | bool | None


class QueueConfig(msgspec.Struct, frozen=True, array_like=True):
    """What is in force for a queue."""

    lock_ms: int = 30_000
    deliveries_max: int = 10
    dead_letter_queue: str = ""
    retention_ms: int = 7 * DAY_MS
    dedup_window_ms: int = 300_000
    ordered_by_key: bool = False


class Definition(msgspec.Struct, frozen=True):
    """One config: its name outside, the field it sets, and the whole numbers it may be (None: not a number)."""

    name: str
    field: str
    doc: str
    least: int | None = None
    most: int | None = None


DEFINITIONS = {
    definition.name: definition
    for definition in (
        Definition(
            "lock.ms", "lock_ms", "How long a receiver holds a message unless it asks otherwise.", 1, LOCK_MS_MAX
        ),
        Definition(
            "max.deliveries",
            "deliveries_max",
            "After so many deliveries without an acknowledgement a message is dead; 0: never.",
            0,
            1_000_000,
        ),
        Definition(
            "dead.letter.queue",
            "dead_letter_queue",
            "Where dead messages go; made when it is missing. Without one they stay in the queue, aside.",
        ),
        Definition(
            "retention.ms",
            "retention_ms",
            "A message that is not consumed goes after so long, a dead one so long after it died; -1: never.",
            -1,
            RETENTION_MS_MAX,
        ),
        Definition(
            "dedup.window.ms",
            "dedup_window_ms",
            "For how long a dedup_id, or an Idempotency-Key, is remembered after it was sent.",
            DEDUP_MS_MIN,
            7 * DAY_MS,
        ),
        Definition(
            "ordered.by.key",
            "ordered_by_key",
            "Whether a key's next message waits until the one before is acknowledged or dead.",
        ),
    )
}


def changed(config: QueueConfig, changes: Mapping[str, ConfigValue], queue: str) -> QueueConfig:
    """The config with these changes; None puts one back to its default. Raises InvalidConfig."""
    values: dict[str, Any] = {}
    for name, value in changes.items():
        definition = DEFINITIONS.get(name)
        if definition is None:
            raise InvalidConfig(name, f"there is no such config of a queue; there are {', '.join(DEFINITIONS)}")
        values[definition.field] = _checked(definition, value, queue)
    return msgspec.structs.replace(config, **values)


def _checked(definition: Definition, value: ConfigValue, queue: str) -> Any:
    name = definition.name
    if value is None:
        return getattr(QueueConfig(), definition.field)
    if definition.least is not None and definition.most is not None:
        if isinstance(value, bool) or not isinstance(value, int) or not definition.least <= value <= definition.most:
            raise InvalidConfig(name, f"{value!r} is not a whole number from {definition.least} to {definition.most}")
    elif definition.field == "ordered_by_key":
        if not isinstance(value, bool):
            raise InvalidConfig(name, f"{value!r} is neither true nor false")
    elif not isinstance(value, str) or len(value) > NAME_CHARACTERS_MAX:
        raise InvalidConfig(name, "must be the name of a queue")
    elif value == queue:
        raise InvalidConfig(name, f"{queue} cannot be its own dead-letter queue: name another, or none")
    return value


def shown(config: QueueConfig) -> dict[str, ConfigValue]:
    """All configs by name; no dead-letter queue is None."""
    values: dict[str, ConfigValue] = {
        name: getattr(config, definition.field) for name, definition in DEFINITIONS.items()
    }
    values["dead.letter.queue"] = config.dead_letter_queue or None
    return values
