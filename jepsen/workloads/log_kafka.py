"""The workloads' client over Kafka's protocol: librdkafka, through confluent-kafka. Every call blocks: see
`kafka_child`.

Sends are idempotent, or within transactions; what librdkafka gives up is unknown. Consumers are assigned partitions,
at places kept here, or subscribe as members of a group, and then the keys of a rebalance go into the operation's
`:rebalance-log`. A transaction that was aborted has not happened: its consumer goes back to where it was.
"""

import contextlib
import time
from collections.abc import Callable
from random import Random
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from jepsen.edn import Keyword
from jepsen.recorder import Op, Outcome
from jepsen.workloads.log_http import PARTITIONS, POLL, SEND, TOPICS, Pairs, topic_name

SEND_SECONDS = 5.0
POLL_SECONDS = 0.3
COMMIT_SECONDS = 5.0
ABORT = 0.1
"""How many transactions are aborted for no reason."""
POLL_RECORDS = 64
FINAL_RECORDS = 2000
KEYS = Keyword("keys")

REFUSALS = (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS)
"""Certainly nothing was committed."""

Key = int


class KafkaLog:
    """A producer and a consumer, made when they are first needed."""

    def __init__(self, bootstrap: list[str], process: int, group: str, transactional: str) -> None:
        self._random = Random(f"kafka log client {process}")
        self._bootstrap = ",".join(self._random.sample(bootstrap, len(bootstrap)))
        self._process = process
        self._group = group
        self._transactional = transactional
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._places: dict[Key, int] = {}
        self._subscribed = False
        self._uncommitted: dict[Key, int] = {}
        """What was read since it was last committed, while it was assigned without a break."""
        self._rebalanced: list[tuple[Key, ...]] = []

    def invoke(self, op: Op) -> Outcome:
        """Carries it out."""
        match op.f:
            case "assign":
                return self._assign(op)
            case "subscribe":
                return self._subscribe(op)
            case "poll":
                return self._poll(FINAL_RECORDS if op.hint else POLL_RECORDS)
            case "commit":
                return self._commit()
            case "committed":
                return self._committed()
            case "txn" if self._transactional:
                return self._txn(op)
            case _:
                return self._send(op)

    def close(self) -> None:
        """May hang, where a rebalance is under way."""
        if self._consumer is not None:
            self._consumer.close()
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(0)

    # --- reading --------------------------------------------------------------------------------------------

    def _consuming(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "group.id": self._group,
                    "client.id": f"process-{self._process}",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,  # says how far transactions' markers have taken it
                    "auto.offset.reset": "earliest",
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": 50,
                    "session.timeout.ms": 6000,
                    "socket.timeout.ms": 3000,
                    "reconnect.backoff.max.ms": 500,
                    "topic.metadata.refresh.interval.ms": 2000,
                    "log_level": 0,
                }
            )
        return self._consumer

    def _assign(self, op: Op) -> Outcome:
        assert isinstance(op.value, tuple)
        begin = bool(op.extra.get("seek-to-beginning?"))
        self._places = {key: 0 if begin else self._places.get(key, 0) for key in op.value}
        try:
            self._go_to(self._places)
        except KafkaException as error:
            return Outcome.unknown(str(error))
        return Outcome("ok", op.value)

    def _go_to(self, places: dict[Key, int]) -> None:
        """Is assigned these keys, at these places."""
        self._places = places
        self._consuming().assign([partition_of(key, place or OFFSET_BEGINNING) for key, place in places.items()])

    def _subscribe(self, op: Op) -> Outcome:
        topics = [topic_name(topic) for topic in range(TOPICS)]

        def changed(_: Consumer, partitions: list[TopicPartition]) -> None:
            self._rebalanced.append(tuple(key_of(each.topic, each.partition) for each in partitions))
            self._uncommitted.clear()

        try:
            self._consuming().subscribe(topics, on_assign=changed, on_revoke=changed, on_lost=changed)
        except KafkaException as error:
            return Outcome.unknown(str(error))
        self._subscribed = True
        return Outcome("ok", op.value)

    def read(self, most: int, seconds: float) -> dict[Key, Pairs]:
        """What the consumer has next; raises KafkaException where it has nothing but an error."""
        polled: dict[Key, Pairs] = {}
        error: KafkaError | None = None
        for message in self._consuming().consume(most, seconds):
            key, offset = key_of(message.topic() or "", message.partition() or 0), message.offset() or 0
            failure = message.error()
            if failure is None:
                polled.setdefault(key, []).append((offset, int(message.value() or b"-1")))
                self._places[key] = self._uncommitted[key] = offset + 1
            elif failure.code() == KafkaError._PARTITION_EOF:
                self._places[key] = offset
            else:
                error = failure
        if error is not None and not polled:
            raise KafkaException(error)
        return polled

    def _poll(self, most: int) -> Outcome:
        if not self._places and not self._subscribed:
            return Outcome("ok", ((POLL, {}),))
        try:
            polled = self.read(most, POLL_SECONDS)
        except KafkaException as error:
            return Outcome("fail", extra={"error": str(error)[:300], **self.rebalance_log()})
        return Outcome("ok", ((POLL, polled),), self.rebalance_log(), reached=dict(self._places))

    def _commit(self) -> Outcome:
        """What was read since the last time. Refused, where the member has been replaced."""
        wanted = dict(self._uncommitted)
        if not wanted:
            return Outcome.failed("nothing was read since the last commit")
        try:
            done = self._consuming().commit(
                offsets=[partition_of(*each) for each in wanted.items()], asynchronous=False
            )
        except KafkaException as error:
            refused = error.args[0].code() in REFUSALS
            return (Outcome.failed if refused else Outcome.unknown)(str(error))
        errors = [each.error for each in done or () if each.error is not None]
        if errors:
            refused = len(errors) == len(wanted) and all(error.code() in REFUSALS for error in errors)
            return (Outcome.failed if refused else Outcome.unknown)(str(errors[0]))
        self._uncommitted.clear()
        return Outcome("ok", wanted)

    def _committed(self) -> Outcome:
        """What the group has committed of every key."""
        try:
            found = self._consuming().committed(
                [partition_of(key) for key in range(TOPICS * PARTITIONS)], COMMIT_SECONDS
            )
        except KafkaException as error:
            return Outcome.failed(str(error))
        if any(each.error is not None for each in found):
            return Outcome.failed(str(next(each.error for each in found if each.error is not None)))
        shown = {key_of(each.topic, each.partition): each.offset if each.offset >= 0 else None for each in found}
        return Outcome("ok", shown)

    def rebalance_log(self) -> dict[str, object]:
        """For the operation under way, if there was a rebalance since the last one."""
        rebalanced, self._rebalanced = self._rebalanced, []
        return {"rebalance-log": tuple({KEYS: keys} for keys in rebalanced)} if rebalanced else {}

    # --- sending --------------------------------------------------------------------------------------------

    def producing(self) -> Producer:
        """The producer; a transactional one has been initialised. Raises KafkaException."""
        if self._producer is None:
            config: dict[str, Any] = {
                "bootstrap.servers": self._bootstrap,
                "client.id": f"process-{self._process}",
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "message.timeout.ms": int(SEND_SECONDS * 1000),
                "request.timeout.ms": 3000,
                "socket.timeout.ms": 3000,
                "retry.backoff.ms": 50,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 2000,
                "log_level": 0,
            }
            if self._transactional:
                config |= {"transactional.id": self._transactional, "transaction.timeout.ms": 10_000}
            producer = Producer(config)
            if self._transactional:
                again(lambda: producer.init_transactions(SEND_SECONDS), SEND_SECONDS)
            self._producer = producer
        return self._producer

    def deliver(self, wanted: list[tuple[Key, int]]) -> tuple[list[int | None], str]:
        """Offsets of those that were delivered, and what became of the others."""
        producer = self.producing()
        offsets: list[int | None] = [None] * len(wanted)
        errors: list[str] = []

        def delivered(place: int, error: KafkaError | None, message: Message) -> None:
            if error is None:
                offsets[place] = message.offset()
            else:
                errors.append(str(error))

        for place, (key, value) in enumerate(wanted):

            def done(error: KafkaError | None, message: Message, place: int = place) -> None:
                delivered(place, error, message)

            topic = topic_name(key // PARTITIONS)
            producer.produce(topic, str(value).encode(), partition=key % PARTITIONS, on_delivery=done)
        producer.flush(SEND_SECONDS + 3)
        return offsets, errors[0] if errors else "not delivered in time"

    def _send(self, op: Op) -> Outcome:
        assert isinstance(op.value, tuple)
        wanted = [(key, value) for _, key, value in op.value]
        try:
            offsets, error = self.deliver(wanted)
        except (KafkaException, BufferError) as failure:
            return Outcome.unknown(str(failure))
        value = tuple((SEND, key, (offset, sent)) for (key, sent), offset in zip(wanted, offsets, strict=True))
        if None not in offsets:
            return Outcome("ok", value)
        good = tuple({key for (key, _), offset in zip(wanted, offsets, strict=True) if offset is not None})
        return Outcome("info", value, {"error": error[:300]}, good)

    # --- transactions ---------------------------------------------------------------------------------------

    def _txn(self, op: Op) -> Outcome:
        """Sends and polls in one transaction; now and then aborted on purpose."""
        assert isinstance(op.value, tuple)
        before = dict(self._places)
        try:
            producer = self.producing()
            producer.begin_transaction()
        except KafkaException as error:
            return Outcome.unknown(str(error))
        try:
            done = self._within(producer, op.value)
            if self._random.random() < ABORT:
                again(lambda: producer.abort_transaction(COMMIT_SECONDS), COMMIT_SECONDS)
                self._go_to(before)
                return Outcome.failed("aborted on purpose")
            again(lambda: producer.commit_transaction(COMMIT_SECONDS), COMMIT_SECONDS)
        except (KafkaException, BufferError) as error:
            return self._given_up(producer, before, error)
        keys = tuple({micro[1] for micro in op.value if micro[0] is SEND})
        return Outcome("ok", done, self.rebalance_log(), keys, dict(self._places))

    def _within(self, producer: Producer, micro_ops: tuple[tuple[object, ...], ...]) -> tuple[object, ...]:
        """The micro-operations as completed. Raises KafkaException."""
        done: list[object] = []
        offsets: dict[int, int | None] = {}
        errors: list[KafkaError] = []
        for place, micro in enumerate(micro_ops):
            match micro:
                case (kind, int(key), int(value)) if kind is SEND:

                    def delivered(error: KafkaError | None, message: Message, place: int = place) -> None:
                        if error is None:
                            offsets[place] = message.offset()
                        else:
                            errors.append(error)

                    topic, number = topic_name(key // PARTITIONS), key % PARTITIONS
                    producer.produce(topic, str(value).encode(), partition=number, on_delivery=delivered)
                    done.append((SEND, key, value))
                case _:
                    done.append((POLL, self.read(POLL_RECORDS, POLL_SECONDS) if self._places else {}))
        if self._places and self._random.random() < 0.5:
            places = [partition_of(key, place) for key, place in self._places.items() if place]
            metadata = self._consuming().consumer_group_metadata()
            again(lambda: producer.send_offsets_to_transaction(places, metadata, COMMIT_SECONDS), COMMIT_SECONDS)
        producer.flush(SEND_SECONDS + 3)
        if errors:
            raise KafkaException(errors[0])
        return tuple(
            (SEND, micro[1], (offsets.get(place), micro[2])) if isinstance(micro, tuple) and micro[0] is SEND else micro
            for place, micro in enumerate(done)
        )

    def _given_up(self, producer: Producer, before: dict[Key, int], error: KafkaException | BufferError) -> Outcome:
        """The transaction is aborted, certainly, or nobody knows."""
        failure = error.args[0]
        if isinstance(failure, KafkaError) and failure.txn_requires_abort():
            with contextlib.suppress(KafkaException):
                again(lambda: producer.abort_transaction(COMMIT_SECONDS), COMMIT_SECONDS)
                self._go_to(before)
                return Outcome.failed(f"aborted: {failure}")
        return Outcome.unknown(str(failure))


def partition_of(key: Key, offset: int = -1001) -> TopicPartition:
    return TopicPartition(topic_name(key // PARTITIONS), key % PARTITIONS, offset)


def key_of(topic: str, partition: int) -> Key:
    return int(topic.rpartition("-")[2]) * PARTITIONS + partition


def again(call: Callable[[], object], seconds: float) -> None:
    """As long as the client says that it may be tried again, and there is time. Raises KafkaException."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
        else:
            return
