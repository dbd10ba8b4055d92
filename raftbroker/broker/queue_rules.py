"""What a queue may be called, what a message may be, how much may be asked at once; refusals name the field."""

import re
from collections.abc import Sequence

from raftbroker.broker.errors import (
    BrokerError,
    IdempotencyConflict,
    InvalidConfig,
    InvalidRequest,
    QueueFull,
    QueueRefused,
    RecordTooLarge,
    UnknownQueue,
)
from raftbroker.broker.queue_views import MessageDraft
from raftbroker.broker.webhook_delivery import check_url
from raftbroker.state.queues import ops
from raftbroker.state.queues.config import DAY_MS, LOCK_MS_MAX
from raftbroker.state.queues.messages import PRIORITY_MAX
from raftbroker.state.queues.ops import MESSAGES_PER_OP, Refusal, Token
from raftbroker.state.queues.outbox import QUEUE_PREFIX

CONTENT_BYTES_MAX = 1 << 20
"""Of one message, with key and headers."""
REQUEST_BYTES_MAX = 16 << 20
"""Of the messages sent with one request."""
KEY_CHARACTERS_MAX = 1024
HEADERS_MAX = 64
DEDUP_CHARACTERS_MAX = 255
DELAY_MS_MAX = 366 * DAY_MS
TTL_MS_MAX = 3660 * DAY_MS

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}", re.ASCII)
_TOKEN = re.compile(r"([0-9a-f]{1,12})-([0-9a-f]{1,8})-([0-9a-f]{16})", re.ASCII)
_ID = re.compile(r"[0-9]{1,15}", re.ASCII)


def check_queue_name(name: str, field: str = "queue") -> None:
    """As for topics. Raises InvalidRequest."""
    if name in (".", "..") or not _NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:60] + "..."
        raise InvalidRequest(
            f"{shown!r} is not a queue name: 1 to 249 characters out of letters, digits, '.', '_' and '-'", field=field
        )


def _check_number(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidRequest(f"{field} is {value}: it must be from {least} to {most}", field=field)


def check_count(field: str, value: int) -> None:
    _check_number(field, value, 1, MESSAGES_PER_OP)


def check_lock(lock_ms: int) -> None:
    _check_number("lock_ms", lock_ms, 0, LOCK_MS_MAX)


def check_delay(delay_ms: int) -> None:
    _check_number("delay_ms", delay_ms, 0, DELAY_MS_MAX)


def check_drafts(drafts: Sequence[MessageDraft]) -> None:
    """Raises InvalidRequest, which names the first message that is wrong."""
    if not 1 <= len(drafts) <= MESSAGES_PER_OP:
        raise InvalidRequest(
            f"1 to {MESSAGES_PER_OP} messages go into one request, not {len(drafts)}", field="messages"
        )
    for position, draft in enumerate(drafts):
        try:
            _check_draft(draft)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"messages[{position}]: {error.message}", field=f"messages[{position}].{error.field}"
            ) from None


def _check_draft(draft: MessageDraft) -> None:
    if draft.priority is not None:
        _check_number("priority", draft.priority, 0, PRIORITY_MAX)
    check_delay(draft.delay_ms)
    _check_number("ttl_ms", draft.ttl_ms, 0, TTL_MS_MAX)
    if draft.key is not None and len(draft.key) > KEY_CHARACTERS_MAX:
        raise InvalidRequest(f"a key has at most {KEY_CHARACTERS_MAX} characters", field="key")
    if draft.dedup_id is not None and not 1 <= len(draft.dedup_id) <= DEDUP_CHARACTERS_MAX:
        raise InvalidRequest(f"a dedup_id has 1 to {DEDUP_CHARACTERS_MAX} characters", field="dedup_id")
    if len(draft.headers) > HEADERS_MAX:
        raise InvalidRequest(f"a message has at most {HEADERS_MAX} headers", field="headers")
    if draft.receipt:
        _check_receipt(draft.receipt)


def _check_receipt(receipt: str) -> None:
    if receipt.startswith(QUEUE_PREFIX):
        check_queue_name(receipt.removeprefix(QUEUE_PREFIX), "receipt")
        return
    check_url(receipt, "receipt")


def check_sizes(contents: Sequence[bytes]) -> None:
    """Raises RecordTooLarge."""
    for position, content in enumerate(contents):
        if len(content) > CONTENT_BYTES_MAX:
            raise RecordTooLarge(
                f"messages[{position}] has {len(content)} bytes with its key and headers, at most {CONTENT_BYTES_MAX} "
                "are taken: keep large bodies elsewhere and send where they are",
                field=f"messages[{position}].body",
            )
    if sum(map(len, contents)) > REQUEST_BYTES_MAX:
        raise RecordTooLarge(
            f"the messages have more than {REQUEST_BYTES_MAX} bytes together: send fewer with each request",
            field="messages",
        )


def show_token(token: Token) -> str:
    return f"{token.number:x}-{token.delivery:x}-{token.nonce:016x}"


def read_token(text: str) -> Token | None:
    """None for a text that no lock has."""
    found = _TOKEN.fullmatch(text)
    return Token(*(int(part, 16) for part in found.groups())) if found is not None else None


def read_id(text: str) -> int | None:
    return int(text) if _ID.fullmatch(text) else None


_REFUSALS: dict[str, type[BrokerError]] = {
    ops.UNKNOWN_QUEUE: UnknownQueue,
    ops.INVALID_CONFIG: InvalidConfig,
    ops.INVALID: InvalidRequest,
    ops.ILLEGAL: QueueRefused,
    ops.CONFLICT: IdempotencyConflict,
}


def error_of(refusal: Refusal) -> BrokerError:
    """A refusal of the state, as front doors know errors."""
    if refusal.code == ops.FULL:
        return QueueFull(refusal.message, field=refusal.field)
    named = f"{refusal.field}: {refusal.message}" if refusal.code in (ops.INVALID_CONFIG, ops.INVALID) else ""
    return _REFUSALS[refusal.code](named or refusal.message, field=refusal.field)
