"""Kafka's error codes, and the one mapping from the broker's errors to them that every handler uses.

Two families leave this package's decoder and reach a handler's caller: `BrokenFrame` (theirs: the bytes are not what
the protocol says; it costs the connection that sent them) and nothing else. Errors of the broker become codes in an
answer: `code_of` and `message_of`.
"""

from collections.abc import Mapping
from enum import IntEnum

from consensus import errors as consensus_errors
from raftbroker.broker import errors
from raftbroker.state.configs import DEFINITIONS


class BrokenFrame(Exception):
    """The client's bytes are not a sound request; the message says what is wrong with them."""


class ErrorCode(IntEnum):
    """All of Kafka's codes, as its protocol guide lists them."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INVALID_FETCH_SIZE = 4
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    STALE_CONTROLLER_EPOCH = 11
    OFFSET_METADATA_TOO_LARGE = 12
    NETWORK_EXCEPTION = 13
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    NOT_ENOUGH_REPLICAS = 19
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    INVALID_COMMIT_OFFSET_SIZE = 28
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTION_COORDINATOR_FENCED = 52
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    LOG_DIR_NOT_FOUND = 57
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    REASSIGNMENT_IN_PROGRESS = 60
    DELEGATION_TOKEN_AUTH_DISABLED = 61
    DELEGATION_TOKEN_NOT_FOUND = 62
    DELEGATION_TOKEN_OWNER_MISMATCH = 63
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65
    DELEGATION_TOKEN_EXPIRED = 66
    INVALID_PRINCIPAL_TYPE = 67
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    LISTENER_NOT_FOUND = 72
    TOPIC_DELETION_DISABLED = 73
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    STALE_BROKER_EPOCH = 77
    OFFSET_NOT_AVAILABLE = 78
    MEMBER_ID_REQUIRED = 79
    PREFERRED_LEADER_NOT_AVAILABLE = 80
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83
    ELECTION_NOT_NEEDED = 84
    NO_REASSIGNMENT_IN_PROGRESS = 85
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    THROTTLING_QUOTA_EXCEEDED = 89
    PRODUCER_FENCED = 90
    RESOURCE_NOT_FOUND = 91
    DUPLICATE_RESOURCE = 92
    UNACCEPTABLE_CREDENTIAL = 93
    INCONSISTENT_VOTER_SET = 94
    INVALID_UPDATE_VERSION = 95
    FEATURE_UPDATE_FAILED = 96
    PRINCIPAL_DESERIALIZATION_FAILURE = 97
    SNAPSHOT_NOT_FOUND = 98
    POSITION_OUT_OF_RANGE = 99
    UNKNOWN_TOPIC_ID = 100
    DUPLICATE_BROKER_REGISTRATION = 101
    BROKER_ID_NOT_REGISTERED = 102
    INCONSISTENT_TOPIC_ID = 103
    INCONSISTENT_CLUSTER_ID = 104
    TRANSACTIONAL_ID_NOT_FOUND = 105
    FETCH_SESSION_TOPIC_ID_ERROR = 106
    INELIGIBLE_REPLICA = 107
    NEW_LEADER_ELECTED = 108
    OFFSET_MOVED_TO_TIERED_STORAGE = 109
    FENCED_MEMBER_EPOCH = 110
    UNRELEASED_INSTANCE_ID = 111
    UNSUPPORTED_ASSIGNOR = 112
    STALE_MEMBER_EPOCH = 113
    MISMATCHED_ENDPOINT_TYPE = 114
    UNSUPPORTED_ENDPOINT_TYPE = 115
    UNKNOWN_CONTROLLER_ID = 116
    UNKNOWN_SUBSCRIPTION_ID = 117
    TELEMETRY_TOO_LARGE = 118
    INVALID_REGISTRATION = 119
    TRANSACTION_ABORTABLE = 120
    INVALID_RECORD_STATE = 121
    SHARE_SESSION_NOT_FOUND = 122
    INVALID_SHARE_SESSION_EPOCH = 123
    FENCED_STATE_EPOCH = 124
    INVALID_VOTER_KEY = 125
    DUPLICATE_VOTER = 126
    VOTER_NOT_FOUND = 127
    INVALID_REGULAR_EXPRESSION = 128
    REBOOTSTRAP_REQUIRED = 129
    STREAMS_INVALID_TOPOLOGY = 130
    STREAMS_INVALID_TOPOLOGY_EPOCH = 131
    STREAMS_TOPOLOGY_FENCED = 132
    SHARE_SESSION_LIMIT_REACHED = 133


CODES: Mapping[type[Exception], ErrorCode] = {
    errors.UnknownTopic: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    errors.UnknownPartition: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    errors.UnknownNode: ErrorCode.BROKER_NOT_AVAILABLE,
    errors.UnknownGroup: ErrorCode.INVALID_REQUEST,
    errors.TopicExists: ErrorCode.TOPIC_ALREADY_EXISTS,
    errors.InvalidRequest: ErrorCode.INVALID_REQUEST,
    errors.InvalidConfig: ErrorCode.INVALID_CONFIG,
    errors.ConfigChanged: ErrorCode.INVALID_CONFIG,
    errors.InvalidTimestamp: ErrorCode.INVALID_TIMESTAMP,
    errors.InvalidReplicationFactor: ErrorCode.INVALID_REPLICATION_FACTOR,
    errors.InvalidPartitions: ErrorCode.INVALID_PARTITIONS,
    errors.BadRecords: ErrorCode.INVALID_RECORD,
    errors.DamagedRecords: ErrorCode.CORRUPT_MESSAGE,
    errors.MissingKey: ErrorCode.INVALID_RECORD,
    errors.OldRecords: ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    errors.RecordTooLarge: ErrorCode.MESSAGE_TOO_LARGE,
    errors.IdempotencyConflict: ErrorCode.INVALID_REQUEST,
    errors.OutOfOrderSequence: ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
    errors.FencedProducer: ErrorCode.INVALID_PRODUCER_EPOCH,
    errors.InvalidTransaction: ErrorCode.INVALID_TXN_STATE,
    errors.UnknownProducer: ErrorCode.INVALID_PRODUCER_ID_MAPPING,
    errors.UnknownConsumerGroup: ErrorCode.GROUP_ID_NOT_FOUND,
    errors.GroupRefused: ErrorCode.INVALID_REQUEST,
    errors.NonEmptyGroup: ErrorCode.NON_EMPTY_GROUP,
    errors.OffsetOutOfRange: ErrorCode.OFFSET_OUT_OF_RANGE,
    errors.ChangeRejected: ErrorCode.INVALID_REQUEST,
    errors.UnknownInstance: ErrorCode.INVALID_REQUEST,
    errors.InstanceExists: ErrorCode.INVALID_REQUEST,
    errors.FormatMismatch: ErrorCode.INVALID_REQUEST,
    errors.UnknownQueue: ErrorCode.INVALID_REQUEST,
    errors.UnknownMessage: ErrorCode.INVALID_REQUEST,
    errors.UnknownWebhook: ErrorCode.INVALID_REQUEST,
    errors.QueueRefused: ErrorCode.INVALID_REQUEST,
    errors.QueueFull: ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    errors.Rejected: ErrorCode.INVALID_REQUEST,
    errors.Retriable: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    errors.Throttled: ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    errors.StorageFull: ErrorCode.KAFKA_STORAGE_ERROR,
    errors.Unavailable: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    errors.TooFewReplicas: ErrorCode.NOT_ENOUGH_REPLICAS,
    errors.LedElsewhere: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    errors.FencedLeaderEpoch: ErrorCode.FENCED_LEADER_EPOCH,
    errors.UnknownLeaderEpoch: ErrorCode.UNKNOWN_LEADER_EPOCH,
    errors.UnknownOutcome: ErrorCode.REQUEST_TIMED_OUT,
    errors.Internal: ErrorCode.UNKNOWN_SERVER_ERROR,
    errors.BrokerError: ErrorCode.UNKNOWN_SERVER_ERROR,
    consensus_errors.NotLeader: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    consensus_errors.StoreFull: ErrorCode.KAFKA_STORAGE_ERROR,
    consensus_errors.Refused: ErrorCode.NOT_LEADER_OR_FOLLOWER,
    consensus_errors.Unknown: ErrorCode.REQUEST_TIMED_OUT,
    consensus_errors.ConsensusError: ErrorCode.UNKNOWN_SERVER_ERROR,
    TimeoutError: ErrorCode.REQUEST_TIMED_OUT,
}
"""A class that is missing counts as its nearest parent. Clients repeat NOT_LEADER_OR_FOLLOWER after asking for metadata
again, and REQUEST_TIMED_OUT as something that may have happened."""

UNAVAILABLE = (errors.Unavailable, errors.Throttled, consensus_errors.Refused, consensus_errors.NotLeader)
"""Certainly not done, and to be repeated; which code says so depends on whom the client would ask again."""


def code_of(error: Exception, *, unavailable: ErrorCode = ErrorCode.NOT_LEADER_OR_FOLLOWER) -> ErrorCode:
    """The code that tells a client of `error`. `unavailable` is said where nobody could be reached, or too much is in
    hand: NOT_LEADER_OR_FOLLOWER for partitions, NOT_CONTROLLER for administration, COORDINATOR_NOT_AVAILABLE for groups
    and transactions."""
    kind = next((kind for kind in type(error).__mro__ if kind in CODES), errors.Internal)
    if kind in UNAVAILABLE:
        return unavailable
    if kind is errors.InvalidRequest and isinstance(error, errors.InvalidRequest):
        if error.field == "topic_name":
            return ErrorCode.INVALID_TOPIC_EXCEPTION
        if error.field in DEFINITIONS:
            return ErrorCode.INVALID_CONFIG
    return CODES[kind]


def message_of(error: Exception) -> str:
    """For the `error_message` of an answer. Nothing of our insides goes into one."""
    if code_of(error) is ErrorCode.UNKNOWN_SERVER_ERROR:
        return "The broker failed to do this; the node's log has the cause."
    return str(error) or type(error).__name__
