"""Receipts to webhooks: which URLs they may be sent to, said when the message is sent, and what a failure puts off.

A receiver that refuses one receipt shall not hold up those behind it, and one that is down shall not be called for
each of thousands: so a receipt that failed waits by itself, and its URL waits as well when nothing got through to it.
None of this is remembered beyond the leader: the next one begins with all that is not confirmed.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.queue_views import MessageDraft
from raftbroker.broker.webhook_delivery import back_off
from raftbroker.state.queues.outbox import QUEUE_PREFIX

HOSTS_MAX = 32
"""Of the URLs in one request."""
BELIEVED_SECONDS = 60.0
"""For so long a host that may be sent to is not looked up again."""
BELIEVED_MAX = 1_000
PAUSE_MIN, PAUSE_MAX = 0.2, 30.0
_PUT_OFF_MAX = 10_000
"""Beyond, those whose time has come are forgotten, and then all: they are tried again, and fail again."""


class Notifier(Protocol):
    """Delivers receipts to webhooks; a `webhook_delivery.Sender` is one."""

    async def check(self, url: str, field: str = "url") -> None:
        """Raises InvalidRequest for a URL that may not be posted to."""

    async def send(self, url: str, body: bytes, *, timeout: float) -> None:
        """Returns once the receiver has taken the JSON. Raises OSError or TimeoutError otherwise: tried again later."""


class ReceiptUrls:
    """Refuses messages whose receipts would go where they may not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._believed: dict[str, float] = {}
        """By host, until when."""

    async def check(self, notifier: Notifier, drafts: Sequence[MessageDraft]) -> None:
        """Raises InvalidRequest, which names the message."""
        urls: dict[str, tuple[str, str]] = {}
        for position, draft in enumerate(drafts):
            if draft.receipt and not draft.receipt.startswith(QUEUE_PREFIX):
                host = urlsplit(draft.receipt).hostname or ""
                urls.setdefault(host, (draft.receipt, f"messages[{position}].receipt"))
        now = self._clock()
        unknown = {host: about for host, about in urls.items() if self._believed.get(host, now) <= now}
        if len(unknown) > HOSTS_MAX:
            field = list(unknown.values())[HOSTS_MAX][1]
            raise InvalidRequest(
                f"the receipts go to more than {HOSTS_MAX} hosts: send fewer messages with each request", field=field
            )
        if unknown:
            await asyncio.gather(*(notifier.check(url, field) for url, field in unknown.values()))
            if len(self._believed) + len(unknown) > BELIEVED_MAX:
                self._believed.clear()
            self._believed.update(dict.fromkeys(unknown, now + BELIEVED_SECONDS))


class Pauses:
    """What has failed, destinations or single parcels, and from when on each may be tried again."""

    def __init__(self, clock: Callable[[], float], drawn: random.Random) -> None:
        self._clock = clock
        self._drawn = drawn
        self._pauses: dict[str | int, tuple[int, float]] = {}
        """By what is paused: failures in a row, and until when."""

    def failed(self, what: str | int) -> None:
        failures = self._pauses.get(what, (0, 0.0))[0] + 1
        pause = back_off(failures, PAUSE_MIN, PAUSE_MAX, self._drawn.random())
        self._pauses[what] = (failures, self._clock() + pause)
        if len(self._pauses) > _PUT_OFF_MAX:
            self._forget()

    def _forget(self) -> None:
        now = self._clock()
        self._pauses = {what: pause for what, pause in self._pauses.items() if pause[1] > now}
        if len(self._pauses) > _PUT_OFF_MAX // 2:
            self._pauses.clear()

    def well(self, what: str | int) -> None:
        self._pauses.pop(what, None)

    def failures(self, what: str | int) -> int:
        """In a row; 0 where it went well the last time."""
        return self._pauses.get(what, (0, 0.0))[0]

    def until(self, what: str | int) -> float:
        """When it may be tried again; 0: at any time."""
        return self._pauses.get(what, (0, 0.0))[1]
