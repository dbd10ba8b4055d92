"""What members of type "consumer" tell each other, against kafka-python's codec and hostile bytes."""

from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment as TheirAssignment
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription as Theirs

from raftbroker.state.groups.protocol import (
    BadProtocol,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)

names = st.text(max_size=8)
partitions = st.dictionaries(names, st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple), max_size=4)
user_data = st.none() | st.binary(max_size=8)


@given(st.lists(names, max_size=4).map(tuple), user_data, partitions)
def test_subscriptions_come_back(
    topics: tuple[str, ...], data: bytes | None, owned: dict[str, tuple[int, ...]]
) -> None:
    subscription = Subscription(topics, data, owned)
    assert decode_subscription(encode_subscription(subscription)) == subscription


@given(partitions, user_data)
def test_assignments_come_back(given: dict[str, tuple[int, ...]], data: bytes | None) -> None:
    assert decode_assignment(encode_assignment(given, data)) == given


@given(st.binary(max_size=64))
def test_hostile_bytes_are_refused_or_read(data: bytes) -> None:
    for decode in (decode_subscription, decode_assignment):
        try:
            decode(data)
        except BadProtocol:
            continue


def test_kafka_python_reads_and_writes_the_same() -> None:
    ours = encode_subscription(Subscription(("t", "u"), b"x"))
    assert Theirs(topics=["t", "u"], user_data=b"x", owned_partitions=[], version=1).encode(version=1) == ours
    assigned = TheirAssignment.decode(encode_assignment({"t": (1, 2)}, b"y"))
    assert [(item.topic, item.partitions) for item in assigned.assigned_partitions] == [("t", [1, 2])]


def test_no_bytes_assign_nothing() -> None:
    assert decode_assignment(b"") == {}
