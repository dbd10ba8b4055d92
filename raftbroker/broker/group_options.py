"""What a node that coordinates consumer groups goes by. Times are ms."""

import msgspec


class GroupOptions(msgspec.Struct, frozen=True, kw_only=True):
    session_ms_min: int = 6_000
    """A classic member may ask for a session of this length to `session_ms_max`."""
    session_ms_max: int = 1_800_000
    initial_rebalance_delay_ms: int = 500
    """How long a group that was empty waits after each new member for another one."""
    size_max: int = 1_000
    """Members of one group."""
    offsets_retain_ms: int = 604_800_000
    """How long a group that has no members keeps its offsets."""
    consumer_session_ms: int = 45_000
    """KIP-848: a member that is not heard of for so long is gone."""
    consumer_heartbeat_ms: int = 5_000
    """KIP-848: how often members are told to let themselves be heard of."""
