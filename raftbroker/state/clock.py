"""Group time: the leader's wall clock as it was when it began to lead, carried on by its monotonic clock.

A wall clock that jumps while its node leads therefore moves nothing. Group time never goes back: a new leader whose
clock is behind goes on from the time that is applied, at half speed, until its own time has caught up.

Within a term, differences of group time are what really went by, or less. From one term to the next it may leap
forward by any amount, for the new leader's clock may be wrong, or the old one's was: the machine says what can be
believed across terms (`partition`).
"""


class GroupClock:
    """Made anew each time the node begins to lead; clocks are read by the caller."""

    def __init__(self, applied_ms: int, wall_ms: int, monotonic: float) -> None:
        """`applied_ms` is the machine's `time_ms`; `wall_ms` is epoch ms and `monotonic` seconds, both as of now."""
        self._anchor_ms = wall_ms
        self._anchor = monotonic
        self._applied_ms = self._last_ms = applied_ms

    def now(self, monotonic: float) -> int:
        """Group time in epoch ms; never less than it said before."""
        passed_ms = int((monotonic - self._anchor) * 1000)
        self._last_ms = max(self._last_ms, self._anchor_ms + passed_ms, self._applied_ms + passed_ms // 2)
        return self._last_ms
