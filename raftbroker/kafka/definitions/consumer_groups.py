"""ConsumerGroupHeartbeat (68) and ConsumerGroupDescribe (69), the messages of KIP-848; versions 0 and 1 of both."""

from kafka.protocol.api_message import ApiMessage

from raftbroker.kafka import definitions


class ConsumerGroupHeartbeatRequest(ApiMessage, load_json=definitions):
    """A member's heartbeat."""


class ConsumerGroupHeartbeatResponse(ApiMessage, load_json=definitions):
    """The coordinator's answer, with the assignment where it has changed."""


class ConsumerGroupDescribeRequest(ApiMessage, load_json=definitions):
    """Asks for groups by their ids."""


class ConsumerGroupDescribeResponse(ApiMessage, load_json=definitions):
    """The groups with their members and assignments."""
