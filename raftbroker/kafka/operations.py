"""What a client may do, as Kafka numbers it. There are no permissions yet: everybody may do everything."""

_READ, _WRITE, _CREATE, _DELETE, _ALTER, _DESCRIBE, _CLUSTER_ACTION, _DESCRIBE_CONFIGS, _ALTER_CONFIGS, _IDEMPOTENT = (
    range(3, 13)
)

TOPIC_OPERATIONS = {_READ, _WRITE, _CREATE, _DELETE, _ALTER, _DESCRIBE, _DESCRIBE_CONFIGS, _ALTER_CONFIGS}
GROUP_OPERATIONS = {_READ, _DELETE, _DESCRIBE}
CLUSTER_OPERATIONS = {_CREATE, _ALTER, _DESCRIBE, _CLUSTER_ACTION, _DESCRIBE_CONFIGS, _ALTER_CONFIGS, _IDEMPOTENT}


def mask(operations: set[int]) -> int:
    """As a number, for the messages that have it so."""
    return sum(1 << operation for operation in operations)
