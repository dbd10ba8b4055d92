"""Group time: the leader's wall clock as it was when it began to lead, carried on by its monotonic clock.

A wall clock that jumps while its node leads therefore moves nothing. Group time never goes back: a new leader whose
clock is behind goes on from the time that is applied, and stands still until its own time has caught up.
"""


class GroupClock:
    """Made anew each time the node begins to lead; clocks are read by the caller."""

    def __init__(self, applied_ms: int, wall_ms: int, monotonic: float) -> None:
        """`applied_ms` is the machine's `time_ms`; `wall_ms` is epoch ms and `monotonic` seconds, both as of now."""
        self._anchor_ms = wall_ms
        self._anchor = monotonic
        self._last_ms = applied_ms

    def now(self, monotonic: float) -> int:
        """Group time in epoch ms; never less than it said before."""
        self._last_ms = max(self._last_ms, self._anchor_ms + int((monotonic - self._anchor) * 1000))
        return self._last_ms
