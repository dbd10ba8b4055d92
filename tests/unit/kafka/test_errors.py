"""What the broker's errors are called on Kafka's wire."""

import pytest
from kio.schema.errors import ErrorCode as KioErrorCode

from consensus import errors as consensus_errors
from raftbroker.broker import errors
from raftbroker.kafka.errors import CODES, ErrorCode, code_of, message_of


def concrete(root: type[Exception]) -> list[type[Exception]]:
    return [root, *(kind for child in root.__subclasses__() for kind in concrete(child))]


def test_the_codes_are_kafkas() -> None:
    assert {code.name.lower(): code.value for code in ErrorCode} == {code.name: code.value for code in KioErrorCode}


@pytest.mark.parametrize("kind", concrete(errors.BrokerError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_broker_has_a_code(kind: type[errors.BrokerError]) -> None:
    assert kind in CODES, "say which code tells a Kafka client of it"
    error = kind("what went wrong")
    code = code_of(error, unavailable=ErrorCode.NOT_CONTROLLER)
    if kind in (errors.Unavailable, errors.Throttled):
        assert code is ErrorCode.NOT_CONTROLLER
        assert code_of(error) is ErrorCode.NOT_LEADER_OR_FOLLOWER
    else:
        assert code is CODES[kind]


def test_a_new_kind_of_error_counts_as_its_parent() -> None:
    class Newer(errors.StorageFull):
        pass

    assert code_of(Newer("full")) is ErrorCode.KAFKA_STORAGE_ERROR
    assert code_of(ValueError("ours")) is ErrorCode.UNKNOWN_SERVER_ERROR


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (consensus_errors.NotLeader(1, 2), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (consensus_errors.Busy("busy"), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (consensus_errors.StoreFull("full"), ErrorCode.KAFKA_STORAGE_ERROR),
        (consensus_errors.Unknown("lost"), ErrorCode.REQUEST_TIMED_OUT),
        (TimeoutError(), ErrorCode.REQUEST_TIMED_OUT),
        (errors.InvalidRequest("bad name", field="topic_name"), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (errors.InvalidRequest("too high", field="min.insync.replicas"), ErrorCode.INVALID_CONFIG),
        (errors.InvalidPartitions("none", field="topic_name"), ErrorCode.INVALID_PARTITIONS),
    ],
)
def test_particular_errors(error: Exception, code: ErrorCode) -> None:
    assert code_of(error, unavailable=ErrorCode.COORDINATOR_NOT_AVAILABLE) is code


def test_messages_tell_what_to_do_and_nothing_of_our_insides() -> None:
    assert message_of(errors.TopicExists("topic t exists already")) == "topic t exists already"
    assert "log" in message_of(errors.Internal("KeyError in line 5"))
    assert "KeyError" not in message_of(errors.Internal("KeyError in line 5"))
    assert "secret" not in message_of(ValueError("secret"))
    assert message_of(TimeoutError()) == "TimeoutError"
