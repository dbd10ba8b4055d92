"""Point-to-point queues, from any node: made, sent to, received from, settled, looked at.

What changes a queue is an op of its shard and goes to its leader; so do receives, which may wait there. Ops are
repeatable where their repetition is recognised: sends with an id, everything about locks (by their tokens). A receive
whose outcome is not known is tried again: what it may have locked comes back when the locks run out.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from raftbroker.broker.context import Context
from raftbroker.broker.errors import InvalidRequest, UnknownMessage, UnknownQueue
from raftbroker.broker.queue_content import FORMAT, Content, decode_content, encode_content, id_hash, key_hash
from raftbroker.broker.queue_desk import Desk
from raftbroker.broker.queue_receipts import Notifier, ReceiptUrls
from raftbroker.broker.queue_rules import (
    check_count,
    check_delay,
    check_drafts,
    check_lock,
    check_queue_name,
    check_sizes,
    error_of,
    read_id,
    read_token,
    show_token,
)
from raftbroker.broker.queue_views import (
    MessageDraft,
    MessageFate,
    QueueInfo,
    ReceivedMessage,
    SentMessage,
    SettledToken,
)
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.wire import Calls, Method
from raftbroker.broker.wire_queues import (
    QUEUE_FATE,
    QUEUE_GET,
    QUEUE_LIST,
    QUEUE_PEEK,
    QUEUE_RECEIVE,
    FateRequest,
    LentMessage,
    LentMessages,
    PeekRequest,
    QueueRequest,
    ReceiveRequest,
)
from raftbroker.state.queues import ops
from raftbroker.state.queues.config import ConfigValue
from raftbroker.state.queues.messages import CONSUMER_CHARACTERS_MAX, PRIORITY_DEFAULT, REASON_CHARACTERS_MAX
from raftbroker.state.queues.ops import LOST, MESSAGES_PER_OP, Counted, Draft, Refusal, Settle, Token
from raftbroker.state.shard import Op

A = TypeVar("A")
Q = TypeVar("Q", bound=QueueRequest)
O = TypeVar("O")  # noqa: E741  an outcome

RECEIVE_BYTES_DEFAULT = 4 << 20
BEYOND_WAIT_SECONDS = 10.0
"""How much longer than it waits a receive may take before its node is asked again."""


class Queues:
    def __init__(self, context: Context, router: Router, shards: Shards) -> None:
        self._context = context
        self._router = router
        self._shards = shards
        self._desk = Desk(context, shards)
        self._receipt_urls = ReceiptUrls(context.clock)

    def serve(self, calls: Calls) -> None:
        self._desk.serve(calls)

    async def stop(self) -> None:
        await self._desk.stop()

    @property
    def notifier(self) -> Notifier | None:
        """Who posts receipts to webhooks; without one they stay where they are."""
        return self._desk.notifier

    @notifier.setter
    def notifier(self, notifier: Notifier | None) -> None:
        self._desk.notifier = notifier

    # --- queues ---------------------------------------------------------------------------------------------

    async def put(
        self, name: str, changes: Mapping[str, ConfigValue], *, timeout: float = 15.0
    ) -> tuple[QueueInfo, bool]:
        """Makes the queue, or changes its configs: None puts one back to its default, those not named stay. The queue,
        and whether it was made. Its dead-letter queue is made as well where it is missing."""
        check_queue_name(name)
        dead = changes.get("dead.letter.queue")
        if isinstance(dead, str) and dead:
            check_queue_name(dead, "dead.letter.queue")
        deadline = asyncio.get_running_loop().time() + timeout
        put = await self._submit(ops.PutQueue(name, dict(changes)), timeout, Mode.REPEATABLE)
        left = max(1.0, deadline - asyncio.get_running_loop().time())
        if isinstance(dead, str) and dead:
            await self._submit(ops.PutQueue(dead, {}), left, Mode.REPEATABLE)
        return await self.get(name, timeout=left), put.created

    async def get(self, name: str, *, timeout: float = 10.0) -> QueueInfo:
        check_queue_name(name)
        shard = await self._shard_of(name, timeout)
        return await self._ask(shard, QUEUE_GET, self._desk.get, _about(name), timeout)

    async def list_queues(self, *, timeout: float = 10.0) -> list[QueueInfo]:
        """All queues by name; linearizable, each shard by itself."""
        await self._shards.made(timeout)
        answers = await asyncio.gather(
            *(self._ask(shard, QUEUE_LIST, self._desk.list_queues, _about(""), timeout) for shard in self._shards.all())
        )
        return sorted((queue for answer in answers for queue in answer.queues), key=lambda queue: queue.name)

    async def delete(self, name: str, *, timeout: float = 15.0) -> int:
        """With all its messages; how many there were."""
        check_queue_name(name)
        return (await self._submit(ops.DeleteQueue(name), timeout, Mode.ONCE)).count

    async def purge(self, name: str, *, timeout: float = 15.0) -> int:
        """Drops all messages, dead ones too; how many."""
        check_queue_name(name)
        return (await self._submit(ops.PurgeQueue(name), timeout, Mode.ONCE)).count

    def infos(self) -> list[QueueInfo]:
        """Of the queues that this node coordinates; asks nobody."""
        return self._desk.infos()

    # --- sending --------------------------------------------------------------------------------------------

    async def send(
        self,
        name: str,
        drafts: Sequence[MessageDraft],
        *,
        idempotency_key: str | None = None,
        timeout: float = 30.0,
    ) -> list[SentMessage]:
        """All or none; returns once they are committed. With a key the same request again, within the queue's window,
        gives the same ids."""
        check_queue_name(name)
        check_drafts(drafts)
        if self.notifier is not None:
            await self._receipt_urls.check(self.notifier, drafts)
        now = self._context.wall()
        contents = [
            encode_content(Content(FORMAT, draft.body, draft.is_json, draft.key, draft.headers, now))
            for draft in drafts
        ]
        check_sizes(contents)
        request, fingerprint = b"", 0
        if idempotency_key is not None:
            request, fingerprint = id_hash(f"{name}/{idempotency_key}"), _fingerprint(drafts)
        messages = tuple(_draft(draft, content) for draft, content in zip(drafts, contents, strict=True))
        recognised = idempotency_key is not None or all(draft.dedup_id is not None for draft in drafts)
        op = ops.SendMessages(name, messages, request, fingerprint)
        sent = await self._submit(op, timeout, Mode.REPEATABLE if recognised else Mode.ONCE, contents)
        again = set(sent.duplicates)
        return [SentMessage(str(number), position in again) for position, number in enumerate(sent.numbers)]

    # --- receiving ------------------------------------------------------------------------------------------

    async def receive(
        self,
        name: str,
        *,
        consumer: str,
        count: int = 1,
        wait: float = 0.0,
        lock_ms: int = 0,
        bytes_max: int = RECEIVE_BYTES_DEFAULT,
        timeout: float = 30.0,
    ) -> list[ReceivedMessage]:
        """Up to `count` messages, locked for `lock_ms` (0: as the queue's config says). Waits up to `wait` seconds for
        the first, then answers with none; ends `timeout` seconds after that at the latest."""
        check_queue_name(name)
        check_count("max_messages", count)
        check_lock(lock_ms)
        if not 1 <= len(consumer) <= CONSUMER_CHARACTERS_MAX:
            raise InvalidRequest(f"consumer has 1 to {CONSUMER_CHARACTERS_MAX} characters", field="consumer")
        ends = asyncio.get_running_loop().time() + wait

        def question(left: float, group: int) -> ReceiveRequest:
            still = max(0.0, min(ends - asyncio.get_running_loop().time(), left))
            nonce = self._context.random.getrandbits(63)
            return ReceiveRequest(
                self._context.control_index, group, left, name, consumer, count, bytes_max, lock_ms, still, nonce
            )

        shard = await self._shard_of(name, timeout)
        found = await self._router.at_leader(
            shard,
            QUEUE_RECEIVE,
            lambda left: question(left, shard),
            self._desk.receive,
            ends + timeout,
            Mode.READ,
            wait + BEYOND_WAIT_SECONDS,
        )
        return _received(found)

    async def peek(self, name: str, count: int, *, dead: bool = False, timeout: float = 10.0) -> list[ReceivedMessage]:
        """The messages that would be received next, or those kept aside as dead, without locking them."""
        check_queue_name(name)
        check_count("max_messages", count)

        def request(control: int, shard: int, left: float) -> PeekRequest:
            return PeekRequest(control, shard, left, name, count, RECEIVE_BYTES_DEFAULT, dead)

        shard = await self._shard_of(name, timeout)
        return _received(await self._ask(shard, QUEUE_PEEK, self._desk.peek, request, timeout))

    async def fate(
        self, name: str, id_: str, *, wait: float = 0.0, known: str = "", timeout: float = 10.0
    ) -> MessageFate:
        """What has become of a message. Waits up to `wait` seconds for another state than `known`, or than it has."""
        check_queue_name(name)
        number = read_id(id_)
        if number is None:
            raise UnknownMessage(f"{id_[:40]!r} is not the id of a message: a send answers ids", field="id")
        ends = asyncio.get_running_loop().time() + wait
        shard = await self._shard_of(name, timeout)

        def question(left: float) -> FateRequest:
            still = max(0.0, min(ends - asyncio.get_running_loop().time(), left))
            return FateRequest(self._context.control_index, shard, left, name, number, known, still)

        beyond = wait + BEYOND_WAIT_SECONDS
        here = self._desk.fate
        return await self._router.at_leader(shard, QUEUE_FATE, question, here, ends + timeout, Mode.READ, beyond)

    # --- settling -------------------------------------------------------------------------------------------

    async def acknowledge(self, name: str, tokens: Sequence[str], *, timeout: float = 30.0) -> list[SettledToken]:
        """They are consumed. One word for each token, in order; repeating it changes nothing."""
        return await self._settle(name, tokens, lambda sound: ops.Acknowledge(name, sound), timeout)

    async def release(
        self, name: str, tokens: Sequence[str], *, delay_ms: int = 0, timeout: float = 30.0
    ) -> list[SettledToken]:
        """Given back, to be delivered again after the delay."""
        check_delay(delay_ms)
        return await self._settle(name, tokens, lambda sound: ops.Release(name, sound, delay_ms), timeout)

    async def reject(
        self, name: str, tokens: Sequence[str], *, reason: str = "", timeout: float = 30.0
    ) -> list[SettledToken]:
        """To the dead-letter queue, or aside where there is none."""
        if len(reason) > REASON_CHARACTERS_MAX:
            raise InvalidRequest(f"a reason has at most {REASON_CHARACTERS_MAX} characters", field="reason")
        return await self._settle(name, tokens, lambda sound: ops.Reject(name, sound, reason), timeout)

    async def extend(
        self, name: str, tokens: Sequence[str], *, lock_ms: int = 0, timeout: float = 30.0
    ) -> list[SettledToken]:
        """Held for `lock_ms` from now (0: as the queue's config says), never for less than before."""
        check_lock(lock_ms)
        return await self._settle(name, tokens, lambda sound: ops.Extend(name, sound, lock_ms), timeout)

    async def _settle(
        self, name: str, tokens: Sequence[str], make_op: Callable[[tuple[Token, ...]], Settle], timeout: float
    ) -> list[SettledToken]:
        check_queue_name(name)
        if not 1 <= len(tokens) <= MESSAGES_PER_OP:
            raise InvalidRequest(
                f"1 to {MESSAGES_PER_OP} tokens go into one request, not {len(tokens)}", field="lock_tokens"
            )
        read = [read_token(text) for text in tokens]
        sound = tuple(token for token in read if token is not None)
        settled = await self._submit(make_op(sound), timeout, Mode.REPEATABLE)
        untils = settled.until_ms or (0,) * len(sound)
        outcomes = iter(zip(settled.words, untils, strict=True))
        return [
            _settled(text, *next(outcomes)) if token is not None else SettledToken(text, "this is not a lock token")
            for text, token in zip(tokens, read, strict=True)
        ]

    # --- dead ones ------------------------------------------------------------------------------------------

    async def redrive(
        self, name: str, *, count: int | None = None, source: str | None = None, timeout: float = 30.0
    ) -> int:
        """Brings dead messages of the queue back: those kept aside in it, then those in `source`, by default its
        dead-letter queue. At most `count`; how many. Those from another queue are on their way when this returns."""
        ends = asyncio.get_running_loop().time() + timeout
        info = await self.get(name, timeout=timeout)
        if count is not None and count < 1:
            raise InvalidRequest(f"max_messages is {count}: it must be at least 1", field="max_messages")
        dead = info.configs["dead.letter.queue"] if source is None else source
        done = 0
        if source is None:
            done = await self._redrive(lambda most: ops.Redrive(name, most), count, done, ends)
        if isinstance(dead, str) and dead:
            check_queue_name(dead, "from")
            try:
                done = await self._redrive(lambda most: ops.SendBack(dead, name, most), count, done, ends)
            except UnknownQueue:
                if source is not None:
                    raise
                return done  # a dead-letter queue is made when the first message dies
        return done

    async def _redrive(
        self, make_op: Callable[[int], Op[Counted | Refusal]], count: int | None, done: int, ends: float
    ) -> int:
        """Op by op, until none is left or there are `count`; how many by then."""
        while count is None or done < count:
            most = MESSAGES_PER_OP if count is None else min(MESSAGES_PER_OP, count - done)
            left = ends - asyncio.get_running_loop().time()
            if left <= 0:
                break
            moved = (await self._submit(make_op(most), left, Mode.ONCE)).count
            done += moved
            if not moved:
                break
        return done

    # --- the way there --------------------------------------------------------------------------------------

    async def _submit(self, op: Op[O | Refusal], timeout: float, mode: Mode, payloads: Sequence[bytes] = ()) -> O:
        """The outcome. Raises what a refusal means."""
        outcome = await self._shards.submit(op, timeout, mode=mode, payloads=payloads)
        if isinstance(outcome, Refusal):
            raise error_of(outcome)
        return outcome

    async def _shard_of(self, name: str, timeout: float) -> int:
        await self._shards.made(timeout)
        return self._shards.shard_of(name)

    async def _ask(
        self,
        shard: int,
        method: Method[Q, A],
        here: Callable[[Q], Awaitable[A]],
        request: Callable[[int, int, float], Q],
        timeout: float,
    ) -> A:
        """Looks at what the leader of the shard has."""
        return await self._router.at_leader(
            shard,
            method,
            lambda left: request(self._context.control_index, shard, left),
            here,
            asyncio.get_running_loop().time() + timeout,
            Mode.READ,
        )


def _about(queue: str) -> Callable[[int, int, float], QueueRequest]:
    return lambda control, shard, left: QueueRequest(control, shard, left, queue)


def _draft(draft: MessageDraft, content: bytes) -> Draft:
    return Draft(
        len(content),
        PRIORITY_DEFAULT if draft.priority is None else draft.priority,
        key_hash(draft.key),
        draft.delay_ms,
        draft.ttl_ms,
        id_hash(draft.dedup_id) if draft.dedup_id is not None else b"",
        draft.receipt,
    )


def _fingerprint(drafts: Sequence[MessageDraft]) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(drafts), digest_size=8).digest(), "big") >> 1


def _received(found: LentMessages) -> list[ReceivedMessage]:
    return [_message(lent, decode_content(lent.content)) for lent in found.messages]


def _message(lent: LentMessage, content: Content) -> ReceivedMessage:
    token = show_token(Token(lent.number, lent.deliveries, lent.nonce)) if lent.nonce else ""
    return ReceivedMessage(
        id=str(lent.number),
        body=content.body,
        is_json=content.is_json,
        key=content.key,
        headers=content.headers,
        timestamp=content.timestamp,
        delivery_count=lent.deliveries,
        lock_token=token,
        locked_until=lent.until,
        dead_letter=content.dead_letter,
    )


def _settled(text: str, word: int, until: int) -> SettledToken:
    if word == LOST:
        return SettledToken(
            text,
            "the lock is not held by this token any more: it ran out, or the message has been given back, consumed or "
            "dropped",
        )
    return SettledToken(text, "", until)
