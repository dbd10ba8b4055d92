"""What a webhook is, as the control group keeps it: its definition, the bounds of each field, and how it is changed.

Pure. A definition that is in the state is sound; `changed` makes the next one of it. The secret is in the state, as
signing needs it, and in nothing that is shown: `repr` leaves it out.
"""

import re
from collections.abc import Mapping

import msgspec

from raftbroker.state.errors import StateError

WEBHOOKS_MAX = 256
STARTS_MAX = 1_000
"""Partitions of a topic that a webhook can begin at the ends of."""

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,200}", re.ASCII)
_SECRET = re.compile(r"[\x21-\x7e]{16,256}", re.ASCII)

Value = int | str | bool
Change = Value | None
"""None puts a field back to its default."""


class InvalidWebhook(StateError):
    """A field that cannot be taken; the text says why and does not repeat the value."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field} {reason}")


class Webhook(msgspec.Struct, frozen=True, array_like=True):
    """`topic` or `queue` is the source, the other is empty. Times are ms."""

    name: str
    id: str
    """Drawn when it is made: another one of the same name has another."""
    version: int
    """Grows by 1 with each change."""
    created_ms: int
    topic: str = ""
    topic_id: str = ""
    """Of the topic when the webhook was made."""
    starts: tuple[int, ...] = ()
    """Where to begin in that topic's partitions; elsewhere at the log start offset."""
    queue: str = ""
    url: str = ""
    secret: str = ""
    batch_size: int = 100
    concurrency: int = 1
    timeout_ms: int = 10_000
    backoff_ms: int = 500
    backoff_ms_max: int = 60_000
    attempts: int = 10
    dead_letter_queue: str = ""
    paused: bool = False

    def __repr__(self) -> str:
        return f"Webhook({self.name!r}, id={self.id!r}, version={self.version})"

    @property
    def group(self) -> str:
        """The consumer group that its offsets are committed under."""
        return f"webhook.{self.name}"


NUMBERS: Mapping[str, tuple[int, int]] = {
    "batch_size": (1, 1_000),
    "concurrency": (1, 16),
    "timeout_ms": (100, 60_000),
    "backoff_ms": (10, 60_000),
    "backoff_ms_max": (10, 3_600_000),
    "attempts": (1, 1_000),
}
"""The bounds of the numbers that can be set."""

SOURCES = ("topic", "queue")
SETTABLE = (*SOURCES, "url", "secret", *NUMBERS, "dead_letter_queue", "paused")
_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(Webhook)}


def check_name(name: str) -> None:
    """Raises InvalidWebhook."""
    if name in (".", "..") or not _NAME.fullmatch(name):
        raise InvalidWebhook("name", "is not a webhook's name: 1 to 200 letters, digits, '.', '_' and '-'")


def changed(current: Webhook, changes: Mapping[str, Change]) -> Webhook:
    """The definition with these fields set, the others as they are; the same one where nothing differs.

    Raises InvalidWebhook."""
    values: dict[str, Value] = {}
    for field, value in changes.items():
        if field not in SETTABLE:
            raise InvalidWebhook(field, f"is not a field of a webhook: there are {', '.join(SETTABLE)}")
        if value is None and field in (*SOURCES, "url", "secret"):
            raise InvalidWebhook(field, "has no default: leave it out, or give a value")
        values[field] = _DEFAULTS[field] if value is None else _typed(field, value)
    made = msgspec.structs.replace(current, **values)
    for field in SOURCES:
        if current.version and getattr(made, field) != getattr(current, field):
            raise InvalidWebhook(field, "is not changed: delete the webhook and make another, or give it another name")
    _check(made)
    return current if made == current else msgspec.structs.replace(made, version=current.version + 1)


def _typed(field: str, value: Value) -> Value:
    default = _DEFAULTS[field]
    if type(value) is not type(default):
        kind = {int: "a whole number", bool: "true or false", str: "a text"}[type(default)]
        raise InvalidWebhook(field, f"must be {kind}")
    return value


def _check(webhook: Webhook) -> None:
    if bool(webhook.topic) == bool(webhook.queue):
        raise InvalidWebhook("topic", "or queue is where a webhook's records come from: give one of the two")
    if not webhook.url:
        raise InvalidWebhook("url", "is missing")
    if not _SECRET.fullmatch(webhook.secret):
        raise InvalidWebhook(
            "secret",
            "must be 16 to 256 visible ASCII characters without spaces, for instance from `openssl rand -hex 32`",
        )
    for field, (least, most) in NUMBERS.items():
        value = getattr(webhook, field)
        if not least <= value <= most:
            raise InvalidWebhook(field, f"is {value}: it must be from {least} to {most}")
    if webhook.backoff_ms_max < webhook.backoff_ms:
        raise InvalidWebhook(
            "backoff_ms_max", f"is {webhook.backoff_ms_max}, less than backoff_ms ({webhook.backoff_ms})"
        )
    if webhook.dead_letter_queue and webhook.queue:
        raise InvalidWebhook(
            "dead_letter_queue", "is for topics: a queue's own dead.letter.queue says where its messages go"
        )
