"""Every way a request can fail over HTTP, and the one table that turns the broker's errors into answers.

The form is Confluent's: `{"error_code", "message"}`, where the first three digits of the code are the HTTP status.
A message says what is wrong, names the field, and says what to do. Nothing of our insides goes into one.
"""

import math

import msgspec
from aiohttp import web

from raftbroker.broker import errors


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error_code: int
    message: str


class Problem(Exception):
    """A request cannot be served; carries the whole answer. `code` has the HTTP status as its first three digits."""

    def __init__(self, code: int, message: str, *, retry_after: float | None = None, allow: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.allow = allow

    @property
    def status(self) -> int:
        return self.code if self.code < 1000 else self.code // 100


BAD_CONFIG = 40001
BAD_REQUEST = 40002
FORBIDDEN = 40301
NO_TOPIC = 40401
NO_PARTITION = 40402
NO_INSTANCE = 40403
NO_GROUP = 40405
NO_QUEUE = 40406
NO_MESSAGE = 40407
NO_WEBHOOK = 40408
NOT_ACCEPTABLE = 40601
TOPIC_EXISTS = 40902
ILLEGAL_STATE = 40903
LOCK_LOST = 40904
CONFIG_CHANGED = 40905
TOO_LARGE = 413
UNSUPPORTED_MEDIA = 415
OUT_OF_RANGE = 416
BAD_JSON = 42203
BAD_CONSUMER = 42204
BAD_PAYLOAD = 42206
BAD_SERIALIZATION = 42207
BAD_BATCH = 42208
KEY_REUSED = 42209
TOO_MANY = 429
BROKER_FAULT = 50002
UNKNOWN_OUTCOME = 50003
NOT_IMPLEMENTED = 50101
UNAVAILABLE = 50302
STORAGE_FULL = 507

CODES: dict[type[errors.BrokerError], int] = {
    errors.UnknownTopic: NO_TOPIC,
    errors.UnknownPartition: NO_PARTITION,
    errors.UnknownNode: 404,
    errors.UnknownGroup: 404,
    errors.TopicExists: TOPIC_EXISTS,
    errors.InvalidRequest: BAD_REQUEST,
    errors.InvalidConfig: BAD_CONFIG,
    errors.ConfigChanged: CONFIG_CHANGED,
    errors.InvalidTimestamp: BAD_REQUEST,
    errors.InvalidReplicationFactor: BAD_REQUEST,
    errors.InvalidPartitions: BAD_REQUEST,
    errors.RecordTooLarge: TOO_LARGE,
    errors.BadRecords: BAD_PAYLOAD,
    errors.DamagedRecords: BAD_PAYLOAD,
    errors.MissingKey: BAD_PAYLOAD,
    errors.OldRecords: BAD_PAYLOAD,
    errors.OffsetOutOfRange: OUT_OF_RANGE,
    errors.IdempotencyConflict: KEY_REUSED,
    errors.OutOfOrderSequence: ILLEGAL_STATE,
    errors.FencedProducer: ILLEGAL_STATE,
    errors.InvalidTransaction: ILLEGAL_STATE,
    errors.UnknownProducer: ILLEGAL_STATE,
    errors.ChangeRejected: ILLEGAL_STATE,
    errors.UnknownQueue: NO_QUEUE,
    errors.UnknownMessage: NO_MESSAGE,
    errors.UnknownWebhook: NO_WEBHOOK,
    errors.QueueRefused: ILLEGAL_STATE,
    errors.UnknownConsumerGroup: NO_GROUP,
    errors.UnknownInstance: NO_INSTANCE,
    errors.InstanceExists: TOPIC_EXISTS,
    errors.FormatMismatch: NOT_ACCEPTABLE,
    errors.GroupRefused: ILLEGAL_STATE,
    errors.NonEmptyGroup: ILLEGAL_STATE,
    errors.Rejected: BAD_REQUEST,
    errors.Retriable: UNAVAILABLE,
    errors.Throttled: TOO_MANY,
    errors.QueueFull: TOO_MANY,
    errors.StorageFull: STORAGE_FULL,
    errors.Unavailable: UNAVAILABLE,
    errors.TooFewReplicas: UNAVAILABLE,
    errors.LedElsewhere: UNAVAILABLE,
    errors.FencedLeaderEpoch: UNAVAILABLE,
    errors.UnknownLeaderEpoch: UNAVAILABLE,
    errors.UnknownOutcome: UNKNOWN_OUTCOME,
    errors.Internal: BROKER_FAULT,
}
"""The status and code of each of the broker's errors. A test checks that none is missing."""

_RETRY_AFTER_SECONDS = 1.0
_LATER = (TOO_MANY, UNAVAILABLE, STORAGE_FULL)
_UNKNOWN_OUTCOME_HELP = (
    " Whether it was done is unknown: it may still happen. Read before you repeat it; or send records and messages with"
    " an Idempotency-Key header, then repeating the same request is safe and gives the same answer."
)


def problem_of(error: errors.BrokerError) -> Problem:
    """The answer to one of the broker's errors; a class missing from the table counts as its nearest parent."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), BROKER_FAULT)
    message = str(error)
    if isinstance(error, errors.Internal):
        return Problem(code, "The broker failed to do this; the node's log has the cause under this request's id.")
    if isinstance(error, errors.UnknownOutcome):
        message += _UNKNOWN_OUTCOME_HELP
    if isinstance(error, errors.Throttled):
        return Problem(code, message, retry_after=error.retry_after_ms / 1000)
    return Problem(code, message, retry_after=_RETRY_AFTER_SECONDS if code in _LATER else None)


def problem_response(problem: Problem, request_id: str) -> web.Response:
    headers = {"X-Request-Id": request_id}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.allow:
        headers["Allow"] = problem.allow
    body = msgspec.json.encode(ErrorBody(problem.code, problem.message))
    return web.Response(status=problem.status, body=body, content_type="application/json", headers=headers)


def malformed(error: Exception) -> Problem:
    """The answer to a body that does not decode: no JSON at all, or of the wrong shape (names the field's path)."""
    if isinstance(error, msgspec.ValidationError):
        return Problem(
            BAD_PAYLOAD, f"The body does not have the expected form: {error}. See /openapi.json for the form."
        )
    if isinstance(error, RecursionError):
        return Problem(BAD_JSON, "The body is nested too deeply; send flatter JSON.")
    if isinstance(error, UnicodeDecodeError):
        return Problem(BAD_JSON, f"The body is not UTF-8 at byte {error.start}; send JSON as UTF-8.")
    return Problem(BAD_JSON, f"The body is not valid JSON: {error}. Check it with a JSON parser and send it again.")
